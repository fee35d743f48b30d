"""Where the measured pose of the tool comes from: a pose topic, or joint angles and the geometry of the arm."""

from typing import Protocol

from rclpy.node import Node

from openvla_core.errors import ActionError, ConfigError, KinematicsError
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.controller_settings import ControllerSettings


class PoseListener(Protocol):
    """Takes what was measured."""

    def on_pose(self, pose: Pose, stamp_ns: int, frame: str) -> None:
        """A pose in a frame, with the time it was measured."""

    def on_invalid_pose(self, reason: str) -> None:
        """A message that holds no pose."""


def listen_to_pose(node: Node, settings: ControllerSettings, listener: PoseListener) -> None:
    """Subscribes to the chosen source. Raises ConfigError when the arm is unknown or is not the robot's."""
    if settings.pose_source == "topic":
        node.create_subscription(topics.PoseStamped, topics.CURRENT_POSE, PoseTopic(listener).on_message, topics.SENSOR)
        return
    joints = JointPose(settings, listener)
    node.create_subscription(topics.JointState, topics.JOINT_STATES, joints.on_message, topics.SENSOR)


class PoseTopic:
    """Poses as the robot publishes them."""

    def __init__(self, listener: PoseListener) -> None:
        self._listener = listener

    def on_message(self, message) -> None:
        """Passes on the pose of a PoseStamped."""
        try:
            pose = conversions.to_pose(message)
        except ActionError as error:
            self._listener.on_invalid_pose(str(error))
            return
        self._listener.on_pose(pose, conversions.stamp_ns(message), conversions.frame_of(message))


class JointPose:
    """Poses computed from joint angles."""

    def __init__(self, settings: ControllerSettings, listener: PoseListener) -> None:
        # The solver's library takes time and memory that the other source does not need.
        from openvla_core.arm_kinematics import load_arm

        self._arm = load_arm(settings.arm)
        self._listener = listener
        ours, robots = (self._arm.base_link, self._arm.tool_link), (settings.base_frame, settings.tool_link)
        if ours != robots:
            raise ConfigError(
                f"the arm {settings.arm!r} goes from {ours[0]!r} to {ours[1]!r}, but base_frame is {robots[0]!r} and "
                f"tool_link {robots[1]!r}. Set these to the links of the arm, or choose another arm."
            )

    def on_message(self, message) -> None:
        """Passes on the pose of a JointState that names all joints of the arm; one of other joints is not for us."""
        if not conversions.names_joints(message, self._arm.joint_names):
            return
        positions = conversions.to_joint_positions(message, self._arm.joint_names)
        if positions is None:
            self._listener.on_invalid_pose("joint_states holds a position that is not finite.")
            return
        try:
            pose = self._arm.forward(positions)
        except KinematicsError as error:
            self._listener.on_invalid_pose(str(error))
            return
        self._listener.on_pose(pose, conversions.stamp_ns(message), self._arm.base_link)
