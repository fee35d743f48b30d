#!/usr/bin/env python3
"""A pretend CRISP Cartesian controller: target_pose in, current_pose out. `python test/fakes/crisp.py --ros-args ...`

As the real one it ignores the frame of a target and drops every target while there is a second publisher. The target
is followed at once, or as by an arm when the parameter `filter` is below 1: that share of the way at every state, and
never faster than an arm is, also when this process has slept.
"""

import sys
import time

import numpy as np
from fake_robot import FakeRobot, declared_pose, run

from openvla_core import rotations
from openvla_ros import conversions, topics

ARM_SPEED = 0.4  # m/s
ARM_ANGULAR_SPEED = 1.6  # rad/s


class FakeCrisp(FakeRobot):
    """Holds the pose it was last told; also says the mode of a Franka robot when franka_msgs is there."""

    def __init__(self, **options) -> None:
        super().__init__("crisp", 100.0, **options)
        self.base_frame = self.declare_parameter("base_frame", "fr3_link0").value
        self.filter = self.declare_parameter("filter", 1.0).value
        self.pose = declared_pose(self, [0.45, 0.0, 0.30], [1.0, 0.0, 0.0, 0.0])
        self.target = self.pose
        self._moved_s = time.monotonic()
        self.received: list[tuple] = []  # (stamp_ns, frame, pose)
        self.dropped = 0
        self._poses = self.create_publisher(topics.PoseStamped, "current_pose", topics.COMMAND)
        self._modes = self._mode_publisher()
        self.listen(topics.PoseStamped, "target_pose", self.on_target, topics.COMMAND)

    def _mode_publisher(self):
        try:
            from franka_msgs.msg import FrankaRobotState
        except ImportError:
            return None
        return self.create_publisher(FrankaRobotState, "franka_robot_state_broadcaster/robot_state", topics.COMMAND)

    def on_target(self, message) -> None:
        """One target pose in the base frame."""
        if self.count_publishers(self.resolve_topic_name("target_pose")) > 1:
            self.dropped += 1
            return
        pose = conversions.to_pose(message)
        self.received.append((conversions.stamp_ns(message), conversions.frame_of(message), pose))
        if self.obeys:
            self.target = pose
            if self.filter >= 1.0:
                self.pose = pose

    def move(self) -> None:
        """One step of the arm towards its target."""
        now_s = time.monotonic()
        passed_s, self._moved_s = now_s - self._moved_s, now_s
        if self.filter >= 1.0 or not self.obeys:
            return
        way = float(np.linalg.norm(self.target.position - self.pose.position))
        turn = float(np.linalg.norm(rotations.rotation_between(self.pose.quaternion, self.target.quaternion)))
        longest = min(ARM_SPEED * passed_s / max(way, 1e-12), ARM_ANGULAR_SPEED * passed_s / max(turn, 1e-12))
        self.pose = rotations.interpolate(self.pose, self.target, min(self.filter, longest))

    def publish_state(self) -> None:
        """The pose and the mode of the robot."""
        self.move()
        now_ns = self.now_ns()
        self.emit(self._poses, conversions.pose_message(self.shown_pose(self.pose), now_ns, self.base_frame))
        if self._modes is not None:
            state = self._modes.msg_type()
            state.robot_mode = state.ROBOT_MODE_REFLEX if self.fault == "reflex" else state.ROBOT_MODE_MOVE
            self._modes.publish(state)


if __name__ == "__main__":
    sys.exit(run(FakeCrisp))
