"""Bags for tests: demonstrations as plain numbers that a test may change before they are written."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from openvla_core import rotations
from openvla_core.datasets.bags.writer import facts_as_custom_data
from openvla_core.training.tiny_checkpoint import tiny_convention

ROOT = Path(__file__).resolve().parents[3]
START_NS = 1_790_000_000_000_000_000
MS = 1_000_000
S = 1_000_000_000
DOWN = (1.0, 0.0, 0.0, 0.0)

CAMERA, RAW, POSE, JOINTS = "/camera/image_raw/compressed", "/camera/image_raw", "/robot/current_pose", "/joint_states"
TARGET, GRIPPER, INSTRUCTION = "/robot/target_pose", "/robot/gripper_command", "/instruction"
APPLIED = "/controller_node/applied_action"
KINDS = {
    CAMERA: "sensor_msgs/msg/CompressedImage",
    RAW: "sensor_msgs/msg/Image",
    POSE: "geometry_msgs/msg/PoseStamped",
    TARGET: "geometry_msgs/msg/PoseStamped",
    JOINTS: "sensor_msgs/msg/JointState",
    GRIPPER: "std_msgs/msg/Float64",
    INSTRUCTION: "std_msgs/msg/String",
    APPLIED: "openvla_ros/msg/AppliedAction",
}


@dataclass
class Note:
    """One message: when it arrived, its header stamp, what it says and in which frame."""

    arrival_ns: int
    stamp_ns: int
    value: object
    frame: str = "panda_link0"


@dataclass
class Tape:
    """A recording before it is written: topic -> notes, and the facts of the episode."""

    name: str
    notes: dict[str, list[Note]] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=lambda: dict(KINDS))

    def add(self, topic: str, stamp_ns: int, value, delay_ns: int = 0, frame: str = "panda_link0") -> None:
        self.notes.setdefault(topic, []).append(Note(stamp_ns + delay_ns, stamp_ns, value, frame))


def typestore():
    """Jazzy's types and our own."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in (ROOT / "msg").glob("*.msg"):
        store.register(get_types_from_msg(path.read_text(), f"openvla_ros/msg/{path.stem}"))
    return store


