"""Who can reach the robot: two computers on one cable, and how many of an attacker's messages arrive.

    sudo -E env "PATH=$PATH" python benchmarks/isolation.py

Two network namespaces with their own /dev/shm stand for the computers. On one runs the robot's side with the shipped
settings; from the other, somebody who knows its address sends actions, instructions and target poses. The same with
network:=lan shows that the attack itself works. Needs root, Linux, and the programs ip, unshare and nsenter.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from openvla_core.training.versions import library_versions
from openvla_ros import network

ROOT = Path(__file__).resolve().parents[1]
PEER = Path(__file__).with_name("isolation_peer.py")
ROBOT_ADDRESS, OTHER_ADDRESS = "10.177.31.1", "10.177.31.2"
DOMAIN = "42"

LOOPBACK = {network.MODE_VARIABLE: network.LOOPBACK}
OPEN = {network.MODE_VARIABLE: network.LAN, network.ACCEPT_VARIABLE: "true"}
LOCALHOST = {network.RANGE: "LOCALHOST"}
KNOWS_THE_ADDRESS = {network.PEERS: ROBOT_ADDRESS}


@dataclass(frozen=True)
class Case:
    """One sender and one listener. expected: how many of its messages may arrive: none, some or all (99 %)."""

    name: str
    robot: dict[str, str]
    sender: dict[str, str]
    same_computer: bool = False
    neighbour: bool = False  # another ROS program of the robot's computer listens to the network
    expected: str = "none"

    @property
    def ours(self) -> bool:
        """Whether the robot's side is one of our processes; the rest is plain ROS 2."""
        return network.MODE_VARIABLE in self.robot


CASES = (
    Case("loopback, attacker knows the address", LOOPBACK, KNOWS_THE_ADDRESS),
    Case("loopback, attacker has our open profile too", LOOPBACK, {**KNOWS_THE_ADDRESS, **OPEN}),
    Case("loopback, beside a program open to the network", LOOPBACK, KNOWS_THE_ADDRESS, neighbour=True),
    Case("lan (control)", OPEN, KNOWS_THE_ADDRESS, expected="some"),
    Case("plain ROS 2 with LOCALHOST (control)", LOCALHOST, KNOWS_THE_ADDRESS, expected="some"),
    Case("loopback, plain program on the same computer", LOOPBACK, {}, same_computer=True, expected="all"),
    Case("loopback, LOCALHOST program, same computer", LOOPBACK, LOCALHOST, same_computer=True, expected="all"),
    Case("loopback to loopback, same computer", LOOPBACK, LOOPBACK, same_computer=True, expected="all"),
)
# Settings of the camera and of who watches it.
FILMS = {
    "plain ROS 2": ({}, {}),
    "only the policy in loopback": ({}, LOOPBACK),
    "only the camera in loopback": (LOOPBACK, {}),
    "loopback": (LOOPBACK, LOOPBACK),
    "lan": (OPEN, OPEN),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="messages per topic and case (default 1000)")
    parser.add_argument("--images", type=int, default=300, help="images per mode, at 30 Hz (default 300; 0 for none)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the JSON goes")
    arguments = parser.parse_args()
    missing = what_is_missing()
    if missing:
        print(f"cannot be measured here: {missing}", file=sys.stderr)
        return 2
    with two_computers() as computers:
        rows = []
        for case in CASES:
            rows.append(run_case(computers, case, arguments.count))
            print(row_text(rows[-1]), flush=True)
        films = [run_film(computers, name, arguments.images) for name in FILMS if arguments.images]
        for film in films:
            print(film_text(film), flush=True)
    save(arguments.out, rows, films, arguments)
    wrong = [row["name"] for row in rows if not row["as_expected"]]
    print(f"not as expected: {', '.join(wrong)}" if wrong else "everything as expected")
    return 1 if wrong else 0


