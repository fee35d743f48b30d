"""A joint_trajectory_controller of ros2_control: on every tick one point, to be reached shortly after.

For robots without a Cartesian controller. Points sent like this are followed by straight lines in joint space, which a
position interface takes and an effort interface feels as small jerks: prefer CRISP or Servo on a Franka robot.
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
from openvla_ros.backends.joint_solver import JointSolver
from openvla_ros.parameters import declare_settings


@dataclass(frozen=True, kw_only=True)
class JointTrajectorySettings:
    """Parameters joint_trajectory.*"""

    topic: str = setting("fr3_arm_controller/joint_trajectory", "Topic of the controller")
    joint_states: str = setting(topics.JOINT_STATES, "Topic of the measured joint angles")
    periods: int = setting(
        2,
        "Control periods until a point is to be reached: 1 is tight, more is smoother and later",
        minimum=1,
        maximum=20,
    )
    max_joint_speed: float = setting(
        1.25, "Fastest joint: half of what FR3 allows, and never more than the arm's own limit", unit="rad/s",
        minimum=0.05, maximum=6.0,
    )  # fmt: skip
    gripper: str = setting("none", "How the gripper is commanded", choices=GRIPPERS)
    robot_state: str = setting("", "Topic of franka_msgs/FrankaRobotState whose robot_mode is watched; empty: none")


class JointTrajectoryBackend:
    """Joint angles from the pose, one trajectory point per tick."""

    def __init__(self, node: Node, settings: RobotSettings, own: JointTrajectorySettings) -> None:
        self._duration_ns = round(own.periods * 1e9 / settings.rate_hz)
        self._gripper = make_gripper(own.gripper, node)
        self._mode = RobotMode(node, own.robot_state)
        self._solver = JointSolver(node, settings.arm, own.joint_states, own.max_joint_speed, settings.rate_hz)
        self._target = CommandTopic(node, topics.JointTrajectory, own.topic)

    def send(self, command: SafeAction, stamp_ns: int) -> None:
        """Publishes the angles of the pose; nothing when there are none near the last."""
        joints = self._solver.solve(command, stamp_ns)
        if joints is not None:
            self._target.publish(conversions.trajectory_message(self._solver.names, joints, self._duration_ns))
        self._gripper.command(command)

    def problem(self) -> Problem | None:
        """The robot's mode, the command topic, the gripper, then the joint angles."""
        return self._mode.problem() or self._target.problem() or self._gripper.problem() or self._solver.problem()

    def reset(self) -> None:
        """Starts again from the measured angles."""
        for part in (self._solver, self._target, self._gripper):
            part.reset()

    def close(self) -> None:
        """Takes everything off the node."""
        for part in (self._target, self._solver, self._gripper, self._mode):
            part.close()


def make(node: Node, settings: RobotSettings) -> JointTrajectoryBackend:
    """The backend; raises ConfigError or KinematicsError without a known arm, ConfigError without message packages."""
    own = declare_settings(node, JointTrajectorySettings, prefix="joint_trajectory.")
    return JointTrajectoryBackend(node, settings, own)
