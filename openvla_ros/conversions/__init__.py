"""Between ROS messages and our types. The only package that reads or writes fields of the messages in topics.py.

Units follow the messages: metres, radians, seconds; stamps are int nanoseconds of the ROS clock.
"""

from openvla_ros.conversions.headers import frame_of, stamp_ns, to_ns, to_time
from openvla_ros.conversions.pictures import image_message, to_rgb
from openvla_ros.conversions.records import (
    Applied,
    Chunk,
    Scene,
    StatusReport,
    applied_message,
    chunk_message,
    scene_message,
    status_message,
    to_applied,
    to_chunk,
    to_scene,
    to_status,
)
from openvla_ros.conversions.robot import (
    joint_state_message,
    names_joints,
    pose_message,
    to_joint_positions,
    to_pose,
    trajectory_message,
    twist_message,
)
from openvla_ros.conversions.values import (
    diagnostics_message,
    is_set_to,
    number_message,
    parameter_descriptor,
    parameters_result,
    replied,
    reply,
    text_message,
    to_flag,
    to_number,
    to_text,
)

__all__ = [
    "Applied",
    "Chunk",
    "Scene",
    "StatusReport",
    "applied_message",
    "chunk_message",
    "diagnostics_message",
    "frame_of",
    "image_message",
    "is_set_to",
    "joint_state_message",
    "names_joints",
    "number_message",
    "parameter_descriptor",
    "parameters_result",
    "pose_message",
    "replied",
    "reply",
    "scene_message",
    "stamp_ns",
    "status_message",
    "text_message",
    "to_applied",
    "to_chunk",
    "to_flag",
    "to_joint_positions",
    "to_ns",
    "to_number",
    "to_pose",
    "to_rgb",
    "to_scene",
    "to_status",
    "to_text",
    "to_time",
    "trajectory_message",
    "twist_message",
]
