"""Which processes record episodes: the running system with a recorder, and with whom in the policy's place."""

import dataclasses
from pathlib import Path
from typing import Any

from openvla_core.errors import ConfigError
from openvla_ros import preflight
from openvla_ros.share import share_folder
from openvla_ros.system import ProcessSpec, SystemArguments, describe_system, node_spec, remappings, single_thread

SOURCES = ("policy", "expert", "teleop", "none")
# Arguments of record.launch.py beyond those of the system: default, description, choices.
LAUNCH_ARGUMENTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "root": ("recordings", "Folder for the episodes, one bag each", ()),
    "source": ("none", "Who is in charge; none starts only the recorder, beside a system that runs already", SOURCES),
    "operator": ("", "Who operates the robot; written into every episode", ()),
}


def describe_recording(
    arguments: SystemArguments, root: str, source: str, operator: str = "", **settings: Any
) -> list[ProcessSpec]:
    """The processes to start, in starting order. Raises ConfigError.

    Args:
        root: folder for the episodes. settings: further parameters of recorder_node.
        source: "policy" and "expert" bring the whole system, "teleop" all but what sends actions (that runs in your
            terminal), "none" only the recorder, beside a system that runs already.
    """
    if source not in SOURCES:
        raise ConfigError(f"source is {source!r}; choose one of {', '.join(SOURCES)}.")
    if source == "expert" and arguments.robot != "sim":
        raise ConfigError(f"the expert knows the simulated arm only, not {arguments.robot}. Use source teleop.")
    specs = [] if source == "none" else describe_system(arguments, policy=source == "policy")
    specs += [_expert_spec(specs)] if source == "expert" else []
    return [*specs, recorder_spec(arguments, root, operator, **settings)]


def _expert_spec(specs: list[ProcessSpec]) -> ProcessSpec:
    """The expert where the policy would be, with the card of the controller."""
    (controller,) = (spec for spec in specs if spec.name == "controller_node")
    return dataclasses.replace(
        controller,
        name="policy_node",
        module="openvla_ros.expert_node",
        executable="expert_node",
        parameter_files=(),
        parameters={"convention": controller.parameters["convention"]},
        essential=False,
    )


def recorder_spec(arguments: SystemArguments, root: str, operator: str = "", **settings: Any) -> ProcessSpec:
    """The recorder alone."""
    path = share_folder() / "config" / "record.yaml"
    given = {"root": str(Path(root).expanduser().resolve()), "robot": arguments.robot, "operator": operator, **settings}
    files = (path, Path(arguments.params_file)) if arguments.params_file else (path,)
    return node_spec(
        "recorder_node",
        namespace=arguments.namespace.strip("/"),
        parameter_files=files,
        parameters={name: value for name, value in given.items() if value not in ("", None)},
        remappings=remappings(arguments),
        environment={**preflight.check(arguments.network, arguments.accept_open_dds == "true"), **single_thread()},
    )