class Scribe:
    """Turns notes into serialized messages."""

    def __init__(self) -> None:
        self.store = typestore()

    def new(self, kind: str, /, **fields):
        return self.store.types[kind](**fields)

    def time(self, ns: int):
        return self.new("builtin_interfaces/msg/Time", sec=ns // S, nanosec=ns % S)

    def header(self, note: Note):
        return self.new("std_msgs/msg/Header", stamp=self.time(note.stamp_ns), frame_id=note.frame)

    def pose(self, values):
        x, y, z, *q = map(float, values)
        quaternion = dict(zip("xyzw", q, strict=True))
        return self.new(
            "geometry_msgs/msg/Pose",
            position=self.new("geometry_msgs/msg/Point", x=x, y=y, z=z),
            orientation=self.new("geometry_msgs/msg/Quaternion", **quaternion),
        )

    def message(self, kind: str, note: Note):
        value = note.value
        if kind.endswith("CompressedImage"):
            data = np.frombuffer(value if isinstance(value, bytes) else jpeg(value), np.uint8)
            return self.new(kind, header=self.header(note), format="jpeg", data=data)
        if kind.endswith("/Image"):
            encoding, array = value if isinstance(value, tuple) else ("rgb8", value)
            step = array.nbytes // array.shape[0]
            return self.new(
                kind, header=self.header(note), height=array.shape[0], width=array.shape[1], encoding=encoding,
                is_bigendian=0, step=step, data=np.frombuffer(array.tobytes(), np.uint8),
            )  # fmt: skip
        if kind.endswith("PoseStamped"):
            return self.new(kind, header=self.header(note), pose=self.pose(value))
        if kind.endswith("JointState"):
            names, positions = value
            none = np.empty(0)
            position = np.ascontiguousarray(positions, np.float64)
            return self.new(
                kind, header=self.header(note), name=list(names), position=position, velocity=none, effort=none
            )
        if kind.endswith("AppliedAction"):
            row = np.asarray(value, np.float64)
            return self.new(
                kind, header=self.header(note), session_id="s", sequence=0, image_stamp=self.time(note.stamp_ns),
                photon_to_command_s=0.1, translation=row[:3], rotation=row[3:6], gripper=float(row[6]), clipped=False,
                reasons=[],
            )  # fmt: skip
        return self.new(kind, data=value)

    def write(self, tape: Tape, root: Path, plugin=StoragePlugin.MCAP) -> Path:
        """The bag as a folder of root."""
        folder = root / tape.name
        writer = Writer(folder, version=9, storage_plugin=plugin)
        with writer:
            rows = [(note.arrival_ns, topic, note) for topic, notes in tape.notes.items() for note in notes]
            kinds = tape.kinds
            connections = {
                topic: writer.add_connection(topic, kinds[topic], typestore=self.store) for topic in tape.notes
            }
            for arrival, topic, note in sorted(rows, key=lambda row: row[0]):
                data = self.store.serialize_cdr(self.message(kinds[topic], note), kinds[topic])
                writer.write(connections[topic], arrival, bytes(data))
            for key, value in facts_as_custom_data(tape.facts).items():
                writer.set_custom_data(key, value)
        return folder


def jpeg(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def facts(instruction: str, **others) -> dict:
    return {
        "instruction": instruction, "outcome": "success", "operator": "ada", "robot": "sim",
        "convention": tiny_convention(), "started": "2026-11-22T10:00:00Z", "version": "0.1.0", **others,
    }  # fmt: skip


class Sketch:
    """Paints the tool and a cube as seen from the side camera of a drawn cell."""

    def __init__(self, rng: np.random.Generator, size: int = 96) -> None:
        self.size = size
        grain = rng.integers(60, 190, (size // 4, size // 4, 1), dtype=np.uint8) * np.array([1.0, 0.8, 0.55])
        grain = grain.astype(np.uint8)  # wood: more red than blue
        self.table = cv2.resize(grain, (size, size), interpolation=cv2.INTER_LINEAR)
        self.rng = rng

    def place(self, point: np.ndarray) -> tuple[int, int]:
        column = self.size * (point[1] + 0.3) / 0.6
        return int(column), int(self.size * (0.75 - point[0] - 0.4 * point[2]) / 0.5 + 10)

    def __call__(self, tool: np.ndarray, opening: float, cube: np.ndarray) -> np.ndarray:
        picture = self.table.copy()
        x, y = self.place(cube)
        cv2.rectangle(picture, (x - 5, y - 5), (x + 5, y + 5), (200, 40, 40), -1)
        x, y = self.place(tool)
        gap = int(2 + 5 * opening)
        for side in (-gap, gap):
            cv2.rectangle(picture, (x + side - 3, y - 14), (x + side + 3, y + 6), (240, 240, 235), -1)
            cv2.rectangle(picture, (x + side - 3, y - 14), (x + side + 3, y + 6), (30, 30, 30), 1)
        noise = self.rng.normal(0, 1.0, picture.shape)
        return np.clip(picture + noise, 0, 255).astype(np.uint8)


def demonstration(seed: int, name: str = "", camera_hz: float = 15.0, **changed_facts) -> Tape:
    """A pick of the drawn cell: approach, grasp, lift, with noise of sensors, clocks and hand. About six seconds."""
    rng = np.random.default_rng(seed)
    start = np.array([rng.uniform(0.42, 0.58), rng.uniform(-0.15, 0.15), rng.uniform(0.20, 0.28)])
    cube = np.array([rng.uniform(0.42, 0.6), rng.uniform(-0.15, 0.15), 0.02])
    color = ("red", "green", "blue", "yellow")[seed % 4]
    tape = Tape(name or f"episode_{seed:04d}", facts=facts(f"pick up the {color} cube", **changed_facts))
    begin = START_NS + seed * 100 * S
    sketch = Sketch(rng)
    tape.add(INSTRUCTION, begin - 200 * MS, tape.facts["instruction"])
    tool, velocity, opening = start.copy(), np.zeros(3), 1.0
    waypoints = [cube + [0, 0, 0.10], cube, cube, [cube[0], cube[1], 0.22]]
    leg, waited, done = 0, 0.0, 0.0
    period, next_frame = 0.02, 0.0
    command = 1.0
    sway, phases = rng.uniform(0.01, 0.06, 3), rng.uniform(0, 6.28, 3)  # a hand never holds still
    for tick in range(1000):
        t = tick * period
        goal = np.asarray(waypoints[leg])
        if leg == 2:
            command = 0.0
            waited += period
        wish = (goal - tool) * 3.0
        speed = float(np.linalg.norm(wish))
        wish *= min(1.0, 0.18 / speed) if speed > 0 else 0.0
        velocity += np.clip(wish - velocity, -0.02, 0.02) + rng.normal(0, 0.0008, 3)
        target = tool + velocity * 0.1
        tool = tool + velocity * period
        opening += float(np.clip((0.5 if command < 0.5 else 1.0) - opening, -0.05, 0.05))
        near = float(np.linalg.norm(goal - tool)) < 0.01
        if (leg != 2 and near and leg < 3) or (leg == 2 and waited > 0.5):
            leg += 1
        done += period if leg == 3 and near else 0.0
        stamp = begin + int(t * S) + int(rng.integers(-1 * MS, 1 * MS))
        delay = int(rng.integers(1 * MS, 4 * MS))
        held = tool if leg == 3 else cube
        turn = sway * np.sin(t * 1.5 + phases) + rng.normal(0, 2e-4, 3)
        hand = rotations.multiply(rotations.from_rotation_vector(turn), np.array(DOWN))
        tape.add(POSE, stamp, np.array([*(tool + rng.normal(0, 1e-4, 3)), *hand]), delay)
        tape.add(TARGET, stamp, np.array([*target, *hand]), delay)
        tape.add(GRIPPER, stamp, command, delay)
        fingers = opening * 0.04 + rng.normal(0, 2e-5, 2)
        tape.add(JOINTS, stamp, (["panda_finger_joint1", "panda_finger_joint2"], fingers), delay)
        if t >= next_frame:
            picture = sketch(tool, opening, held)
            tape.add(
                CAMERA, stamp + int(rng.integers(0, 2 * MS)), picture, int(rng.integers(8 * MS, 20 * MS)), "camera"
            )
            next_frame += 1.0 / camera_hz
        if done > 0.2:
            break
    return tape


def simulated(seed: int, name: str = "", camera_hz: float = 10.0) -> Tape:
    """One episode of the simulator's own expert, disturbed a little, recorded as the running system would."""
    from openvla_core.sim.expert import expert_action
    from openvla_core.sim.tabletop import TabletopSim
    from openvla_core.sim.tasks import COLORS, Judge, Task
    from openvla_core.types import Pose

    rng = np.random.default_rng(seed)
    sim = TabletopSim()
    try:
        sim.reset(seed)
        task = Task("pick", COLORS[seed % len(COLORS)])
        judge = Judge(task)
        tape = Tape(name or f"sim_{seed:04d}", facts=facts(task.sentence(0)))
        begin = START_NS + seed * 100 * S
        tape.add(INSTRUCTION, begin - 200 * MS, tape.facts["instruction"])
        target, command, after = sim.tcp_pose(), 1.0, 0
        every = round(50 / camera_hz)
        for tick in range(50 * 14):
            stamp = begin + tick * 20 * MS + int(rng.integers(-MS, MS))
            delay = int(rng.integers(MS, 4 * MS))
            pose = sim.tcp_pose()
            names, positions, _ = sim.joint_state()
            if tick % 10 == 0:
                row = expert_action(
                    task, pose.position, sim.gripper_opening(), sim.object_positions()[task.object_name]
                )
                step = row[:3] + rng.normal(0, 0.002, 3)
                target, command = Pose(pose.position + step, np.array(DOWN)), float(row[6] > 0.5)
                sim.set_gripper(command)
            tape.add(POSE, stamp, np.array([*(pose.position + rng.normal(0, 1e-4, 3)), *pose.quaternion]), delay)
            tape.add(JOINTS, stamp, (names, positions + rng.normal(0, 1e-5, 9)), delay)
            tape.add(TARGET, stamp, np.array([*target.position, *target.quaternion]), delay)
            tape.add(GRIPPER, stamp, command, delay)
            if tick % every == 0:
                tape.add(CAMERA, stamp, sim.render("policy").copy(), int(rng.integers(8 * MS, 20 * MS)), "camera")
            # The arm's own controller glides to the target over one period, as the 50 Hz stream of the real one does.
            current = sim.tcp_pose().position
            sim.set_target(Pose(current + np.clip(target.position - current, -0.012, 0.012), np.array(DOWN)))
            sim.step(0.02)
            judge.update(sim.tcp_pose().position, sim.gripper_opening(), sim.object_positions(), sim.time_s)
            after += judge.success
            if after > 20:
                break
        tape.facts["outcome"] = "success" if judge.success else "failure"
        return tape
    finally:
        sim.close()
