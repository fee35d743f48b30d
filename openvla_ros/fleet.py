"""The process that serves many robots with one model, from a few arguments. The launch file reads this."""

import dataclasses
from collections.abc import Mapping

from openvla_core.errors import ConfigError
from openvla_ros.policy_fleet import robot_names
from openvla_ros.system import ProcessSpec, SystemArguments, argument_fields, describe_system

# Arguments of fleet.launch.py beyond those of the system: default and description.
LAUNCH_ARGUMENTS: dict[str, tuple[str, str]] = {
    "robots": ("", "Namespaces of the robots, with commas between them; each gets a policy_node in its own"),
    "max_batch": ("", "Most robots answered in one pass of the model; empty takes 8"),
    "gather_s": ("", "Seconds that an idle model waits for more robots before it begins; empty takes 0"),
}
# What a controller or a robot is told, and a fleet has neither.
NOT_OF_A_FLEET = ("backend", "arm", "dry_run", "start", "instruction")


def fleet_fields() -> list[dataclasses.Field]:
    """The arguments of the system that a fleet takes."""
    return [field for field in argument_fields() if field.name not in NOT_OF_A_FLEET]


def describe_fleet(arguments: SystemArguments, given: Mapping[str, str]) -> list[ProcessSpec]:
    """The one process to start: the policies of all robots. Their controllers and drivers are started by themselves.

    Args:
        arguments: as for one policy; a namespace is put before those of the robots.
        given: LAUNCH_ARGUMENTS, as text; an empty one takes the default.

    Raises ConfigError, SecurityError as describe_system does.
    """
    (policy,) = [spec for spec in describe_system(arguments) if spec.name == "policy_node"]
    parameters = {**policy.parameters, "robots": ",".join(robot_names(given.get("robots", "")))}
    for name, kind in (("max_batch", int), ("gather_s", float)):
        text = given.get(name, "")
        try:
            parameters |= {name: kind(text)} if text else {}
        except ValueError:
            raise ConfigError(f"{name} is {text!r}; it must be a number.") from None
    fleet = dataclasses.replace(policy, name="policy_fleet", module="openvla_ros.policy_fleet", parameters=parameters)
    return [dataclasses.replace(fleet, executable="policy_fleet")]
