"""The described processes as actions of `ros2 launch`. Needs launch and launch_ros; only launch files use it."""

import inspect
import os
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteLocal, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from openvla_ros.node_support import PARENT_VARIABLE
from openvla_ros.system import ProcessSpec, argument_fields, arguments_from, describe_system


def launch_description(**defaults: str) -> LaunchDescription:
    """Every argument of the system, then its processes; `defaults` replace the defaults of arguments."""
    declared = []
    for field in argument_fields():
        choices = field.metadata["choices"]
        declared.append(
            DeclareLaunchArgument(
                field.name,
                default_value=defaults.get(field.name, field.default),
                description=field.metadata["description"],
                choices=list(choices) or None,
            )
        )
    return LaunchDescription([*declared, OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list[Node]:
    """Called by launch once the arguments are known."""
    given = {field.name: LaunchConfiguration(field.name).perform(context) for field in argument_fields()}
    return [node_action(spec) for spec in describe_system(arguments_from(given))]


def node_action(spec: ProcessSpec) -> Node:
    """One process as an action; when an essential one ends, launch stops the others."""
    details: dict[str, Any] = {"on_exit": Shutdown(reason=f"{spec.name} ended")} if spec.essential else {}
    # Without the limit, as on Humble, a wrong setting would be tried for ever.
    if spec.restarts and "respawn_max_retries" in inspect.signature(ExecuteLocal.__init__).parameters:
        details |= {"respawn": True, "respawn_delay": 1.0, "respawn_max_retries": spec.restarts}
    return Node(
        package="openvla_ros",
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace,
        # Files first: of two values for one parameter, ROS takes the later one.
        parameters=[*(str(path) for path in spec.parameter_files), *parameter_dictionaries(spec)],
        remappings=list(spec.remappings),
        # `ros2 launch` that is killed, or told to end by SIGTERM alone, leaves its processes running.
        additional_env={**spec.environment, PARENT_VARIABLE: str(os.getpid())},
        ros_arguments=["--enclave", spec.enclave],
        output="screen",
        **details,
    )


def parameter_dictionaries(spec: ProcessSpec) -> list[dict[str, ParameterValue]]:
    """The parameters with their types: launch would read the text "7" or "no" as a number or a truth value."""
    typed = {name: ParameterValue(value, value_type=type(value)) for name, value in spec.parameters.items()}
    return [typed] if typed else []
