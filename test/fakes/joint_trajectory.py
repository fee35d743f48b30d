#!/usr/bin/env python3
"""A pretend joint_trajectory_controller of ros2_control on a Franka Research 3, with its joint states.

As the real one it takes a trajectory only when it names exactly its joints, and refuses one that ends in the past.
"""

import sys

import numpy as np
from fake_robot import run
from joint_robot import JointRobot

from openvla_ros import conversions, topics

HOME = [0.0, -0.785398, 0.0, -2.356194, 0.0, 1.570796, 0.785398]


class FakeJointTrajectory(JointRobot):
    """Moves to the last point of the newest trajectory, in its time."""

    def __init__(self, **options) -> None:
        joints = {f"fr3_joint{i + 1}": angle for i, angle in enumerate(HOME)}
        super().__init__("fr3_arm_controller", joints, "joint_states", **options)
        self.received: list[tuple] = []  # (stamp_ns, joint names, positions (7,), time_from_start_ns)
        self.refused = 0
        self.listen(topics.JointTrajectory, "~/joint_trajectory", self.on_trajectory, topics.COMMAND)

    def on_trajectory(self, message) -> None:
        """One trajectory."""
        stamp_ns = conversions.stamp_ns(message)
        point = message.points[-1]
        duration_ns = conversions.to_ns(point.time_from_start)
        if set(message.joint_names) != set(self.names) or (stamp_ns and stamp_ns + duration_ns < self.now_ns()):
            self.refused += 1
            return
        given = dict(zip(message.joint_names, point.positions, strict=True))
        positions = np.array([given[name] for name in self.names])
        self.received.append((stamp_ns, tuple(message.joint_names), positions, duration_ns))
        self.move_to(positions, duration_ns * 1e-9)


if __name__ == "__main__":
    sys.exit(run(FakeJointTrajectory))
