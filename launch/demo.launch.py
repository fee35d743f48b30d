"""The simulated arm follows a sentence: ros2 launch openvla_ros demo.launch.py instruction:="pick up the red cube"

The same processes as policy.launch.py with robot:=sim. `openvla demo` runs whole series of episodes and reports.
"""

from openvla_ros.launching import launch_description


def generate_launch_description():
    """Called by launch."""
    return launch_description(robot="sim", dry_run="false", instruction="pick up the red cube")
