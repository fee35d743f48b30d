"""Where a person steering by keys wants the tool to be: each key press moves the goal by one small step."""

import numpy as np

from openvla_core import rotations
from openvla_core.types import Pose

AXES = {"x": 0, "y": 1, "z": 2, "roll": 0, "pitch": 1, "yaw": 2}
STEP_M = 0.01
STEP_RAD = 0.05
SPEEDS = (0.25, 0.5, 1.0, 2.0)
# The goal never runs further ahead of the arm than this, so that the arm stops soon after the last key.
LEASH_M = 0.04
LEASH_RAD = 0.2


class JogGoal:
    """The goal pose in the base frame and the gripper opening (0 closed, 1 open). Steps are along the base axes."""

    def __init__(self) -> None:
        self.pose: Pose | None = None
        self.opening = 1.0
        self._speed = SPEEDS.index(1.0)

    @property
    def speed(self) -> float:
        """Share of the ordinary step that a key press moves."""
        return SPEEDS[self._speed]

    def change_speed(self, by: int) -> None:
        """One notch faster (1) or slower (-1)."""
        self._speed = min(max(self._speed + by, 0), len(SPEEDS) - 1)

    def toggle_gripper(self) -> None:
        """Opens a closed gripper and closes an open one."""
        self.opening = 1.0 - self.opening

    def forget(self) -> None:
        """The next measured pose becomes the goal."""
        self.pose = None

    def step(self, axis: str, direction: int) -> None:
        """Moves the goal one step along x, y, z or about them (roll, pitch, yaw); nothing before the first pose."""
        if self.pose is None:
            return
        step = np.zeros(3)
        step[AXES[axis]] = direction * self.speed
        if axis in ("x", "y", "z"):
            self.pose = Pose(self.pose.position + STEP_M * step, self.pose.quaternion)
        else:
            turn = rotations.from_rotation_vector(STEP_RAD * step)
            self.pose = Pose(self.pose.position, rotations.multiply(turn, self.pose.quaternion))

    def near(self, measured: Pose) -> Pose:
        """The goal, drawn in to the leash around the measured pose."""
        if self.pose is None:
            self.pose = measured
        offset = self.pose.position - measured.position
        turn = rotations.rotation_between(measured.quaternion, self.pose.quaternion)
        offset *= min(1.0, LEASH_M / max(float(np.linalg.norm(offset)), 1e-9))
        turn *= min(1.0, LEASH_RAD / max(float(np.linalg.norm(turn)), 1e-9))
        quaternion = rotations.multiply(rotations.from_rotation_vector(turn), measured.quaternion)
        self.pose = Pose(measured.position + offset, quaternion)
        return self.pose
