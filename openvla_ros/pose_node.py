"""The pose of the tool for robots whose driver publishes joint angles only: what is recorded needs one, and teleop."""

import sys
from dataclasses import dataclass

from rclpy.node import Node

from openvla_core.arm_chains import CHAINS
from openvla_core.arm_kinematics import load_arm
from openvla_core.config import setting
from openvla_core.errors import KinematicsError
from openvla_ros import conversions, topics
from openvla_ros.node_support import run
from openvla_ros.parameters import declare_settings


@dataclass(frozen=True, kw_only=True)
class PoseSettings:
    """Parameters of pose_node."""

    arm: str = setting("wx250s", "Arm whose geometry turns joint angles into a pose", choices=tuple(sorted(CHAINS)))


class PoseNode(Node):
    """Publishes the pose of the arm's tool in its base frame, with the stamp of the joint angles it follows from."""

    def __init__(self, **node_arguments) -> None:
        """Raises KinematicsError when the arm is not known or the library for it is missing."""
        super().__init__("pose_node", **node_arguments)
        self.arm = load_arm(declare_settings(self, PoseSettings).arm)
        self.poses = self.create_publisher(topics.PoseStamped, topics.CURRENT_POSE, topics.COMMAND)
        self.create_subscription(topics.JointState, topics.JOINT_STATES, self.on_joints, topics.SENSOR)

    def on_joints(self, message) -> None:
        """A message about other joints, or with numbers that are none, says nothing about the tool."""
        if not conversions.names_joints(message, self.arm.joint_names):
            return
        positions = conversions.to_joint_positions(message, self.arm.joint_names)
        if positions is None:
            self.get_logger().warning("a joint position is not finite.", throttle_duration_sec=5.0)
            return
        try:
            pose = self.arm.forward(positions)
        except KinematicsError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        self.poses.publish(conversions.pose_message(pose, conversions.stamp_ns(message), self.arm.base_link))


def main(args: list[str] | None = None) -> int:
    """Entry point of the process."""
    return run(PoseNode, args)


if __name__ == "__main__":
    sys.exit(main())
