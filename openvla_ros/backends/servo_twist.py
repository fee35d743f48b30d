"""MoveIt Servo by velocities: delta_twist_cmds in the base frame, on every tick, zero while holding.

Servo must be set to command_in_type speed_units, so that the numbers are m/s and rad/s. It drops commands whose stamp
is older than 0.1 s, which is why each carries the present time.
"""

from rclpy.node import Node

from openvla_core.types import Problem, SafeAction
from openvla_ros import conversions, topics
from openvla_ros.backends import RobotSettings
from openvla_ros.backends.command_topic import CommandTopic
from openvla_ros.backends.franka_gripper import make_gripper
from openvla_ros.backends.franka_state import RobotMode
from openvla_ros.backends.servo import Servo, ServoSettings, warn_of_clamps
from openvla_ros.parameters import declare_settings


class ServoTwistBackend:
    """The velocity of the commanded stream; nothing pulls the arm back to its pose, the controller watches that."""

    def __init__(self, node: Node, settings: RobotSettings, own: ServoSettings) -> None:
        self._base_frame = settings.base_frame
        self._gripper = make_gripper(own.gripper, node)
        self._mode = RobotMode(node, own.robot_state)
        self._servo = Servo(node, own, "TWIST")
        self._twist = CommandTopic(node, topics.TwistStamped, f"{own.node}/delta_twist_cmds")
        warn_of_clamps(node, settings, own)

    def send(self, command: SafeAction, stamp_ns: int) -> None:
        """Publishes the velocities, once Servo takes twists."""
        if self._servo.ready():
            self._twist.publish(
                conversions.twist_message(command.velocity, command.angular_velocity, stamp_ns, self._base_frame)
            )
        self._gripper.command(command.gripper)

    def problem(self) -> Problem | None:
        """The robot's mode, Servo, its command topic, then the gripper."""
        return self._mode.problem() or self._servo.problem() or self._twist.problem() or self._gripper.problem()

    def reset(self) -> None:
        """Forgets a gripper that failed and a Servo that went away."""
        self._twist.reset()
        self._gripper.reset()

    def close(self) -> None:
        """Takes everything off the node."""
        for part in (self._twist, self._servo, self._gripper, self._mode):
            part.close()


def make(node: Node, settings: RobotSettings) -> ServoTwistBackend:
    """The backend; raises ConfigError when moveit_msgs or the gripper's message package is missing."""
    return ServoTwistBackend(node, settings, declare_settings(node, ServoSettings, prefix="servo_twist."))
