"""Joint angles in, the pose of the tool out, with the stamp of the angles."""

import numpy as np
from rclpy.parameter import Parameter

from openvla_core.arm_kinematics import load_arm
from openvla_ros import conversions, topics
from openvla_ros.pose_node import PoseNode


def test_the_pose_is_that_of_the_joints_and_has_their_stamp(world):
    world.add(PoseNode(parameter_overrides=[Parameter("arm", value="wx250s")]))
    heard = world.listen(topics.PoseStamped, topics.CURRENT_POSE, topics.SENSOR)
    joints = world.peer.create_publisher(topics.JointState, topics.JOINT_STATES, topics.SENSOR)
    arm = load_arm("wx250s")
    angles = np.linspace(-0.3, 0.4, len(arm.joint_names))
    names = [*reversed(arm.joint_names), "left_finger"]
    good = conversions.joint_state_message(names, np.append(angles[::-1], 0.03), np.zeros(len(names)), 123_456_789)
    fingers = conversions.joint_state_message(["left_finger"], np.zeros(1), np.zeros(1), 1)
    broken = conversions.joint_state_message(names, np.full(len(names), np.nan), np.zeros(len(names)), 2)

    def told() -> bool:
        for message in (fingers, broken, good):
            joints.publish(message)
        return len(heard) > 3

    world.wait_for(told, "the pose")
    expected = arm.forward(angles)
    for message in heard:
        pose = conversions.to_pose(message)
        np.testing.assert_allclose(pose.position, expected.position, atol=1e-9)
        assert abs(float(pose.quaternion @ expected.quaternion)) > 1 - 1e-9
        assert (conversions.stamp_ns(message), conversions.frame_of(message)) == (123_456_789, arm.base_link)
