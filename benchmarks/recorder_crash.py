"""Kills the recorder at random points and fills its disk, and counts what is lost.

    python benchmarks/recorder_crash.py --kills 100 --out benchmarks/results/<date>-recorder-crash.json

Each time, the real recorder node runs in a process of its own with a camera, a pose and joints that talk to it, records
one short episode after the other and dies by SIGKILL: two times out of three at a random moment, one time while it
commits. Then `repair` runs, and every episode whose end the recorder had confirmed is read back in full with another
library. Every pose in a bag, the last one too, is compared with what was sent under its number. The disk is a tmpfs of
24 MB in a private mount namespace (needs root; left out with a word where that is forbidden).
"""

import argparse
import hashlib
import json
import mmap
import os
import platform
import random
import signal
import statistics
import struct
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POSE, CAMERA = "/robot/current_pose", "/camera/image_raw"
IDLE, RECORDING, ENDING = 0, 1, 2
BLACKBOARD = struct.Struct("<qqqq")  # phase, begin of the episode, newest pose (ns), its number
SENT = struct.Struct("<qq")  # a pose that was sent: its number, its stamp (ns)
BEHIND_S = 0.5  # at most this much of what was sent before the end may be missing at the end of an episode


# The process that is killed ---------------------------------------------------------------------------------------


def child(root: Path, blackboard: Path, seed: int) -> int:
    """Records episode after episode; writes down what the recorder confirmed, and when it published what."""
    import numpy as np
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter

    from openvla_core.types import Pose
    from openvla_ros import conversions, topics
    from openvla_ros.recorder_node import RecorderNode

    rclpy.init()
    chance = random.Random(seed)
    with blackboard.open("r+b") as file:
        board = mmap.mmap(file.fileno(), BLACKBOARD.size)
    confirmed = os.open(root / "confirmed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sent = os.open(blackboard.with_name("sent"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    settings = {"root": str(root), "min_free_gb": 0.0}
    recorder = RecorderNode(parameter_overrides=[Parameter(name, value=value) for name, value in settings.items()])
    peer = rclpy.create_node("peer")
    executor = SingleThreadedExecutor()
    executor.add_node(recorder)
    executor.add_node(peer)
    images = peer.create_publisher(topics.Image, topics.CAMERA_IMAGE, topics.SENSOR)
    poses = peer.create_publisher(topics.PoseStamped, topics.CURRENT_POSE, topics.RECORD)
    joints = peer.create_publisher(topics.JointState, topics.JOINT_STATES, topics.RECORD)
    picture = np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    state = [IDLE, 0, 0, 0]

    def note() -> None:
        board[:] = BLACKBOARD.pack(*state)

    def publish_pose() -> None:
        now_ns = time.time_ns()
        os.write(sent, SENT.pack(state[3] + 1, now_ns))
        position = np.array([float(state[3] + 1), 0.0, 0.0])
        poses.publish(conversions.pose_message(Pose(position, np.array([0.0, 0.0, 0.0, 1.0])), now_ns, "base"))
        joints.publish(conversions.joint_state_message(["a"], np.zeros(1), np.zeros(1), now_ns))
        state[2:] = [now_ns, state[3] + 1]
        note()

    peer.create_timer(0.02, publish_pose)
    peer.create_timer(1 / 15, lambda: images.publish(conversions.image_message(picture, time.time_ns(), "camera")))

    def call(kind, name, **fields) -> tuple[bool, str]:
        client = peer.create_client(kind, f"recorder_node/{name}")
        while not client.service_is_ready():
            executor.spin_once(timeout_sec=0.05)
        future = client.call_async(kind.Request(**fields))
        while not future.done():
            executor.spin_once(timeout_sec=0.05)
        return conversions.replied(future.result())

    while recorder.board.report.code != "READY":
        executor.spin_once(timeout_sec=0.05)
    print("ready", flush=True)
    while True:
        begun, sentence = call(topics.Trigger, "start_episode")
        if not begun:
            print(f"refused {time.time_ns()} {sentence}", flush=True)
            return 0
        state[:2] = [RECORDING, time.time_ns()]
        note()
        end_s = time.monotonic() + chance.uniform(0.3, 1.5)
        while time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.05)
            if recorder.board.report.code == "DISK":
                print(f"disk {time.time_ns()} {recorder.board.report.sentence}", flush=True)
                return 0
        state[0] = ENDING
        newest = state[3]
        note()
        ended, sentence = call(topics.SetBool, "end_episode", data=True)
        if not ended:
            print(f"disk {time.time_ns()} {sentence}", flush=True)
            return 0
        os.write(confirmed, f"{sentence.split()[1].rstrip(':')} {newest}\n".encode())
        state[0] = IDLE
        note()