def what_is_missing() -> str:
    """Why two computers cannot be pretended here; empty when they can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    missing = [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}; on Debian and Ubuntu: apt install iproute2 util-linux"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True)
    if tried.returncode:
        return f"no right to make network namespaces (run as root): {tried.stderr.strip()}"
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "name", "one", "type", "veth", "peer", "name", "two"],
        capture_output=True,
        text=True,
    )
    return f"no virtual cables (veth): {tried.stderr.strip()}" if tried.returncode else ""


class Computer:
    """A network namespace with its own /dev/shm, held open by one sleeping process."""

    def __init__(self, name: str) -> None:
        self.name = name
        script = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo ready && exec sleep infinity"
        command = ["unshare", "--net", "--mount", "sh", "-c", script]
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if self._holder.stdout is None or self._holder.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the namespaces of {name} could not be made")
        self.pid = self._holder.pid

    def command(self, *words: str) -> list[str]:
        """The same command, on this computer."""
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", f"--wd={ROOT}", *words]

    def run(self, *words: str) -> None:
        """Runs a command here; raises CalledProcessError when it fails."""
        subprocess.run(self.command(*words), check=True)

    def start(self, role: str, env: dict[str, str], ours: bool, **options: float) -> subprocess.Popen:
        """Starts isolation_peer.py here, in an environment without any ROS network settings but `env`."""
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return subprocess.Popen(
            self.command(sys.executable, str(PEER), role, *(["--ours"] if ours else []), *words),
            env={**clean_environment(), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """Switches it off; its network goes with it."""
        self._holder.kill()
        self._holder.wait()


def clean_environment() -> dict[str, str]:
    """Our environment without settings of the network and of security."""
    dropped = ("ROS_AUTOMATIC", "ROS_STATIC", "ROS_LOCALHOST", "ROS_SECURITY", "ROS_DISCOVERY", "FAST", "OPENVLA_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    paths = [str(ROOT), *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "ROS_DOMAIN_ID": DOMAIN, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


@contextlib.contextmanager
def two_computers() -> Iterator[dict[str, Computer]]:
    """The robot's computer and another one, with a cable between them."""
    with contextlib.ExitStack() as stack:
        computers = {}
        for name in ("robot", "other"):
            computers[name] = Computer(name)
            stack.callback(computers[name].close)
        robot, other = computers["robot"], computers["other"]
        robot.run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(other.pid))
        for computer, address in ((robot, ROBOT_ADDRESS), (other, OTHER_ADDRESS)):
            computer.run("ip", "address", "add", f"{address}/24", "dev", "cable")
            computer.run("ip", "link", "set", "cable", "up")
        yield computers


def run_case(computers: dict[str, Computer], case: Case, count: int, patience_s: float = 8.0) -> dict:
    """Runs one case; returns its row."""
    robot = computers["robot"]
    other = robot if case.same_computer else computers["other"]
    with contextlib.ExitStack() as stack:
        neighbour = start_listener(stack, robot, {}, False)[0] if case.neighbour else None
        listener, ready = start_listener(stack, robot, case.robot, case.ours)
        ours = network.MODE_VARIABLE in case.sender
        sender = other.start("send", case.sender, ours, count=count, patience_s=patience_s)
        stack.callback(sender.kill)
        sent = last_line(sender)
        received = last_line(listener)["received"]
        beside = last_line(neighbour)["received"] if neighbour is not None else {}
    least, most = min(received.values()), max(received.values())
    # The neighbour shows that the attack did arrive at the computer; without one, nobody may have been found.
    reached = min(beside.values()) > 0 if beside else not sent["matched"]
    good = {"none": most == 0 and reached, "some": least > 0, "all": least >= 0.99 * count}
    return {
        **asdict(case),
        "count": count,
        "received": received,
        "received_by_neighbour": beside,
        "matched": sent["matched"],
        "reachable_ports": ready["reachable"],
        "as_expected": good[case.expected],
    }


def run_film(computers: dict[str, Computer], name: str, count: int) -> dict:
    """Images of 640 x 480 at 30 Hz between two processes of one computer."""
    robot, (camera_env, watcher_env) = computers["robot"], FILMS[name]
    with contextlib.ExitStack() as stack:
        watcher, _ = start_listener(stack, robot, watcher_env, bool(watcher_env), role="watch")
        camera = robot.start("film", camera_env, bool(camera_env), count=count, rate_hz=30)
        stack.callback(camera.kill)
        last_line(camera)
        return {"name": name, "sent": count, **last_line(watcher)}


def start_listener(stack, computer: Computer, env: dict[str, str], ours: bool, role: str = "listen"):
    """A listener and its first words; ended with the stack."""
    process = computer.start(role, env, ours)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process, json.loads(process.stdout.readline())


def last_line(process: subprocess.Popen) -> dict:
    """What a process says at its end, after its standard input was closed."""
    out, _ = process.communicate(timeout=300)
    return json.loads(out.splitlines()[-1])


def row_text(row: dict) -> str:
    arrived = ", ".join(f"{name} {number}" for name, number in row["received"].items())
    if row["received_by_neighbour"]:
        arrived += f" (the program beside it: {', '.join(map(str, row['received_by_neighbour'].values()))})"
    verdict = "" if row["as_expected"] else "   NOT AS EXPECTED"
    return f"{row['name']:<48} of {row['count']} each: {arrived}; open ports {len(row['reachable_ports'])}{verdict}"


def film_text(film: dict) -> str:
    lost = 1 - film["received"] / film["sent"]
    return (
        f"images 640x480 at 30 Hz, {film['name']:<28} {film['received']} of {film['sent']} ({lost:.0%} lost), "
        f"age median {film['age_median_ms']} ms, p99 {film['age_p99_ms']} ms"
    )


def save(folder: Path, rows: list[dict], films: list[dict], arguments: argparse.Namespace) -> None:
    """Writes the result with what it was measured on."""

    result = {
        "date": datetime.date.today().isoformat(),
        "cases": rows,
        "images": films,
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": library_versions("rclpy", "ros-rmw-fastrtps-cpp", "ros-fastrtps"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['date']}-isolation.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"saved {path}")


if __name__ == "__main__":
    sys.exit(main())
