"""From the commanded pose to joint angles, for robots that take angles: continuous, or not at all."""

import time

import numpy as np
from rclpy.node import Node

from openvla_core.arm_kinematics import load_arm
from openvla_core.errors import ConfigError, KinematicsError
from openvla_core.types import Pose, Problem, SafeAction
from openvla_ros import conversions, topics

STALE_S = 0.5
FAILURES = 5  # in a row: it does not come back by itself
LONGEST_TICK_S = 0.05
GAP_S = 0.1  # without commands for longer than this, the arm may have been moved by somebody else
# rad the joints may trail the commanded pose where it asks more speed of them than they are allowed, and the measured
# angles the commanded ones
MAX_LAG = 0.25
# rad between the measured angles and those of a pose that the arm is said to have: latencies and sag, not a motion
NEAR_MEASURED = 0.05


class JointSolver:
    """Each answer is within reach of the last at the allowed joint speed; where that is too slow, the arm trails.

    The first one, and one after a gap or a restart of the stream, is near the measured angles instead: the arm may have
    been moved by hand since, also to another posture of the same pose.
    """

    def __init__(self, node: Node, arm: str, joint_states: str, max_speed: float, rate_hz: float) -> None:
        """max_speed: rad/s of any joint. Raises ConfigError when the arm is not set, KinematicsError when unknown."""
        if not arm:
            raise ConfigError(
                "this backend commands joints. Set arm to the name of the robot's arm, such as fr3 or wx250s."
            )
        self._arm = load_arm(arm)
        self.names = self._arm.joint_names
        self._speed = np.minimum(self._arm.joint_speed, max_speed)
        self._period_s = 1.0 / rate_hz
        self._node = node
        self._measured: np.ndarray | None = None
        self._measured_s = float("-inf")
        self._last: np.ndarray | None = None
        self._asked_ns = 0
        self._made_s = time.monotonic()
        self._failures = 0
        self._reason = ""
        self._subscription = node.create_subscription(topics.JointState, joint_states, self._on_joints, topics.SENSOR)

    def _on_joints(self, message) -> None:
        # A message with other joints only, such as the gripper's, says nothing about the arm.
        measured = conversions.to_joint_positions(message, self.names)
        if measured is not None:
            self._measured, self._measured_s = measured, time.monotonic()

    def solve(self, command: SafeAction, stamp_ns: int) -> np.ndarray | None:
        """Joint angles (n,) rad to send for the pose; None when there are none near, and nothing is to be sent."""
        elapsed_s, self._asked_ns = (stamp_ns - self._asked_ns) * 1e-9, stamp_ns
        if self._measured is None or self._is_silent():
            self.forget()
            return None
        if command.restarted or not 0.0 < elapsed_s <= GAP_S or self._is_elsewhere(self._measured):
            self.forget()
        try:
            self._last = self._solution(command.pose, self._measured, elapsed_s)
        except KinematicsError as error:
            self._failures += 1
            self._reason = str(error)
            return None
        self._failures = 0
        return self._last

    def _is_elsewhere(self, measured: np.ndarray) -> bool:
        return self._last is not None and bool(np.abs(self._last - measured).max() > MAX_LAG)

    def _solution(self, pose: Pose, measured: np.ndarray, elapsed_s: float) -> np.ndarray:
        if self._last is None:
            return self._arm.inverse(pose, measured, NEAR_MEASURED)
        wanted = self._arm.inverse(pose, self._last, MAX_LAG)
        elapsed_s = min(max(elapsed_s, self._period_s), LONGEST_TICK_S)
        way = wanted - self._last
        share = float(np.min(self._speed * elapsed_s / np.maximum(np.abs(way), 1e-12)))
        return wanted if share >= 1.0 else self._last + share * way

    def _is_silent(self) -> bool:
        return time.monotonic() - self._measured_s > STALE_S

    def problem(self) -> Problem | None:
        """JOINTS_STALE without joint states, IK_FAIL after a failure; latched after five in a row."""
        if self._failures:
            return Problem("IK_FAIL", f"no joint angles for the pose: {self._reason}", self._failures >= FAILURES)
        if self._is_silent() and time.monotonic() - self._made_s > STALE_S:
            topic = self._subscription.topic_name
            names = ", ".join(self.names)
            return Problem(
                "JOINTS_STALE", f"no positions of {names} on {topic} within {STALE_S:g} s; check the driver."
            )
        return None

    def forget(self) -> None:
        """The next answer starts from the measured angles."""
        self._last = None

    def reset(self) -> None:
        """Starts again from the measured angles, and forgets failures."""
        self._failures = 0
        self.forget()

    def close(self) -> None:
        """Stops listening."""
        self._node.destroy_subscription(self._subscription)
