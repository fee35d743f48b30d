"""The Cartesian controllers of CRISP: target_pose of the tool, on every tick.

They read the numbers as in the controller's base frame whatever the header says, and drop every target while a second
publisher is on the topic.
"""

from dataclasses import dataclass

from rclpy.node import Node

from openvla_core.config import setting
from openvla_core.types import Problem, SafeAction
from openvla_ros import conversions, topics
from openvla_ros.backends import RobotSettings
from openvla_ros.backends.command_topic import CommandTopic
from openvla_ros.backends.franka_gripper import GRIPPERS, make_gripper
from openvla_ros.backends.franka_state import RobotMode
from openvla_ros.parameters import declare_settings


@dataclass(frozen=True, kw_only=True)
class CrispSettings:
    """Parameters crisp.*"""

    topic: str = setting("target_pose", "Topic of the controller's target, geometry_msgs/PoseStamped")
    gripper: str = setting("franka", "How the gripper is commanded", choices=GRIPPERS)
    robot_state: str = setting("", "Topic of franka_msgs/FrankaRobotState whose robot_mode is watched; empty: none")


class CrispBackend:
    """Poses to CRISP, the gripper by action."""

    def __init__(self, node: Node, settings: RobotSettings, own: CrispSettings) -> None:
        self._base_frame = settings.base_frame
        self._gripper = make_gripper(own.gripper, node)
        self._mode = RobotMode(node, own.robot_state)
        self._target = CommandTopic(node, topics.PoseStamped, own.topic)

    def send(self, command: SafeAction, stamp_ns: int) -> None:
        """Publishes the pose; CRISP follows it with its own low-pass."""
        self._target.publish(conversions.pose_message(command.pose, stamp_ns, self._base_frame))
        self._gripper.command(command)

    def problem(self) -> Problem | None:
        """The robot's mode, the command topic, then the gripper."""
        return self._mode.problem() or self._target.problem() or self._gripper.problem()

    def reset(self) -> None:
        """Forgets a gripper that failed and a controller that went away."""
        self._target.reset()
        self._gripper.reset()

    def close(self) -> None:
        """Takes everything off the node."""
        for part in (self._target, self._gripper, self._mode):
            part.close()


def make(node: Node, settings: RobotSettings) -> CrispBackend:
    """The backend; raises ConfigError when the gripper's or the robot state's message package is missing."""
    return CrispBackend(node, settings, declare_settings(node, CrispSettings, prefix="crisp."))
