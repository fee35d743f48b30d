"""One model for many robots: ros2 launch openvla_ros fleet.launch.py robots:=left,right checkpoint:=<directory>

Starts the process with all policies, nothing else: left/policy_node hears left/camera/image_raw and left/instruction.
Controller and driver of each robot run in its namespace already, or are started there by themselves.
"""

from openvla_ros.fleet_launch import fleet_description


def generate_launch_description():
    """Called by launch."""
    return fleet_description()
