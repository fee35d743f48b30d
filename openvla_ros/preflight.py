"""Refuses to start where a protection that somebody asked for would silently be missing.

ROS 2 fails open in several ways: a misspelt value of ROS_SECURITY_ENABLE, the default strategy with a missing key, a
Fast DDS profile that cannot be read. Every process of ours calls `enter` before rclpy.init and `verify` once its node
exists; the launch files and `openvla up` call `check` before they start anything.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import rclpy
from rclpy.node import Node

from openvla_core.errors import SecurityError
from openvla_ros import network

ENABLE = "ROS_SECURITY_ENABLE"
STRATEGY = "ROS_SECURITY_STRATEGY"
KEYSTORE = "ROS_SECURITY_KEYSTORE"
OVERRIDE = "ROS_SECURITY_ENCLAVE_OVERRIDE"
# What an enclave must hold for ROS 2 to use it.
ENCLAVE_FILES = (
    "identity_ca.cert.pem",
    "cert.pem",
    "key.pem",
    "permissions_ca.cert.pem",
    "governance.p7s",
    "permissions.p7s",
)


def check(
    mode: str, accept_open_dds: bool, env: Mapping[str, str] = os.environ, shared_memory: bool = True
) -> dict[str, str]:
    """Checks a network mode and the security settings in `env`; nothing is started.

    Returns:
        Variables to set for every process. Raises SecurityError where something would be left open by mistake.
    """
    values = network.environment(mode, env, shared_memory)
    secured = check_security(env)
    if mode == network.LAN and not secured and not accept_open_dds:
        raise SecurityError(
            "network:=lan lets every machine that reaches this one read the cameras and command the robot. Configure "
            "DDS security (SECURITY.md: ROS_SECURITY_ENABLE=true, ROS_SECURITY_STRATEGY=Enforce, "
            "ROS_SECURITY_KEYSTORE), or say accept_open_dds:=true on a network of the robot's own."
        )
    return {**values, network.ACCEPT_VARIABLE: str(accept_open_dds).lower()}


def check_security(env: Mapping[str, str] = os.environ, enclave: str | None = None) -> bool:
    """Whether DDS security is asked for, in a way that ROS 2 takes seriously. Raises SecurityError when it is not.

    Args:
        enclave: also check the keys of this enclave, such as "/openvla/policy_node".
    """
    enabled, strategy = env.get(ENABLE, ""), env.get(STRATEGY, "")
    if enabled not in ("", "true", "false"):
        raise SecurityError(
            f"{ENABLE} is {enabled!r}. ROS 2 takes anything but exactly 'true' for off and would run unprotected. "
            "Set it to true, or unset it."
        )
    if enabled != "true":
        if strategy and not enabled:
            raise SecurityError(
                f"{STRATEGY} is {strategy!r} but {ENABLE} is not set, so nothing would be protected. "
                f"Set {ENABLE}=true, or unset {STRATEGY}."
            )
        return False
    if strategy != "Enforce":
        raise SecurityError(
            f"{STRATEGY} is {strategy!r}. Anything but exactly 'Enforce' lets a node without keys run unprotected. "
            f"Set {STRATEGY}=Enforce."
        )
    keystore = Path(env.get(KEYSTORE, ""))
    if not env.get(KEYSTORE) or not (keystore / "enclaves").is_dir():
        raise SecurityError(
            f"{KEYSTORE} is {env.get(KEYSTORE, '')!r}, which is no keystore (a folder with enclaves/ in it). "
            "Make one as SECURITY.md tells and name it there."
        )
    if enclave is not None:
        _check_enclave(keystore, env.get(OVERRIDE) or enclave)
    return True


def _check_enclave(keystore: Path, enclave: str) -> None:
    folder = keystore / "enclaves" / enclave.strip("/")
    missing = [name for name in ENCLAVE_FILES if not _readable(folder / name)]
    if missing:
        raise SecurityError(
            f"enclave {enclave} of the keystore {keystore} has no readable {', '.join(missing)}. "
            f"Make its keys: ros2 security create_enclave {keystore} {enclave}, then its permissions (SECURITY.md)."
        )


def _readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def enter(args: Sequence[str] | None = None, shared_memory: bool = True) -> None:
    """Puts this process into its network mode, loopback unless OPENVLA_NETWORK says otherwise. Before rclpy.init.

    Raises SecurityError where that, or the security that was asked for, cannot be had.

    Args:
        shared_memory: as for network.environment.
    """
    mode = os.environ.get(network.MODE_VARIABLE) or network.LOOPBACK
    accepted = os.environ.get(network.ACCEPT_VARIABLE) == "true"
    os.environ.update(check(mode, accepted, shared_memory=shared_memory))
    enclave = enclave_of(sys.argv if args is None else args)
    if check_security(enclave=enclave):
        probe_security(enclave)


def enclave_of(args: Sequence[str]) -> str:
    """The enclave that ROS arguments name; "/" when they name none."""
    for flag, value in zip(args, args[1:], strict=False):
        if flag in ("--enclave", "-e"):
            return value
    return "/"


def probe_security(enclave: str) -> None:
    """Makes a node in this enclave and ends it. Raises SecurityError when this ROS 2 cannot protect it."""
    context = rclpy.Context()
    try:
        rclpy.init(args=["--ros-args", "--enclave", enclave], context=context)
        rclpy.create_node("openvla_preflight", context=context, start_parameter_services=False).destroy_node()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        advice = "Check the keystore."
        if "security libraries" in reason:
            advice = "Use a ROS 2 built with DDS security, such as the apt packages; the pip wheels have none."
        raise SecurityError(f"{ENABLE} is true, but no protected node can be made here: {reason}. {advice}") from None
    finally:
        rclpy.try_shutdown(context=context)


def verify(node: Node) -> None:
    """Looks at the ports that are really open, once the node exists, and warns about a network left open on purpose.

    Raises SecurityError when the process can be reached from outside in loopback mode.
    """
    mode = os.environ.get(network.MODE_VARIABLE)
    if mode == network.LAN and not check_security():
        node.get_logger().warning(network.OPEN_WARNING)
    if mode != network.LOOPBACK:
        return
    if network.loopback_routed_on():
        node.get_logger().warning(
            f"route_localnet is on for {', '.join(network.loopback_routed_on())}: machines of that network can reach "
            "127.0.0.1 here, and with it this robot, unless a firewall stops them."
        )
    reachable = network.reachable_ports()
    if reachable:
        raise SecurityError(
            f"network:=loopback, but this process listens on {', '.join(reachable)}: others could command the robot. "
            f"The profile works with rmw_fastrtps_cpp, and this is {rclpy.get_rmw_implementation_identifier()}; "
            "docs/network.md lists what else can be in the way. network:=lan leaves it open knowingly."
        )
