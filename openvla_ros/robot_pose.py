"""Where the measured pose of the tool comes from: a pose topic, or joint angles and the geometry of the arm."""

from typing import Any, Protocol

from rclpy.node import Node

from openvla_core.errors import ActionError, ConfigError, KinematicsError
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.controller_settings import ControllerSettings
from openvla_ros.taken_messages import TakenMessages


class PoseListener(Protocol):
    """Takes what was measured; arrived_s is the monotonic time at which the message came."""

    def on_pose(self, pose: Pose, stamp_ns: int, frame: str, arrived_s: float) -> None:
        """A pose in a frame, with the time it was measured."""

    def on_invalid_pose(self, reason: str) -> None:
        """A message that holds no pose."""


class RobotPose:
    """The measured pose, read at every tick: a driver may publish it much faster than commands are made."""

    def __init__(self, node: Node, settings: ControllerSettings, listener: PoseListener) -> None:
        """Raises ConfigError when the arm is unknown or is not the robot's."""
        self._listener = listener
        self._joints = ArmJoints(settings) if settings.pose_source == "joints" else None
        kind, topic = (topics.PoseStamped, topics.CURRENT_POSE)
        if self._joints is not None:
            kind, topic = (topics.JointState, topics.JOINT_STATES)
        self._messages = TakenMessages(node, kind, topic, topics.MEASURED)

    def take(self) -> None:
        """Passes on what has come since the last time, oldest first."""
        for message, arrived_s in self._messages.take():
            try:
                self._pass_on(message, arrived_s)
            except (ActionError, KinematicsError) as error:
                self._listener.on_invalid_pose(str(error))

    def _pass_on(self, message: Any, arrived_s: float) -> None:
        stamp_ns = conversions.stamp_ns(message)
        if self._joints is None:
            pose, frame = conversions.to_pose(message), conversions.frame_of(message)
            self._listener.on_pose(pose, stamp_ns, frame, arrived_s)
        elif self._joints.are_in(message):
            self._listener.on_pose(self._joints.pose(message), stamp_ns, self._joints.base_frame, arrived_s)


class ArmJoints:
    """From joint angles to the pose of the tool."""

    def __init__(self, settings: ControllerSettings) -> None:
        # The solver's library takes time and memory that the other source does not need.
        from openvla_core.arm_kinematics import load_arm

        self._arm = load_arm(settings.arm)
        self.base_frame = self._arm.base_link
        ours, robots = (self._arm.base_link, self._arm.tool_link), (settings.base_frame, settings.tool_link)
        if ours != robots:
            raise ConfigError(
                f"the arm {settings.arm!r} goes from {ours[0]!r} to {ours[1]!r}, but base_frame is {robots[0]!r} and "
                f"tool_link {robots[1]!r}. Set these to the links of the arm, or choose another arm."
            )

    def are_in(self, message: Any) -> bool:
        """Whether a JointState names all joints of the arm; one of other joints, as of the gripper, is not for us."""
        return conversions.names_joints(message, self._arm.joint_names)

    def pose(self, message: Any) -> Pose:
        """The pose of the tool. Raises ActionError for angles that are none, KinematicsError when there is no pose."""
        positions = conversions.to_joint_positions(message, self._arm.joint_names)
        if positions is None:
            raise ActionError("joint_states holds a position that is not finite.")
        return self._arm.forward(positions)
