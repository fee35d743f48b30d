"""Who can reach our processes: the environment for each network mode, and a look at the ports that are really open.

Fast DDS takes its transports from an XML file and ROS 2 the range of its search from variables; both are read when the
first node is made. The modes are explained in docs/network.md.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from openvla_core.errors import SecurityError
from openvla_ros.share import share_folder

LOOPBACK, LAN = MODES = ("loopback", "lan")

MODE_VARIABLE = "OPENVLA_NETWORK"
ACCEPT_VARIABLE = "OPENVLA_ACCEPT_OPEN_DDS"
# The first is the name until Fast DDS 2.14, the second the one since.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
RANGE, PEERS = "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_STATIC_PEERS"

OPEN_WARNING = (
    "network:=lan without DDS security: every machine that reaches this one can read the cameras and publish actions "
    "and commands. Use it only on a network of the robot's own; SECURITY.md tells how to close it."
)


def environment(mode: str, env: Mapping[str, str] = os.environ, shared_memory: bool = True) -> dict[str, str]:
    """Variables for a process in this network mode, to be set over `env`. Raises SecurityError for a contradiction.

    Args:
        shared_memory: whether the process may share memory with others. One that does waits, in the middle of sending,
            for a receiver that stopped in the middle of receiving (docs/decisions/controller-without-shared-memory.md).
    """
    if mode not in MODES:
        raise SecurityError(f"{MODE_VARIABLE} is {mode!r}; choose one of {', '.join(MODES)}.")
    values = _loopback(env, shared_memory) if mode == LOOPBACK else _lan(env, shared_memory)
    return {MODE_VARIABLE: mode, **values}


def describe(env: Mapping[str, str] = os.environ) -> str:
    """The mode a process is in, for its diagnostics."""
    mode = env.get(MODE_VARIABLE, "")
    if mode == LAN:
        return "lan, DDS security" if env.get("ROS_SECURITY_ENABLE") == "true" else "lan, open to everybody on it"
    return {LOOPBACK: "this machine only"}.get(mode, "as its shell was set up")


def profile(mode: str, shared_memory: bool = True) -> Path:
    """The Fast DDS profile of a mode."""
    return share_folder() / "config" / f"fastdds_{mode}{'' if shared_memory else '_udp'}.xml"


def _loopback(env: Mapping[str, str], shared_memory: bool) -> dict[str, str]:
    ours = profile(LOOPBACK, shared_memory)
    if not ours.is_file():
        # Fast DDS would print a line about it and open every interface.
        raise SecurityError(f"there is no {ours}, which closes DDS to the network. Install the package again.")
    for name in PROFILE_VARIABLES:
        if env.get(name) and not _is_ours(Path(env[name]), LOOPBACK):
            raise SecurityError(
                f"{name} is {env[name]}, but network:=loopback brings a profile of its own. Unset the variable, or "
                "keep your profile with network:=lan, which leaves it to you who can reach the robot."
            )
    if env.get("ROS_DISCOVERY_SERVER"):
        raise SecurityError(
            "ROS_DISCOVERY_SERVER is set, so that our processes would look for each other there, but network:=loopback "
            "stays on this machine without a server. Unset it, or use network:=lan."
        )
    values = dict.fromkeys(PROFILE_VARIABLES, str(ours))
    # A DEFAULT_FASTRTPS_PROFILES.xml in the working directory would replace ours.
    values["SKIP_DEFAULT_XML_FILE"] = "1"
    # LOCALHOST would add a second UDP transport to the one of the profile, open on all interfaces; with this value the
    # profile alone decides, and static peers are not looked for.
    values[RANGE] = "SYSTEM_DEFAULT"
    if env.get("ROS_LOCALHOST_ONLY"):
        values["ROS_LOCALHOST_ONLY"] = ""  # the older name of LOCALHOST
    return values


def _lan(env: Mapping[str, str], shared_memory: bool) -> dict[str, str]:
    values = {}
    given = {env[name] for name in PROFILE_VARIABLES if env.get(name)}
    if all(_is_ours(Path(path), LOOPBACK) or _is_ours(Path(path), LAN) for path in given):
        values.update(dict.fromkeys(PROFILE_VARIABLES, str(profile(LAN, shared_memory))))
    limited = env.get(RANGE) in ("LOCALHOST", "SYSTEM_DEFAULT", None, "") and not env.get(PEERS)
    if limited:
        values[RANGE] = "SUBNET"
    if env.get("ROS_LOCALHOST_ONLY"):
        values["ROS_LOCALHOST_ONLY"] = ""
    return values


def _is_ours(path: Path, mode: str) -> bool:
    return any(_same(path, profile(mode, shared_memory)) for shared_memory in (True, False))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.read_bytes() == other.read_bytes()
    except OSError:
        return False


@dataclass(frozen=True)
class OpenSocket:
    """A socket of a process that others can send to: a bound UDP socket, or a TCP socket that listens."""

    protocol: str
    address: IPv4Address | IPv6Address
    port: int

    @property
    def reachable(self) -> bool:
        """Whether that can be done from outside this machine."""
        return not (getattr(self.address, "ipv4_mapped", None) or self.address).is_loopback


def reachable_ports(pid: int | str = "self") -> list[str]:
    """Ports of a process that others could send to from outside this machine, such as 'udp 0.0.0.0:7400'.

    Linux only; empty elsewhere.
    """
    return sorted(f"{each.protocol} {each.address}:{each.port}" for each in open_sockets(pid) if each.reachable)


def open_sockets(pid: int | str = "self") -> list[OpenSocket]:
    """What a process listens on, by the kernel's tables. Linux only; empty elsewhere."""
    own = set(_socket_numbers(pid))
    found = []
    for table in ("udp", "udp6", "tcp", "tcp6"):
        path = Path(f"/proc/{pid}/net/{table}")
        for line in path.read_text(encoding="ascii").splitlines()[1:] if path.is_file() else []:
            fields = line.split()
            protocol = table.rstrip("6")
            if fields[9] in own and _is_open(protocol, peer=fields[2], state=fields[3]):
                address, port = fields[1].split(":")
                found.append(OpenSocket(protocol, _address(address), int(port, 16)))
    return found


def _is_open(protocol: str, peer: str, state: str) -> bool:
    """A connected UDP socket hears only its peer; a TCP socket that is connected has been asked for."""
    listening = "0A"
    return state == listening if protocol == "tcp" else int(peer.split(":")[1], 16) == 0


def loopback_routed_on() -> list[str]:
    """Network interfaces on which Linux was told to accept packets for 127.0.0.1 from outside (route_localnet)."""
    switches = Path("/proc/sys/net/ipv4/conf").glob("*/route_localnet")
    return sorted(switch.parent.name for switch in switches if switch.read_text(encoding="ascii").strip() == "1")


def _socket_numbers(pid: int | str) -> Iterator[str]:
    folder = Path(f"/proc/{pid}/fd")
    for descriptor in folder.iterdir() if folder.is_dir() else ():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue  # closed meanwhile, such as the one that lists this folder
        if target.startswith("socket:["):
            yield target[len("socket:[") : -1]


def _address(text: str) -> IPv4Address | IPv6Address:
    """An address as the kernel prints it: words of four bytes, each the wrong way round on a little-endian machine."""
    words = [int(text[i : i + 8], 16).to_bytes(4, "little") for i in range(0, len(text), 8)]
    raw = b"".join(words)
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
