"""MoveIt Servo by poses: pose_target_cmds in the base frame, on every tick. Jazzy and later."""

from rclpy.node import Node

from openvla_core.types import Problem, SafeAction
from openvla_ros import conversions, topics
from openvla_ros.backends import RobotSettings
from openvla_ros.backends.command_topic import CommandTopic
from openvla_ros.backends.franka_gripper import make_gripper
from openvla_ros.backends.franka_state import RobotMode
from openvla_ros.backends.servo import Servo, ServoSettings, check_pose_api, warn_of_clamps
from openvla_ros.parameters import declare_settings


class ServoPoseBackend:
    """The pose of the commanded stream, stamped now: Servo drops what is older than 0.1 s."""

    def __init__(self, node: Node, settings: RobotSettings, own: ServoSettings) -> None:
        check_pose_api(own)
        self._base_frame = settings.base_frame
        self._gripper = make_gripper(own.gripper, node)
        self._mode = RobotMode(node, own.robot_state)
        self._servo = Servo(node, own, "POSE")
        self._target = CommandTopic(node, topics.PoseStamped, f"{own.node}/pose_target_cmds")
        warn_of_clamps(node, settings, own)

    def send(self, command: SafeAction, stamp_ns: int) -> None:
        """Publishes the pose, once Servo takes poses."""
        if self._servo.ready():
            self._target.publish(conversions.pose_message(command.pose, stamp_ns, self._base_frame))
        self._gripper.command(command)

    def problem(self) -> Problem | None:
        """The robot's mode, Servo, its command topic, then the gripper."""
        if self._servo.api == "humble":
            sentence = "MoveIt Servo of Humble takes no poses. Set backend to servo_twist."
            return Problem("BACKEND_REFUSED", sentence, latched=True)
        return self._mode.problem() or self._servo.problem() or self._target.problem() or self._gripper.problem()

    def reset(self) -> None:
        """Forgets a gripper that failed and a Servo that went away."""
        self._target.reset()
        self._gripper.reset()

    def close(self) -> None:
        """Takes everything off the node."""
        for part in (self._target, self._servo, self._gripper, self._mode):
            part.close()


def make(node: Node, settings: RobotSettings) -> ServoPoseBackend:
    """The backend; raises ConfigError on Humble and when moveit_msgs or the gripper's message package is missing."""
    return ServoPoseBackend(node, settings, declare_settings(node, ServoSettings, prefix="servo_pose."))