# The one that kills -----------------------------------------------------------------------------------------------


class Killer:
    """Starts the child over and over on one folder, and looks at the folder after each of its deaths."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.chance = random.Random(seed)
        self.digests: dict[str, str] = {}
        self.lost: set[str] = set()
        self.damaged: dict[str, str] = {}
        self.losses_s: list[float] = []
        self.behind_s: list[
            float
        ] = []  # of confirmed episodes: from the last pose kept to the last sent before the end
        self.compared = 0
        self.phases: dict[str, int] = {}
        self.actions: dict[str, int] = {}
        self.listed_early = 0
        root.mkdir(parents=True, exist_ok=True)
        self.blackboard = root.parent / "blackboard"

    def start(self, seed: int) -> subprocess.Popen:
        """The child, once it is ready to record."""
        self.blackboard.write_bytes(BLACKBOARD.pack(IDLE, 0, 0, 0))
        command = [sys.executable, __file__, "--child", str(self.root), str(self.blackboard), str(seed)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = process.stdout.readline()
        assert line == "ready\n", f"the recorder did not start: {line!r}"
        return process

    def board(self) -> tuple[int, int, int, int]:
        """Phase, begin of the episode, time and number of the newest pose."""
        return BLACKBOARD.unpack(self.blackboard.read_bytes())

    def kill_once(self, index: int) -> None:
        """One life and death of the recorder."""
        process = self.start(index)
        time.sleep(self.chance.uniform(0.0, 2.5))
        if index % 3 == 2:  # while it commits
            deadline_s = time.monotonic() + 20.0
            while self.board()[0] != ENDING and time.monotonic() < deadline_s:
                time.sleep(0.0005)
            time.sleep(self.chance.uniform(0.0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        phase, begun_ns, newest_ns, _ = self.board()
        self.phases[str(phase)] = self.phases.get(str(phase), 0) + 1
        self.look(phase, begun_ns, newest_ns)

    def look(self, phase: int, begun_ns: int, newest_ns: int) -> None:
        """Repairs, and compares the folder with what the recorder had confirmed."""
        from openvla_core.datasets.bags.repair import repair
        from openvla_core.datasets.bags.store import EpisodeStore

        store = EpisodeStore(self.root)
        confirmed, sent = self.confirmed(), self.sent()
        for folder in store.committed():
            if not complete(folder):
                self.listed_early += 1
        for result in repair(self.root):
            self.actions[result.action] = self.actions.get(result.action, 0) + 1
            if result.action == "failed":
                self.damaged[result.name] = result.sentence
            elif phase == RECORDING or result.action == "repaired":
                kept = poses_of(result.folder) if result.action == "repaired" else []
                self.losses_s.append((newest_ns - (kept[-1][1] if kept else begun_ns)) * 1e-9)
        for name in confirmed:
            if not (self.root / name).is_dir():
                self.lost.add(name)
        for folder in store.committed():
            digest = digest_of(folder)
            if folder.name not in self.digests:
                problem = problem_of(folder) or self.compare(folder, sent, confirmed.get(folder.name))
                if problem:
                    self.damaged[folder.name] = problem
            # What was read in full once and has the same bytes need not be read again.
            if self.digests.setdefault(folder.name, digest) != digest:
                self.damaged[folder.name] = "changed after it was committed"

    def confirmed(self) -> dict[str, int]:
        """Episode -> number of the last pose that was sent before its end was asked for."""
        path = self.root / "confirmed.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return {name: int(newest) for name, newest in (line.split() for line in lines)}

    def sent(self) -> dict[int, int]:
        """Number -> stamp of every pose the last child has sent."""
        data = self.blackboard.with_name("sent").read_bytes()
        return dict(SENT.iter_unpack(data[: len(data) // SENT.size * SENT.size]))

    def compare(self, folder: Path, sent: dict[int, int], newest: int | None) -> str:
        """What differs between the poses of a new bag and those that were sent; empty when nothing does."""
        kept = poses_of(folder)
        wrong = [number for number, stamp_ns in kept if sent.get(number) != stamp_ns]
        if wrong:
            return f"pose {wrong[0]} is not what was sent (and {len(wrong) - 1} more)"
        self.compared += len(kept)
        if newest is None or not kept:  # repaired: what is missing at its end is counted as lost
            return ""
        behind_s = max(0.0, (sent[newest] - kept[-1][1]) * 1e-9)
        self.behind_s.append(behind_s)
        return f"ends {behind_s:.2f} s before the last pose sent" if behind_s > BEHIND_S else ""

    def results(self, kills: int) -> dict:
        """The figures."""
        confirmed = self.confirmed()
        losses = sorted(self.losses_s)
        return {
            "kills": kills,
            "killed_while": {
                ["between episodes", "recording", "committing"][int(p)]: n for p, n in self.phases.items()
            },
            "episodes_confirmed": len(confirmed),
            "committed_lost": len(self.lost),
            "committed_damaged": len(self.damaged),
            "damaged": self.damaged,
            "listed_before_complete": self.listed_early,
            "repairs": self.actions,
            "open_episodes": len(losses),
            "open_loss_median_s": round(statistics.median(losses), 4) if losses else None,
            "open_loss_max_s": round(losses[-1], 4) if losses else None,
            "poses_equal_to_those_sent": self.compared,
            "confirmed_end_behind_sent_max_s": round(max(self.behind_s), 4) if self.behind_s else None,
        }


def complete(folder: Path) -> bool:
    """True when the bag ends as a finished one does."""
    (path,) = folder.glob("*.mcap")
    return path.read_bytes()[-8:] == b"\x89MCAP0\r\n"


def problem_of(folder: Path) -> str:
    """What is wrong with a committed bag, read in full with another library; empty when nothing is."""
    from mcap.reader import make_reader
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    counts: dict[str, int] = {}
    numbers = []
    try:
        (path,) = folder.glob("*.mcap")
        with path.open("rb") as file:
            for _ in make_reader(file, validate_crcs=True).iter_messages():
                pass
        with Reader(folder) as reader:
            for connection, _, data in reader.messages():
                counts[connection.topic] = counts.get(connection.topic, 0) + 1
                if connection.topic == POSE:
                    numbers.append(int(store.deserialize_cdr(data, connection.msgtype).pose.position.x))
            listed = {c.topic: c.msgcount for c in reader.connections if c.msgcount}
    except Exception as error:  # noqa: BLE001 - whatever a reader raises means that the bag is damaged
        return f"{type(error).__name__}: {error}"
    if listed != counts:
        return f"metadata says {listed}, the file holds {counts}"
    # A pose that comes twice or is missing: the first may have been published before the recorder listened.
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False:
        return "poses are missing in between"
    return ""


def poses_of(folder: Path) -> list[tuple[int, int]]:
    """Number and stamp (ns) of every pose in a bag."""
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    poses = []
    with Reader(folder) as reader:
        for connection, _, data in reader.messages([c for c in reader.connections if c.topic == POSE]):
            message = store.deserialize_cdr(data, connection.msgtype)
            stamp = message.header.stamp
            poses.append((int(message.pose.position.x), stamp.sec * 10**9 + stamp.nanosec))
    return poses


def digest_of(folder: Path) -> str:
    """SHA-256 over the files of a bag."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


