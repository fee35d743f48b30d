"""The process of a fleet as an action of `ros2 launch`. Needs launch and launch_ros; only the launch file uses it."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from openvla_ros.fleet import LAUNCH_ARGUMENTS, describe_fleet, fleet_fields
from openvla_ros.launching import launch_description, node_action
from openvla_ros.system import arguments_from


def fleet_description() -> LaunchDescription:
    """The arguments of the system that a fleet takes and those of its own, then the process."""
    taken = {field.name for field in fleet_fields()}
    system = [entity for entity in launch_description().entities if isinstance(entity, DeclareLaunchArgument)]
    declared = [argument for argument in system if argument.name in taken]
    declared += [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in LAUNCH_ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list[Node]:
    """Called by launch once the arguments are known."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    arguments = arguments_from({field.name: value(field.name) for field in fleet_fields()})
    return [node_action(spec) for spec in describe_fleet(arguments, {name: value(name) for name in LAUNCH_ARGUMENTS})]
