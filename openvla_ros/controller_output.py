"""What the controller node says: commands to the robot, the same for people to see, and what became of each action."""

from typing import TYPE_CHECKING

from openvla_core.supervisor import Accepted, Command
from openvla_ros import conversions, topics
from openvla_ros.conversions import Applied
from openvla_ros.guard import guarded

if TYPE_CHECKING:
    from openvla_ros.controller_node import ControllerNode


class ControllerOutput:
    """Sends what the supervisor decided."""

    def __init__(self, node: "ControllerNode") -> None:
        self._node = node
        self._applied = node.create_publisher(topics.AppliedAction, topics.APPLIED_ACTION, topics.RECORD)
        self._commanded = node.create_publisher(topics.PoseStamped, topics.COMMANDED_POSE, topics.COMMAND)
        self.holds = 0  # commands at rest, one after the other

    def on_unexpected(self) -> None:
        """Called in the handler of an exception that nobody foresaw."""
        self._node.on_unexpected()

    def send(self, command: Command, stamp_ns: int) -> None:
        """One command: first to the robot, then to whoever looks on."""
        if not self._node.dry_run:
            self._send_to_robot(command, stamp_ns)
        frame = self._node.settings.base_frame
        self._commanded.publish(conversions.pose_message(command.safe.pose, stamp_ns, frame))
        moves = command.safe.velocity.any() or command.safe.angular_velocity.any()
        self.holds = 0 if moves else self.holds + 1
        if command.started is not None:
            self._report(command.started, stamp_ns)

    @guarded
    def _send_to_robot(self, command: Command, stamp_ns: int) -> None:
        assert self._node.backend is not None
        self._node.backend.send(command.safe, stamp_ns)

    def _report(self, action: Accepted, stamp_ns: int) -> None:
        applied = Applied(
            stamp_ns=stamp_ns,
            frame=self._node.settings.base_frame,
            session_id=action.session_id,
            sequence=action.sequence,
            image_stamp_ns=action.image_stamp_ns,
            translation=action.translation,
            rotation=action.rotation,
            gripper=action.gripper,
            reasons=action.reasons,
        )
        self._node.figures.on_action(action, applied.photon_to_command_s)
        self._applied.publish(conversions.applied_message(applied))
