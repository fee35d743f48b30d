"""Episodes from rosbag2 bags, ours or those of a plain `ros2 bag record`, without ROS: MCAP and sqlite3, any picture.

Pictures stay in the bag until they are asked for, so an episode costs little memory however long it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core.config import setting, settings_from_mapping
from openvla_core.conventions import ActionConvention, convention_from_mapping, load_convention
from openvla_core.datasets import actions as labels
from openvla_core.datasets.alignment import NS_PER_S, Series, Steps, align
from openvla_core.datasets.bags.frames import frames_of
from openvla_core.datasets.bags.recording import CAMERAS, METADATA_FILE, Recording, read_recording
from openvla_core.datasets.bags.sentences import instruction_of
from openvla_core.datasets.bags.stream import Stream
from openvla_core.datasets.episode import Episode
from openvla_core.datasets.gripper_joints import opening_of_joints
from openvla_core.errors import ConfigError, DatasetError

GRIPPER_SOURCES = ("auto", "command", "measured")
DEFAULT_RATE_HZ = 5.0


@dataclass(frozen=True, kw_only=True)
class ReadingSettings:
    """How bags become episodes; a YAML file with these keys is all that a foreign bag needs."""

    topics: Mapping[str, str] = field(
        default_factory=dict, metadata={"description": "Role -> topic, where it is not the one our recorder uses"}
    )
    rate_hz: float = setting(0.0, "Steps per second; 0 for the rate of the card", unit="Hz", minimum=0.0, maximum=50.0)
    actions: str = setting("measured", "Where labels come from", choices=labels.SOURCES)
    rotation: str = setting("card", "Rotation numbers of the labels", choices=labels.ROTATION_CHOICES)
    gripper: str = setting("auto", "Gripper labels; auto: commands where there are some", choices=GRIPPER_SOURCES)
    binary_gripper: bool = setting(True, "Make the gripper label 0 or 1 in openings")
    gripper_open: float = setting(1.0, "The recorded gripper number that means open")
    gripper_closed: float = setting(0.0, "The recorded gripper number that means closed")
    freshness_s: float = setting(
        0.0, "The oldest a pose may be at a frame; 0 for half a step", unit="s", minimum=0.0, maximum=5.0
    )
    trim_idle: bool = setting(True, "Leave out steps without motion at the beginning and the end")
    noop_norm: float = setting(
        0.0, "Leave out steps whose action is shorter (the LIBERO rule uses 1e-4); 0 keeps all", minimum=0.0
    )
    convention: str = setting("", "Card for bags that carry none: a path")
    instruction: str = setting("", "Sentence for bags that carry none")

    def __post_init__(self) -> None:
        """Raises ConfigError when open and closed are one number, which would tell nothing."""
        if self.gripper_open == self.gripper_closed or not np.isfinite(self.gripper_open - self.gripper_closed):
            raise ConfigError(
                f"gripper_open is {self.gripper_open:g} and gripper_closed {self.gripper_closed:g}; expected two "
                "different numbers: what the gripper topic says when it is open, and when it is closed."
            )


def load_settings(path: str | Path) -> ReadingSettings:
    """Reads settings from a YAML file. Raises ConfigError for keys and values that are not known."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the settings {path} cannot be read: {str(error)[:300]}") from error
    if not isinstance(values, dict) or not isinstance(values.get("topics", {}), dict):
        raise ConfigError(f"{path} must hold names and values, and topics must map roles to topics.")
    return settings_from_mapping(ReadingSettings, values)


class BagSource:
    """A folder of bags as a data set; each folder in it with a metadata.yaml is one episode, in the order of names."""

    def __init__(self, root: str | Path, settings: ReadingSettings | None = None) -> None:
        """Raises DatasetError when there is no bag."""
        self.paths = find_bags(root)
        self.name = Path(root).resolve().name
        self.settings = settings or ReadingSettings()
        if not self.paths:
            raise DatasetError(f"no bags in {root}. Expected folders that hold a {METADATA_FILE}, or .mcap/.db3 files.")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Episode:
        return read_episode(self.paths[index], self.settings)

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))


def find_bags(root: str | Path) -> list[Path]:
    """Every finished bag in a folder, sorted; hidden folders, such as that of open episodes, are left out."""
    root = Path(root)
    if root.is_file() or (root / METADATA_FILE).is_file():
        return [root]
    folders = [path.parent for path in root.rglob(METADATA_FILE)]
    return sorted(path for path in folders if not any(part.startswith(".") for part in path.relative_to(root).parts))


