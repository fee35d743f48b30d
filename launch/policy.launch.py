"""Policy, controller and robot: ros2 launch openvla_ros policy.launch.py robot:=sim checkpoint:=<directory>

`ros2 launch openvla_ros policy.launch.py --show-args` lists every argument.
"""

from openvla_ros.launching import launch_description


def generate_launch_description():
    """Called by launch."""
    return launch_description()
