"""Which processes make up the running system, from a few arguments. Launch files and `openvla up` both read this."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvla_core.arm_chains import CHAINS
from openvla_core.config import setting, settings_from_mapping
from openvla_core.errors import ConfigError
from openvla_core.sim.rendering import headless_environment
from openvla_ros import preflight, topics
from openvla_ros.backends import NAMES as BACKENDS
from openvla_ros.network import MODES
from openvla_ros.share import share_folder

ROBOTS = ("sim", "franka", "widowx")
# The checkpoint a robot uses when none is named, relative to the share folder.
DEFAULT_CHECKPOINTS = {"sim": "checkpoints/openvla-tiny-sim"}
CARD_NAME = "action_convention.json"
# Where a robot's driver publishes what it measures, where that is not where we listen.
ROBOT_TOPICS = {
    "franka": {topics.CURRENT_POSE: "franka_robot_state_broadcaster/current_pose"},
    "widowx": {topics.JOINT_STATES: "wx250s/joint_states"},
}
BACKEND_TOPICS = {"crisp": {topics.CURRENT_POSE: "current_pose"}}  # CRISP publishes the pose it controls
DEFAULT_BACKENDS = {"sim": "sim", "franka": "crisp", "widowx": "interbotix"}


@dataclass(frozen=True, kw_only=True)
class SystemArguments:
    """Arguments of the launch files and of `openvla up`. An empty one leaves the value to config/ and the defaults."""

    robot: str = setting("sim", "Robot to run: its settings are config/robots/<robot>.yaml", choices=ROBOTS)
    checkpoint: str = setting("", "Directory of the checkpoint; empty takes the one shipped for the robot")
    convention: str = setting(
        "", "Action convention card: a path, or the name of one in config/conventions; empty takes the checkpoint's own"
    )
    backend: str = setting("", "How commands reach the robot; empty takes the robot's own", choices=("", *BACKENDS))
    arm: str = setting("", "Arm of the robot, when it is not the one in its settings", choices=("", *sorted(CHAINS)))
    device: str = setting("", "Where the model runs: cpu, cuda or cuda:N")
    dtype: str = setting("", "Number format of the weights", choices=("", "float32", "bfloat16", "float16"))
    unnorm_key: str = setting("", "Data set whose statistics scale the actions, when the checkpoint has several")
    decoding: str = setting("", "How action tokens are picked", choices=("", "constrained", "reference"))
    temperature: str = setting("", "0 takes the likeliest token, above 0 draws one")
    seed: str = setting("", "Seed of the draws when temperature is above 0")
    rate_hz: str = setting("", "Actions per second; empty takes the rate of the convention card")
    dry_run: str = setting(
        "", "Publish everything but commands; empty: true for real robots", choices=("", "true", "false")
    )
    start: str = setting(
        "", "Follow actions at once; empty: only the simulated arm, others wait for ~/start",
        choices=("", "true", "false"),
    )  # fmt: skip
    pose_topic: str = setting("", "Measured pose of the tool, geometry_msgs/PoseStamped; empty takes the robot's own")
    joint_topic: str = setting("", "Measured joints, sensor_msgs/JointState; empty takes the robot's own")
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
    `parameters`. essential: when this process ends, the others are stopped too. restarts: how often within a minute it
    is started anew after it failed, other than by a wrong setting.
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
    restarts: int = 0

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


def describe_system(arguments: SystemArguments, policy: bool = True) -> list[ProcessSpec]:
    """The processes to start, in starting order; without a policy, no weights are needed, only a convention card.

    Raises ConfigError when a file they need is missing, SecurityError when they would be open to others by mistake.
    """
    network = preflight.check(arguments.network, arguments.accept_open_dds == "true")
    share = share_folder()
    given_card = card_path(arguments.convention, share)
    # Nothing but a policy reads weights; without one the card alone says what actions mean.
    checkpoint = checkpoint_folder(arguments, share) if policy or not given_card else Path()
    files = [share / "config" / "openvla.yaml", share / "config" / "robots" / f"{arguments.robot}.yaml"]
    files += [Path(arguments.params_file)] if arguments.params_file else []
    for path in files:
        if not path.is_file():
            raise ConfigError(f"there is no parameter file {path}. Give the path of a YAML file.")
    _check_backend(arguments)
    common: dict[str, Any] = {
        "namespace": arguments.namespace.strip("/"),
        "parameter_files": tuple(files),
        "remappings": remappings(arguments),
    }

    specs = []
    if arguments.robot == "sim":
        environment = {**headless_environment(), **single_thread()}
        specs.append(node_spec("sim_node", environment=environment, **common))
    chain = CHAINS.get(arguments.arm)
    controller = _given(
        convention=given_card or str(checkpoint / CARD_NAME),
        # Said even when it was not given: a parameter file must not turn the simulation into a robot.
        backend="sim" if arguments.robot == "sim" else arguments.backend,
        dry_run=_flag(arguments.dry_run),
        start_when_active=_flag(arguments.start),
        arm=arguments.arm,
        base_frame=chain and chain.base_link,
        tool_link=chain and chain.tool_link,
    )
    specs.append(node_spec("controller_node", parameters=controller, environment=single_thread(), **common))
    if policy:
        specs.append(_policy_spec(arguments, checkpoint, given_card, common))
    if arguments.instruction:
        parameters = {"instruction": arguments.instruction}
        specs.append(node_spec("say", parameters=parameters, essential=False, **{**common, "parameter_files": ()}))
    return [dataclasses.replace(spec, environment={**network, **spec.environment}) for spec in specs]


def _policy_spec(
    arguments: SystemArguments, checkpoint: Path, given_card: str, common: Mapping[str, Any]
) -> ProcessSpec:
    parameters = _given(
        checkpoint=str(checkpoint),
        convention=given_card,
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
    return node_spec("policy_node", parameters=parameters, environment=threads, essential=False, restarts=3, **common)


def _check_backend(arguments: SystemArguments) -> None:
    """Raises ConfigError when a real arm would get the limits and the start of the simulated one, or the reverse."""
    backend = arguments.backend or DEFAULT_BACKENDS[arguments.robot]
    if (arguments.robot == "sim") == (backend == "sim"):
        return
    others = ", ".join(robot for robot in ROBOTS if robot != "sim")
    raise ConfigError(
        f"the backend {backend} does not go with the robot {arguments.robot}: the simulated arm takes the backend sim "
        f"and no other, a real one never does. Say which robot it is ({others}), or leave out the backend."
    )


def node_spec(name: str, **details: Any) -> ProcessSpec:
    """A process whose node, module and executable have the same name."""
    return ProcessSpec(name=name, module=f"openvla_ros.{name}", executable=name, **details)


def remappings(arguments: SystemArguments) -> tuple[tuple[str, str], ...]:
    """Topics with another name for this robot, its backend or by these arguments; the last one counts."""
    backend = arguments.backend or DEFAULT_BACKENDS[arguments.robot]
    given = _given(
        **{
            topics.CAMERA_IMAGE: arguments.camera_topic,
            topics.INSTRUCTION: arguments.instruction_topic,
            topics.CURRENT_POSE: arguments.pose_topic,
            topics.JOINT_STATES: arguments.joint_topic,
        }
    )
    wanted = {**ROBOT_TOPICS.get(arguments.robot, {}), **BACKEND_TOPICS.get(backend, {}), **given}
    return tuple((name, new) for name, new in wanted.items() if new != name)


def card_path(convention: str, share: Path) -> str:
    """The path of a card given by its path or by its name in config/conventions; empty when none was given."""
    shipped = share / "config" / "conventions" / f"{convention}.yaml"
    return str(shipped) if convention and "/" not in convention and shipped.is_file() else convention


def checkpoint_folder(arguments: SystemArguments, share: Path) -> Path:
    """The directory of the checkpoint, given or shipped. Raises ConfigError when there is none."""
    if not arguments.checkpoint and arguments.robot not in DEFAULT_CHECKPOINTS:
        raise ConfigError(
            f"no checkpoint is shipped for the robot {arguments.robot}. Give the directory of one as checkpoint; to "
            "record without a policy, convention is enough."
        )
    given = Path(arguments.checkpoint).expanduser()
    folder = given if arguments.checkpoint else share / DEFAULT_CHECKPOINTS[arguments.robot]
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
