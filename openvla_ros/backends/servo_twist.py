"""MoveIt Servo by velocities: delta_twist_cmds in the base frame, on every tick, zero while holding.

Servo must be set to command_in_type speed_units, so that the numbers are m/s and rad/s. It drops commands whose stamp
is older than 0.1 s, which is why each carries the present time.
"""

import numpy as np
from rclpy.node import Node

from openvla_core import rotations
from openvla_core.types import Pose, Problem, SafeAction
from openvla_ros import conversions, topics
from openvla_ros.backends import RobotSettings
from openvla_ros.backends.command_topic import CommandTopic
from openvla_ros.backends.franka_gripper import make_gripper
from openvla_ros.backends.franka_state import RobotMode
from openvla_ros.backends.servo import Servo, ServoSettings, warn_of_clamps
from openvla_ros.parameters import declare_settings

LONGEST_TICK_S = 0.1


class ServoTwistBackend:
    """Velocities that add up to the commanded poses; nothing pulls the arm back, the controller watches that."""

    def __init__(self, node: Node, settings: RobotSettings, own: ServoSettings) -> None:
        self._settings = settings
        self._last: tuple[Pose, int] | None = None
        self._gripper = make_gripper(own.gripper, node)
        self._mode = RobotMode(node, own.robot_state)
        self._servo = Servo(node, own, "TWIST")
        self._twist = CommandTopic(node, topics.TwistStamped, f"{own.node}/delta_twist_cmds")
        warn_of_clamps(node, settings, own)

    def send(self, command: SafeAction, stamp_ns: int) -> None:
        """Publishes the velocities, once Servo takes twists."""
        if self._servo.ready():
            velocities = self._velocities(command, stamp_ns)
            self._twist.publish(conversions.twist_message(*velocities, stamp_ns, self._settings.base_frame))
        self._last = command.pose, stamp_ns
        self._gripper.command(command)

    def _velocities(self, command: SafeAction, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Velocity (3,) m/s and angular velocity (3,) rad/s that lead from the last pose to this one in one tick.

        The velocity at the end of a tick is not its mean while the arm speeds up: sent as such, centimetres would add
        up. It is sent after a gap or where the stream was restarted, where the difference of two poses is no motion.
        Neither is ever faster than the limits.
        """
        velocity, turn = command.velocity, command.angular_velocity
        if self._last is not None and not command.restarted:
            (last, last_ns), limits = self._last, self._settings
            elapsed_s = (stamp_ns - last_ns) * 1e-9
            if 0.0 < elapsed_s <= LONGEST_TICK_S:
                mean = (command.pose.position - last.position) / elapsed_s
                mean_turn = rotations.rotation_between(last.quaternion, command.pose.quaternion) / elapsed_s
                # Ticks come early and late: twice the limit is still a motion, more is a jump.
                if (
                    np.linalg.norm(mean) <= 2 * limits.max_speed
                    and np.linalg.norm(mean_turn) <= 2 * limits.max_angular_speed
                ):
                    velocity, turn = mean, mean_turn
        return shortened(velocity, self._settings.max_speed), shortened(turn, self._settings.max_angular_speed)

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


def shortened(vector: np.ndarray, longest: float) -> np.ndarray:
    """The vector (3,), made no longer than that."""
    length = float(np.linalg.norm(vector))
    return vector if length <= longest else vector * (longest / length)


def make(node: Node, settings: RobotSettings) -> ServoTwistBackend:
    """The backend; raises ConfigError when moveit_msgs or the gripper's message package is missing."""
    return ServoTwistBackend(node, settings, declare_settings(node, ServoSettings, prefix="servo_twist."))
