"""Which processes make up the running system, from a few arguments. Launch files and `openvla up` both read this."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvla_core.config import setting, settings_from_mapping
from openvla_core.errors import ConfigError
from openvla_core.sim.rendering import headless_environment
from openvla_ros import preflight, topics
from openvla_ros.network import MODES
from openvla_ros.share import share_folder

ROBOTS = ("sim",)
# The checkpoint a robot uses when none is named, relative to the share folder.
DEFAULT_CHECKPOINTS = {"sim": "checkpoints/openvla-tiny-sim"}
CARD_NAME = "action_convention.json"


@dataclass(frozen=True, kw_only=True)
class SystemArguments:
    """Arguments of the launch files and of `openvla up`. An empty one leaves the value to config/ and the defaults."""

    robot: str = setting("sim", "Robot to run: its settings are config/robots/<robot>.yaml", choices=ROBOTS)
    checkpoint: str = setting("", "Directory of the checkpoint; empty takes the one shipped for the robot")
    convention: str = setting("", "Path of the action convention card; empty takes the checkpoint's own")
    device: str = setting("", "Where the model runs: cpu, cuda or cuda:N")
    dtype: str = setting("", "Number format of the weights", choices=("", "float32", "bfloat16", "float16"))
    unnorm_key: str = setting("", "Data set whose statistics scale the actions, when the checkpoint has several")
    decoding: str = setting("", "How action tokens are picked", choices=("", "constrained", "reference"))
    temperature: str = setting("", "0 takes the likeliest token, above 0 draws one")
    seed: str = setting("", "Seed of the draws when temperature is above 0")
    rate_hz: str = setting("", "Actions per second; empty takes the rate of the convention card")
    dry_run: str = setting("", "Let the controller publish everything but commands", choices=("", "true", "false"))
    camera_topic: str = setting(topics.CAMERA_IMAGE, "Camera images the policy reads")
    image_transport: str = setting("", "Type of the camera topic", choices=("", "raw", "compressed"))
    instruction_topic: str = setting(topics.INSTRUCTION, "Sentences to follow, std_msgs/String")
    namespace: str = setting("", "Namespace of all nodes and topics")
    network: str = setting(
        MODES[0],
        "Who can reach the nodes: loopback is this machine only, lan is everybody on its networks",
        choices=MODES,
    )
    accept_open_dds: str = setting(
        "false", "Start with network:=lan although DDS security is not configured", choices=("true", "false")
    )
    params_file: str = setting("", "One more YAML file of parameters, read last")
    instruction: str = setting("", "Sentence to follow as soon as everything is ready; empty waits for the topic")


@dataclass(frozen=True)
class ProcessSpec:
    """One process of the system: a node, what it runs and what it is told.

    module: what `python -m` runs; executable: the same in lib/openvla_ros. Parameter files are read in order, then
    `parameters`. essential: when this process ends, the others are stopped too.
    """

    name: str
    module: str
    executable: str
    namespace: str = ""
    parameter_files: tuple[Path, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    essential: bool = True

    @property
    def enclave(self) -> str:
        """Where DDS security looks for the keys of this process; without it, only a name."""
        return f"/openvla/{self.name}"


def arguments_from(values: Mapping[str, Any]) -> SystemArguments:
    """Checked arguments; None and missing values take their default. Raises ConfigError."""
    given = {name: _as_text(value) for name, value in values.items() if value is not None}
    return settings_from_mapping(SystemArguments, given)


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def describe_system(arguments: SystemArguments) -> list[ProcessSpec]:
    """The processes to start, in starting order.

    Raises ConfigError when a file they need is missing, SecurityError when they would be open to others by mistake.
    """
    network = preflight.check(arguments.network, arguments.accept_open_dds == "true")
    share = share_folder()
    checkpoint = checkpoint_folder(arguments, share)
    files = [share / "config" / "openvla.yaml", share / "config" / "robots" / f"{arguments.robot}.yaml"]
    files += [Path(arguments.params_file)] if arguments.params_file else []
    for path in files:
        if not path.is_file():
            raise ConfigError(f"there is no parameter file {path}. Give the path of a YAML file.")
    remappings = tuple(
        (name, wanted)
        for name, wanted in (
            (topics.CAMERA_IMAGE, arguments.camera_topic),
            (topics.INSTRUCTION, arguments.instruction_topic),
        )
        if wanted != name
    )
    common: dict[str, Any] = {
        "namespace": arguments.namespace.strip("/"),
        "parameter_files": tuple(files),
        "remappings": remappings,
    }

    specs = []
    if arguments.robot == "sim":
        environment = {**headless_environment(), **single_thread()}
        specs.append(node_spec("sim_node", environment=environment, **common))
    card = arguments.convention or str(checkpoint / CARD_NAME)
    controller = _given(convention=card, dry_run=_flag(arguments.dry_run))
    specs.append(node_spec("controller_node", parameters=controller, environment=single_thread(), **common))
    policy = _given(
        checkpoint=str(checkpoint),
        convention=arguments.convention,
        device=arguments.device,
        dtype=arguments.dtype,
        unnorm_key=arguments.unnorm_key,
        decoding=arguments.decoding,
        temperature=_number(arguments, "temperature", float),
        seed=_number(arguments, "seed", int),
        rate_hz=_number(arguments, "rate_hz", float),
        image_transport=arguments.image_transport,
    )
    # The controller outlives the policy: it then holds the arm.
    threads = single_thread() if arguments.robot == "sim" else {}
    specs.append(node_spec("policy_node", parameters=policy, environment=threads, essential=False, **common))
    if arguments.instruction:
        parameters = {"instruction": arguments.instruction}
        specs.append(node_spec("say", parameters=parameters, essential=False, **{**common, "parameter_files": ()}))
    return [dataclasses.replace(spec, environment={**network, **spec.environment}) for spec in specs]


def node_spec(name: str, **details: Any) -> ProcessSpec:
    """A process whose node, module and executable have the same name."""
    return ProcessSpec(name=name, module=f"openvla_ros.{name}", executable=name, **details)


def checkpoint_folder(arguments: SystemArguments, share: Path) -> Path:
    """The directory of the checkpoint, given or shipped. Raises ConfigError when there is none."""
    folder = (
        Path(arguments.checkpoint).expanduser()
        if arguments.checkpoint
        else share / DEFAULT_CHECKPOINTS[arguments.robot]
    )
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"there is no checkpoint at {folder} (no config.json). Give the directory of a checkpoint in OpenVLA's "
            "published layout as checkpoint; nothing is downloaded."
        )
    return folder.resolve()


def single_thread() -> dict[str, str]:
    """Keeps the thread pools of numpy and torch from competing with each other for a small machine."""
    return {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in ("", None)}


def _flag(text: str) -> bool | None:
    return text == "true" if text else None


def _number(arguments: SystemArguments, name: str, kind: type) -> float | int | None:
    text = getattr(arguments, name)
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}; it must be a number.") from None


def argument_fields() -> tuple[dataclasses.Field, ...]:
    """The fields of SystemArguments: name, default, description and choices of every argument."""
    return dataclasses.fields(SystemArguments)
