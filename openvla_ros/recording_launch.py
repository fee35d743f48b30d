"""The recording processes as actions of `ros2 launch`. Needs launch and launch_ros; only the launch file uses it."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from openvla_ros.launching import launch_description, node_action
from openvla_ros.recording import LAUNCH_ARGUMENTS, describe_recording
from openvla_ros.system import argument_fields, arguments_from


def recording_description() -> LaunchDescription:
    """Every argument of the system and those of a recording, then the processes."""
    system = launch_description()
    declared = [entity for entity in system.entities if isinstance(entity, DeclareLaunchArgument)]
    declared += [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=list(choices) or None)
        for name, (default, description, choices) in LAUNCH_ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list:
    """Called by launch once the arguments are known."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    arguments = arguments_from({field.name: value(field.name) for field in argument_fields()})
    return [node_action(spec) for spec in describe_recording(arguments, **{n: value(n) for n in LAUNCH_ARGUMENTS})]
