"""What the controller node hears: poses, actions, the instruction, the emergency stop, and who else is there."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from openvla_core.errors import ActionError
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.guard import guarded
from openvla_ros.live_publishers import LivePublishers
from openvla_ros.robot_pose import RobotPose
from openvla_ros.timing import one_moment, steady_timer

if TYPE_CHECKING:
    from openvla_ros.controller_node import ControllerNode

GRAPH_CHECK_S = 0.1


class ControllerInputs:
    """Turns messages into facts for the supervisor."""

    def __init__(self, node: "ControllerNode") -> None:
        self._node = node
        self._robot_pose = RobotPose(node, node.settings, self)
        # Twice: a volatile publisher reaches only the first, what a latched one said before we started only the second.
        for quality in (topics.RECORD, topics.LATCHED):
            node.create_subscription(topics.Bool, topics.ESTOP, self._on_estop, quality)
        node.create_subscription(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, self._on_chunk, topics.COMMAND)
        node.create_subscription(topics.String, topics.POLICY_INSTRUCTION, self._on_instruction, topics.LATCHED)
        self._policies = LivePublishers(node, topics.ActionChunk, topics.POLICY_ACTION_CHUNK, topics.ACTION_LEASE_S)
        steady_timer(node, GRAPH_CHECK_S, self._check_graph)

    def on_unexpected(self) -> None:
        """Called in the handler of an exception that nobody foresaw."""
        self._node.on_unexpected()

    @guarded
    def take_poses(self) -> None:
        """Reads the poses that have come since the last time; a clock that was set in between is noticed before."""
        if self._node.supervisor is not None:
            self._node.supervisor.on_clock(*one_moment(self._node.now_ns))
        self._robot_pose.take()

    def on_pose(self, pose: Pose, stamp_ns: int, frame: str, arrived_s: float) -> None:
        """Called with every measured pose."""
        if self._node.supervisor is not None:
            self._node.supervisor.on_pose(pose, stamp_ns, frame, arrived_s)

    def on_invalid_pose(self, reason: str) -> None:
        """Called with every message of the measured pose that holds none."""
        self._node.get_logger().warning(reason, throttle_duration_sec=1.0)
        if self._node.supervisor is not None:
            self._node.supervisor.on_invalid_pose()

    @guarded
    def _on_chunk(self, message) -> None:
        supervisor = self._node.supervisor
        if supervisor is None:
            return
        self._check_graph()
        self.take_poses()  # the image may be younger than those of the last tick
        try:
            chunk = conversions.to_chunk(message)
        except ActionError as error:
            supervisor.on_malformed(str(error))
            return
        supervisor.on_chunk(chunk, *one_moment(self._node.now_ns))

    @guarded
    def _on_instruction(self, message) -> None:
        if self._node.supervisor is not None:
            self._node.supervisor.on_instruction(conversions.to_text(message))

    @guarded
    def _on_estop(self, message) -> None:
        pressed = conversions.to_flag(message)
        self.press(lambda: self._node.estop.on_topic(pressed, time.monotonic()))  # also without a card

    def press(self, change: Callable[[], None]) -> None:
        """Changes the emergency stop; when that stops the arm, braking begins at once and not with the next tick."""
        before = self._node.estop.verdict(time.monotonic())
        change()
        if self._node.estop.verdict(time.monotonic()) and not before:
            self._node.tick()

    @guarded
    def _check_graph(self) -> None:
        self.press(lambda: self._node.estop.on_sources(self._node.count_publishers(topics.ESTOP)))
        if self._node.supervisor is not None:
            self._node.supervisor.on_publishers(self._policies.count(), time.monotonic())
