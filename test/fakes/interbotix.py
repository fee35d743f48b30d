#!/usr/bin/env python3
"""A pretend xs_sdk node of a WidowX 250s: joint_group and joint_single in, joint_states out.

As the real one it ignores a group command of the wrong length, and each motor takes the time of its profile to get
where it is told: 2 s until set_operating_modes says otherwise.
"""

import sys

import numpy as np
from fake_robot import run
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from interbotix_xs_msgs.srv import OperatingModes
from joint_robot import JointRobot

HOME = {  # the gripper points down, 0.28 m in front of the base
    "waist": 0.0, "shoulder": -0.2, "elbow": 0.2, "forearm_roll": 0.0, "wrist_angle": 1.4, "wrist_rotate": 0.0,
}  # fmt: skip
FINGERS = (0.015, 0.037)  # m from the middle, closed and open


class FakeInterbotix(JointRobot):
    """Six joints and a gripper."""

    def __init__(self, **options) -> None:
        super().__init__("xs_sdk", HOME, "joint_states", **{"namespace": "wx250s", **options})
        self.groups: list[tuple] = []  # (name, command (n,) float64)
        self.singles: list[tuple] = []  # (name, command)
        self.modes: list = []  # requests of set_operating_modes
        self.finger = FINGERS[1]
        self.gripper_mode = "pwm"
        self.profile_ms = 2000
        self.listen(JointGroupCommand, "commands/joint_group", self.on_group, 10)
        self.listen(JointSingleCommand, "commands/joint_single", self.on_single, 10)
        self.create_service(OperatingModes, "set_operating_modes", self.on_modes)

    def on_modes(self, request, response):
        """Sets modes and profiles; the real one answers nothing, whatever it did."""
        self.modes.append(request)
        if (request.cmd_type, request.name) == ("group", "arm") and request.profile_type == "time":
            self.profile_ms = request.profile_velocity
        if (request.cmd_type, request.name) == ("single", "gripper"):
            self.gripper_mode = request.mode
        return response

    def on_group(self, message) -> None:
        """Angles for the arm."""
        command = np.array(message.cmd, dtype=np.float64)
        self.groups.append((message.name, command))
        if message.name == "arm" and len(command) == len(self.names):
            self.move_to(command, self.profile_ms * 1e-3)

    def on_single(self, message) -> None:
        """A command for the gripper: the gap between the fingers, or its pwm."""
        self.singles.append((message.name, message.cmd))
        if message.name == "gripper" and self.obeys:
            wanted = message.cmd / 2 if self.gripper_mode == "linear_position" else FINGERS[message.cmd > 0]
            self.finger = min(max(wanted, FINGERS[0]), FINGERS[1])

    def others(self) -> dict[str, float]:
        """The gripper's motor and both fingers."""
        return {"gripper": 0.0, "left_finger": self.finger, "right_finger": -self.finger}


if __name__ == "__main__":
    sys.exit(run(FakeInterbotix))
