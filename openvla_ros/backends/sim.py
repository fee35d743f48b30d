"""Commands for the embedded arm: target pose of the tool and gripper opening, on every tick."""

from rclpy.node import Node

from openvla_core.types import Problem, SafeAction
from openvla_ros import conversions, topics
from openvla_ros.backends import RobotSettings
from openvla_ros.backends.command_topic import CommandTopic


class SimBackend:
    """Publishes robot/target_pose (base frame) and robot/gripper_command (0 closed to 1 open)."""

    def __init__(self, node: Node, settings: RobotSettings) -> None:
        self._base_frame = settings.base_frame
        self._target = CommandTopic(node, topics.PoseStamped, topics.TARGET_POSE)
        self._gripper = CommandTopic(node, topics.Float64, topics.GRIPPER_COMMAND)

    def send(self, command: SafeAction, stamp_ns: int) -> None:
        """Publishes the pose, and the gripper opening once there is one."""
        self._target.publish(conversions.pose_message(command.pose, stamp_ns, self._base_frame))
        if command.gripper is not None:
            self._gripper.publish(conversions.number_message(command.gripper))

    def problem(self) -> Problem | None:
        """Whether the simulated arm listens, and to nobody else."""
        return self._target.problem() or self._gripper.problem()

    def reset(self) -> None:
        """Nothing to forget but an arm that went away."""
        self._target.reset()
        self._gripper.reset()

    def close(self) -> None:
        """Takes both topics off the node."""
        self._target.close()
        self._gripper.close()


def make(node: Node, settings: RobotSettings) -> SimBackend:
    """The backend; its topics appear with the first command."""
    return SimBackend(node, settings)
