"""Commands for the embedded arm: target pose of the tool and gripper opening, on every tick."""

from rclpy.node import Node

from openvla_core.types import SafeAction
from openvla_ros import conversions, topics


class SimBackend:
    """Publishes robot/target_pose (base frame) and robot/gripper_command (0 closed to 1 open)."""

    def __init__(self, node: Node, base_frame: str) -> None:
        self._base_frame = base_frame
        self._target = node.create_publisher(topics.PoseStamped, topics.TARGET_POSE, topics.COMMAND)
        self._gripper = node.create_publisher(topics.Float64, topics.GRIPPER_COMMAND, topics.COMMAND)

    def send(self, command: SafeAction, stamp_ns: int) -> None:
        """Publishes the pose, and the gripper opening once there is one."""
        self._target.publish(conversions.pose_message(command.pose, stamp_ns, self._base_frame))
        if command.gripper is not None:
            self._gripper.publish(conversions.number_message(command.gripper))


def make(node: Node, base_frame: str) -> SimBackend:
    """The backend with its publishers on the node."""
    return SimBackend(node, base_frame)
