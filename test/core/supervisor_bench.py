"""A supervisor with an arm that follows its commands exactly, on a clock of our own."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvla_core.conventions import load_convention
from openvla_core.supervisor import Supervisor, SupervisorSettings
from openvla_core.types import Pose

CARD = load_convention(Path(__file__).parents[2] / "config/conventions/sim_tabletop.yaml")
SETTINGS = SupervisorSettings(
    max_speed=0.4, max_acceleration=3.0, stop_acceleration=4.0, max_jerk=500.0, stop_jerk=500.0, start_ramp_s=0.0,
    gripper_decisions=1,
)  # fmt: skip
FORWARD = (0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
TICK = 0.02
HOME = Pose(np.array([0.45, 0.0, 0.30]), np.array([1.0, 0.0, 0.0, 0.0]))


@dataclass(frozen=True)
class Chunk:
    stamp_ns: int
    sequence: int
    actions: np.ndarray
    frame: str = "base"
    session_id: str = "first"
    instruction: str = "pick up the red cube"
    convention: str = "sim_tabletop"
    rate_hz: float = 5.0


class Bench:
    """A supervisor, an ideal arm and one clock for both. ROS time runs `ahead_s` ahead of the monotonic clock."""

    def __init__(self, card=CARD, limits=SETTINGS) -> None:
        self.supervisor = Supervisor(limits, card)
        self.now_s = 0.0
        self.ahead_s = 1000.0
        self.sequence = -1
        self.arm = HOME
        self.arm_talks = True
        self.arm_follows = True
        self.sent = []  # one Command or None per tick
        self.supervisor.start(self.now_s)
        self.run(0.6)

    @property
    def ros_ns(self) -> int:
        return round((self.now_s + self.ahead_s) * 1e9)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.now_s += TICK
            self.supervisor.on_clock(self.ros_ns, self.now_s)
            if self.arm_talks:
                self.supervisor.on_pose(self.arm, self.ros_ns, "panda_link0", self.now_s)
            command = self.supervisor.tick(self.now_s)
            self.sent.append(command)
            if command is not None and self.arm_follows:
                self.arm = command.safe.pose

    def push(self, by, speed=0.3) -> None:
        """Moves the arm by hand, at a speed in m/s."""
        by = np.asarray(by, dtype=float)
        steps = max(round(float(np.linalg.norm(by)) / (speed * TICK)), 1)
        for _ in range(steps):
            self.arm = Pose(self.arm.position + by / steps, self.arm.quaternion)
            self.run(TICK)

    def act(self, row=FORWARD, age_s=0.1, **changes) -> None:
        self.sequence += 1
        chunk = Chunk(self.ros_ns - round(age_s * 1e9), self.sequence, np.atleast_2d(np.array(row, dtype=float)))
        self.supervisor.on_chunk(dataclasses.replace(chunk, **changes), self.ros_ns, self.now_s)

    @property
    def verdict(self):
        return self.supervisor.verdict(self.now_s)

    def travel(self, seconds: float) -> float:
        start = self.arm.position
        self.run(seconds)
        return float(np.linalg.norm(self.arm.position - start))
