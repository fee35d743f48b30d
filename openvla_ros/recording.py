"""Which processes record episodes: the running system with a recorder, and with whom in the policy's place."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from openvla_core.errors import ConfigError
from openvla_ros import preflight
from openvla_ros.bringup import parameter_text
from openvla_ros.share import share_folder
from openvla_ros.system import (
    ProcessSpec,
    SystemArguments,
    card_path,
    describe_system,
    node_spec,
    remappings,
    single_thread,
)

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
    specs += _pose_specs(arguments)
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


def _pose_specs(arguments: SystemArguments) -> list[ProcessSpec]:
    """What makes a pose of joint angles, where the robot's settings say that its driver publishes no pose."""
    files = [share_folder() / "config" / "robots" / f"{arguments.robot}.yaml", Path(arguments.params_file)]
    controller: dict[str, Any] = {}
    for path in files:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        controller |= (content.get("/**/controller_node") or {}).get("ros__parameters") or {}
    if controller.get("pose_source") != "joints" or arguments.pose_topic:
        return []
    common = {"namespace": arguments.namespace.strip("/"), "remappings": remappings(arguments)}
    environment = {**preflight.check(arguments.network, arguments.accept_open_dds == "true"), **single_thread()}
    parameters = {"arm": arguments.arm or controller["arm"]}
    return [node_spec("pose_node", parameters=parameters, environment=environment, **common)]


def teleop_arguments(arguments: SystemArguments, instruction: str = "") -> list[str]:
    """The command line of teleop in the policy's place: with the names that the topics of this robot have."""
    renamed = [f"{name}:={new}" for name, new in remappings(arguments)]
    renamed += [f"__ns:=/{arguments.namespace.strip('/')}"] if arguments.namespace else []
    given = ["--ros-args", "-r", "__node:=policy_node", *(part for name in renamed for part in ("-r", name))]
    return [*given, "-p", f"instruction:={parameter_text(instruction)}"] if instruction else given


def recorder_spec(arguments: SystemArguments, root: str, operator: str = "", **settings: Any) -> ProcessSpec:
    """The recorder alone."""
    path = share_folder() / "config" / "record.yaml"
    given = {
        "root": str(Path(root).expanduser().resolve()),
        "robot": arguments.robot,
        "operator": operator,
        "convention": card_path(arguments.convention, share_folder()),
        **settings,
    }
    files = (path, Path(arguments.params_file)) if arguments.params_file else (path,)
    return node_spec(
        "recorder_node",
        namespace=arguments.namespace.strip("/"),
        parameter_files=files,
        parameters={name: value for name, value in given.items() if value not in ("", None)},
        remappings=remappings(arguments),
        environment={**preflight.check(arguments.network, arguments.accept_open_dds == "true"), **single_thread()},
    )