# A full disk ------------------------------------------------------------------------------------------------------


def fill_disk(root: Path) -> dict:
    """Records until the disk is full, in the present mount namespace; what became of the episodes."""
    from openvla_core.datasets.bags.repair import repair
    from openvla_core.datasets.bags.store import EpisodeStore

    killer = Killer(root / "episodes", 0)
    process = killer.start(0)
    word, when_ns, sentence = process.stdout.readline().rstrip("\n").split(" ", 2)
    full_ns = disk_full_since_ns(killer)
    process.wait()
    store = EpisodeStore(killer.root)
    confirmed, sent = killer.confirmed(), killer.sent()
    found = {f.name: problem_of(f) or killer.compare(f, sent, confirmed.get(f.name)) for f in store.committed()}
    problems = {name: problem for name, problem in found.items() if problem}
    result = {
        "told": word,
        "sentence": sentence,
        "told_after_s": round(max(0, int(when_ns) - full_ns) * 1e-9, 3),
        "episodes_confirmed": len(confirmed),
        "committed_lost": sum(not (killer.root / name).is_dir() for name in confirmed),
        "committed_damaged": len(problems),
        "left_open": len(store.left_open()),
    }
    # With space again, what was recorded of the last episode comes back.
    (root / "ballast").unlink()
    repaired = repair(killer.root)
    result["repaired"] = [{"action": one.action, "messages": one.messages} for one in repaired]
    result["repaired_differs"] = [problem for one in repaired if (problem := killer.compare(one.folder, sent, None))]
    return result


