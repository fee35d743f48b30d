"""Records episodes: ros2 launch openvla_ros record.launch.py root:=recordings robot:=sim source:=expert

source:=none (default) starts only the recorder, beside a system that runs already; policy and expert bring the system
along; teleop all but the keys: ros2 run openvla_ros teleop --ros-args -r __node:=policy_node, in a terminal of its own.
Episodes begin and end with the services of /recorder_node; `openvla record` does both for series of episodes.
"""

from openvla_ros.recording_launch import recording_description


def generate_launch_description():
    """Called by launch."""
    return recording_description()