def read_episode(path: str | Path, settings: ReadingSettings | None = None) -> Episode:
    """One bag as an episode. Raises DatasetError or ConventionError, saying what the bag lacks."""
    settings = settings or ReadingSettings()
    return build_episode(read_recording(path, settings.topics), settings)


def build_episode(recording: Recording, settings: ReadingSettings) -> Episode:
    """Aligns the streams of a recording, labels the steps and leaves out those without motion.

    The choices and what was left out are in the metadata: actions, rotation, gripper, rate_hz, dropped, holes.
    """
    for role in ("primary", "pose"):
        if role not in recording.streams:
            known = ", ".join(sorted(recording.topics)) or "none"
            raise DatasetError(
                f"{recording.name} has no messages for {role}. Its topics: {known}. Name one in `topics`."
            )
    card = labels.card_for(card_of(recording, settings), settings.rotation)
    streams = _with_opening(recording.streams, settings)
    instruction, span = instruction_of(recording, settings.instruction)
    continuous: dict[str, Stream] = {role: streams[role] for role in ("pose", "joints", "gripper") if role in streams}
    if settings.actions == "target":
        _need(recording, "target")
        continuous["target"] = streams["target"]
    latched = {role: streams[role] for role in ("gripper_command",) if role in streams}
    rate_hz = settings.rate_hz or card.rate_hz
    steps = align(streams["primary"], continuous, latched, rate_hz, settings.freshness_s, span)
    state = _state(streams, steps)
    actions, gripper, usable = _labels(recording, streams, steps, card, settings, state)
    keep = np.flatnonzero(usable)
    dropped = dict(steps.counts)
    if len(usable) > len(keep):
        dropped["without an applied action"] = int((~usable).sum())
    wanted = _wanted(card, actions[keep], settings)
    # What is left out on purpose makes no hole: the next action still begins where the last one ended.
    chosen, segment = keep[wanted], steps.without_holes(keep)[wanted]
    if len(keep) > len(chosen):
        dropped["without motion"] = len(keep) - len(chosen)
    stamps = steps.stamps_ns[chosen]
    cameras = {role: _frames(recording, role, steps, chosen, rate_hz) for role in CAMERAS if role in recording.streams}
    dropped |= {f"camera {role}, too old at some steps": 1 for role, frames in cameras.items() if frames is None}
    facts = recording.facts
    return Episode(
        name=recording.name,
        instruction=instruction,
        images={role: frames for role, frames in cameras.items() if frames is not None},
        actions=actions[chosen],
        state={name: values[chosen] for name, values in state.items()},
        times_s=(stamps - stamps[0]) / NS_PER_S if len(stamps) else np.empty(0),
        rate_hz=rate_hz,
        success={"success": True, "failure": False}.get(str(facts.get("outcome"))),
        convention=card.to_mapping(),
        metadata={
            "source": str(recording.path),
            "operator": facts.get("operator", ""),
            "robot": facts.get("robot", ""),
            "actions": settings.actions,
            "rotation": settings.rotation,
            "gripper": gripper,
            "dropped": dropped,
            "start_ns": int(stamps[0]) if len(stamps) else 0,
            "holes": (np.flatnonzero(np.diff(segment)) + 1).tolist(),
        },
    )


def card_of(recording: Recording, settings: ReadingSettings) -> ActionConvention:
    """The card of the bag, else the one of the settings. Raises ConventionError or DatasetError without one."""
    card = recording.facts.get("convention")
    if isinstance(card, Mapping):
        return convention_from_mapping(card, f"the convention card of {recording.name}")
    if settings.convention:
        return load_convention(settings.convention)
    raise DatasetError(
        f"{recording.name} carries no convention card, so nobody knows what its actions are to mean. "
        "Name one with `convention`, such as config/conventions/bridge_orig.yaml."
    )


def _need(recording: Recording, role: str) -> None:
    if role not in recording.streams:
        raise DatasetError(
            f"{recording.name} has no messages of {role}, which these actions come from. "
            f"Topics: {', '.join(sorted(recording.topics))}. Choose actions=measured, or name the topic in `topics`."
        )


def _with_opening(streams: Mapping[str, Stream], settings: ReadingSettings) -> dict[str, Stream]:
    """The streams with gripper numbers as openings; a measured opening is taken from the finger joints if need be."""
    result = dict(streams)
    for role in ("gripper", "gripper_command"):
        if role in result:
            raw = result[role].values[:, :1]
            scaled = (raw - settings.gripper_closed) / (settings.gripper_open - settings.gripper_closed)
            result[role] = replace(result[role], values=scaled)
    if "gripper" not in result and "joints" in result:
        opening, arm = opening_of_joints(result["joints"])
        result["joints"] = arm
        if opening is not None:
            result["gripper"] = opening
    if "joints" in result and not result["joints"].values.shape[1]:
        del result["joints"]
    return result