def disk_full_since_ns(killer: Killer) -> int:
    """When the open file last grew: the disk has been full since then."""
    files = list((killer.root / ".open").glob("*/*.mcap"))
    return max(path.stat().st_mtime_ns for path in files) if files else time.time_ns()


def disk_full_in_namespace() -> dict:
    """`fill_disk` on a small tmpfs that nobody else sees."""
    script = (
        'd=$(mktemp -d) && mount -t tmpfs -o size=24m none "$d" && head -c 12000000 /dev/zero > "$d/ballast" '
        '&& exec "$@" --fill "$d"'
    )
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, __file__]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        return {"left_out": f"no private mount namespace here: {run.stderr.strip()[-300:]}"}
    return json.loads(run.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when nothing committed was lost or damaged and open episodes lost at most half a second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, help="folder on the disk to test (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--no-disk", action="store_true", help="leave the full disk out")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if options.child:
        return child(Path(options.child[0]), Path(options.child[1]), int(options.child[2]))
    if options.fill:
        print(json.dumps(fill_disk(options.fill)))
        return 0
    from openvla_ros.demo import use_private_graph

    use_private_graph(None)
    import tempfile

    with tempfile.TemporaryDirectory(dir=options.root) as folder:
        killer = Killer(Path(folder) / "episodes", options.seed)
        for index in range(options.kills):
            killer.kill_once(index)
            print(f"\r{index + 1}/{options.kills}", end="", file=sys.stderr, flush=True)
        figures = killer.results(options.kills)
    full = {"left_out": "not asked for"} if options.no_disk else disk_full_in_namespace()
    report = {
        "what": "recorder killed with SIGKILL at random points; disk full",
        "date": date.today().isoformat(),
        "machine": {
            "processors": os.cpu_count(),
            "load": os.getloadavg(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("rosbags", "mcap", "rclpy", "numpy")},
        "seed": options.seed,
        "crash": figures,
        "disk_full": full,
    }
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    bad = figures["committed_lost"] or figures["committed_damaged"] or (figures["open_loss_max_s"] or 0.0) > 0.5
    return int(bool(bad or full.get("committed_lost") or full.get("committed_damaged")))


if __name__ == "__main__":
    sys.exit(main())
