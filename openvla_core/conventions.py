"""The convention card: what the numbers of an action mean. Without one, no motion.

Two checkpoints can both emit seven numbers and mean different things by them: metres or fractions of a step, base or
tool axes, Euler angles or a rotation vector, an opening or a closing gripper. The card says which, in one small file
that travels with the checkpoint (action_convention.json) and with the recordings.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core import rotations
from openvla_core.errors import ConventionError
from openvla_core.types import Action, Pose

ACTION_DIM = 7  # x, y, z, three rotation numbers, gripper

FRAMES = ("base",)
COMPOSITIONS = ("base_axes", "tool_axes")
REFERENCES = ("measured", "commanded")
PREPROCESSING = ("none",)
# Each reads three numbers of the action, already scaled to radians, as a quaternion.
ROTATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rotation_vector": rotations.from_rotation_vector,
    "euler_xyz": rotations.from_euler_xyz,
}


@dataclass(frozen=True)
class GripperConvention:
    """The gripper number that means open, the one that means closed, and where one turns into the other."""

    open: float
    closed: float
    threshold: float

    def opening(self, value: float) -> float:
        """The raw gripper number as an opening in [0, 1]: 0 closed, 1 open."""
        return min(max((value - self.closed) / (self.open - self.closed), 0.0), 1.0)


@dataclass(frozen=True)
class ImageConvention:
    """The image the policy expects: width and height in pixels, and what is done to it before the image processor."""

    width: int
    height: int
    preprocessing: str


@dataclass(frozen=True)
class ActionConvention:
    """What the seven numbers of an action mean; the fields are the keys of the card."""

    name: str
    frame: str
    composition: str
    rotation: str
    translation_scale: float
    rotation_scale: float
    reference: str
    gripper: GripperConvention
    rate_hz: float
    tool_link: str
    image: ImageConvention

    @property
    def gripper_threshold(self) -> float:
        """The opening in [0, 1] above which the gripper is to be open."""
        return self.gripper.opening(self.gripper.threshold)

    def size(self, row: np.ndarray) -> tuple[float, float]:
        """How far a row (7,) asks to go: metres and radians, before anything wraps at a full turn."""
        return self.translation_scale * math.hypot(*row[:3]), self.rotation_scale * math.hypot(*row[3:6])

    def action(self, row: np.ndarray, reference: Pose) -> Action:
        """One row of a chunk (7,) as a step in base axes.

        Args:
            row: finite float64 numbers, in the units of this card.
            reference: the pose the step starts from, base frame; it turns tool axes into base axes.
        """
        translation = self.translation_scale * row[:3]
        rotation = rotations.to_rotation_vector(ROTATIONS[self.rotation](self.rotation_scale * row[3:6]))
        if self.composition == "tool_axes":
            translation = rotations.rotate(reference.quaternion, translation)
            rotation = rotations.rotate(reference.quaternion, rotation)
        return Action(translation, rotation, self.gripper.opening(float(row[6])))

    def to_mapping(self) -> dict[str, Any]:
        """The card as plain data, ready for JSON or YAML."""
        return asdict(self)


def convention_from_mapping(card: Mapping[str, Any], source: str = "the convention card") -> ActionConvention:
    """Reads a card; raises one ConventionError that lists everything missing or not understood."""
    problems: list[str] = []
    values = _Card(card, "", problems)
    gripper = _Card(values.mapping("gripper"), "gripper.", problems)
    image = _Card(values.mapping("image"), "image.", problems)
    convention = ActionConvention(
        name=values.text("name"),
        frame=values.choice("frame", FRAMES),
        composition=values.choice("composition", COMPOSITIONS),
        rotation=values.choice("rotation", tuple(ROTATIONS)),
        translation_scale=values.number("translation_scale", above=0.0),
        rotation_scale=values.number("rotation_scale", above=0.0),
        reference=values.choice("reference", REFERENCES),
        gripper=GripperConvention(gripper.number("open"), gripper.number("closed"), gripper.number("threshold")),
        rate_hz=values.number("rate_hz", above=0.0),
        tool_link=values.text("tool_link"),
        image=ImageConvention(
            width=int(image.number("width", above=0.0)),
            height=int(image.number("height", above=0.0)),
            preprocessing=image.choice("preprocessing", PREPROCESSING),
        ),
    )
    for part in (values, gripper, image):
        part.refuse_unknown()
    low, high = sorted((convention.gripper.open, convention.gripper.closed))
    if not problems and not low < convention.gripper.threshold < high:
        problems.append("gripper.threshold must lie between gripper.closed and gripper.open")
    if problems:
        raise ConventionError(
            f"{source} cannot be used: {'; '.join(problems)}. Without a complete card the arm does not move. "
            "See config/conventions for examples."
        )
    return convention


def load_convention(path: str | Path) -> ActionConvention:
    """Reads a card from a .json, .yaml or .yml file; raises ConventionError when it cannot be read or understood."""
    given, path = path, Path(path)
    if not path.is_file():
        raise ConventionError(
            f"no convention card at {str(given)!r}. Set the parameter convention to the checkpoint's "
            "action_convention.json or to a card in config/conventions."
        )
    try:
        card = _parse(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise ConventionError(f"the convention card {path} is not valid {path.suffix[1:]}: {error}") from error
    if not isinstance(card, Mapping):
        raise ConventionError(f"the convention card {path} holds {type(card).__name__}; it must hold names and values.")
    return convention_from_mapping(card, source=f"the convention card {path}")


def _parse(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    import yaml  # only needed for cards written by hand

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


class _Card:
    """Reads one level of a card and collects what is wrong with it instead of stopping at the first problem."""

    def __init__(self, values: Mapping[str, Any], prefix: str, problems: list[str]) -> None:
        self._values = values
        self._prefix = prefix
        self._problems = problems
        self._known: set[str] = set()

    def _get(self, key: str) -> Any:
        self._known.add(key)
        if key not in self._values:
            self._problems.append(f"{self._prefix}{key} is missing")
            return None
        return self._values[key]

    def _expect(self, key: str, value: Any, expected: str) -> None:
        self._problems.append(f"{self._prefix}{key} is {value!r}, expected {expected}")

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self._get(key)
        if value is not None and not isinstance(value, Mapping):
            self._expect(key, value, "names and values")
        return value if isinstance(value, Mapping) else {}

    def text(self, key: str) -> str:
        value = self._get(key)
        if key in self._values and not (isinstance(value, str) and value.strip()):
            self._expect(key, value, "a word")
        return value if isinstance(value, str) else ""

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self._get(key)
        if key in self._values and value not in choices:
            self._expect(key, value, f"one of {', '.join(choices)}")
        return value if isinstance(value, str) else ""

    def number(self, key: str, above: float = -math.inf) -> float:
        value = self._get(key)
        good = (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > above
        )
        if key in self._values and not good:
            self._expect(key, value, "a finite number" + (f" above {above:g}" if above > -math.inf else ""))
        return float(value) if good else 0.0

    def refuse_unknown(self) -> None:
        for key in self._values:
            if key not in self._known:
                self._problems.append(f"{self._prefix}{key} is not understood")