def _state(streams: Mapping[str, Stream], steps: Steps) -> dict[str, np.ndarray]:
    state = {}
    for role in ("pose", "gripper", "joints"):
        if role in streams and role in steps.latest:
            state[role] = streams[role].values[steps.latest[role]].astype(np.float32)
    return state


def _labels(
    recording: Recording,
    streams: Mapping[str, Stream],
    steps: Steps,
    card: ActionConvention,
    settings: ReadingSettings,
    state: dict[str, np.ndarray],
) -> tuple[np.ndarray, str, np.ndarray]:
    """Labels (K, 7) float32, where the gripper came from, and which steps have a label (K,) bool."""
    poses = streams["pose"].values
    starts, ends = poses[steps.latest["pose"]], poses[steps.following["pose"]]
    usable = np.ones(len(steps.stamps_ns), dtype=bool)
    if settings.actions == "applied":
        _need(recording, "applied")
        index, usable = _first_within(streams["applied"], steps)
        applied = streams["applied"].values[index]
        return labels.from_applied(card, starts, applied), "applied", usable
    openings, source = _openings(recording, streams, steps, card, settings)
    if settings.actions == "target":
        targets = streams["target"].values
        ends = targets[steps.following["target"]]
        if card.reference == "commanded":
            starts = targets[steps.latest["target"]]
    return labels.differences(card, starts, ends, openings), source, usable


def _openings(
    recording: Recording,
    streams: Mapping[str, Stream],
    steps: Steps,
    card: ActionConvention,
    settings: ReadingSettings,
) -> tuple[np.ndarray, str]:
    """The opening (K,) asked for at each step, and its source: the value in force at the next step."""
    commanded = "gripper_command" in streams
    source = settings.gripper if settings.gripper != "auto" else "command" if commanded else "measured"
    role = "gripper_command" if source == "command" else "gripper"
    if role not in streams:
        raise DatasetError(
            f"{recording.name} has no messages of {role}. Name a topic for gripper_command or gripper in `topics`; "
            "finger joints in joint_states are recognised too."
        )
    following = steps.following[role]
    values = np.clip(streams[role].values[np.maximum(following, 0), 0], 0.0, 1.0)
    if source == "command" and (following < 0).any():
        # Nothing has been asked of the gripper yet: it stays as it is measured, or open when that is not known.
        measured = "gripper" in streams and "gripper" in steps.following
        present = streams["gripper"].values[steps.following["gripper"], 0] if measured else np.ones(len(following))
        values = np.where(following < 0, present, values)
    if not settings.binary_gripper:
        return values, source
    binary = labels.binary_commands if source == "command" else labels.binary_measured
    return binary(values, card.gripper_threshold), source


def _first_within(stream: Stream, steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """For each step the first message stamped within it: indices (K,) and whether there is one (K,)."""
    series = Series.of(stream)
    place = np.searchsorted(series.stamps_ns, steps.stamps_ns, side="left")
    inside = place < len(series.stamps_ns)
    place = np.minimum(place, len(series.stamps_ns) - 1)
    inside &= series.stamps_ns[place] - steps.stamps_ns < NS_PER_S / steps.rate_hz
    return series.order[place], inside


def _wanted(card: ActionConvention, actions: np.ndarray, settings: ReadingSettings) -> np.ndarray:
    """Indices (K,) of the steps that stay."""
    indices = np.arange(len(actions))
    if settings.trim_idle and len(actions):
        indices = indices[labels.trim_idle(labels.is_idle(card, actions))]
    if settings.noop_norm > 0:
        indices = indices[labels.noop_filter(actions[indices], settings.noop_norm)]
    return indices


def _frames(recording: Recording, role: str, steps: Steps, chosen: np.ndarray, rate_hz: float) -> Any:
    """The pictures of a camera at the chosen steps; None when a further camera lacks one within a step's time."""
    if role == "primary":
        return frames_of(recording, role, steps.frames[chosen])
    stream = recording.streams[role]
    stamps = steps.stamps_ns[chosen]
    index = Series.of(stream).as_of(stamps)
    if not len(stream) or (index < 0).any() or (stamps - stream.stamps_ns[index] > NS_PER_S / rate_hz).any():
        return None
    return frames_of(recording, role, index)
