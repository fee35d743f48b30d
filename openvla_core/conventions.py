"""The convention card: what the numbers of an action mean. Without one, no motion.

Two checkpoints can both emit seven numbers and mean different things by them: metres or fractions of a step, base or
tool axes, Euler angles or a rotation vector, an opening or a closing gripper. The card says which, in one small file
that travels with the checkpoint (action_convention.json) and with the recordings.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core import rotations
from openvla_core.card_reader import CardReader
from openvla_core.errors import ConventionError
from openvla_core.types import Action, Pose

ACTION_DIM = 7  # x, y, z, three rotation numbers, gripper
MAX_IMAGE_SIDE, MAX_RATE_HZ = 8192, 1000.0

FRAMES = ("base",)
COMPOSITIONS = ("base_axes", "tool_axes")
REFERENCES = ("measured", "commanded")
PREPROCESSING = ("none", "bridge", "center_crop", "libero")  # openvla_core/image_preparation.py carries them out
EULER_DIFFERENCE = "euler_difference_xyz"
ROTATIONS = ("rotation_vector", "euler_xyz", EULER_DIFFERENCE)
NO_ROTATION = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class GripperConvention:
    """The gripper number that means open, the one that means closed, and where one turns into the other."""

    open: float
    closed: float
    threshold: float

    def opening(self, value: float) -> float:
        """The raw gripper number as an opening in [0, 1]: 0 closed, 1 open."""
        return min(max((value - self.closed) / (self.open - self.closed), 0.0), 1.0)

    def value(self, opening: float) -> float:
        """The raw gripper number of an opening in [0, 1]."""
        return self.closed + opening * (self.open - self.closed)


@dataclass(frozen=True)
class ImageConvention:
    """The image the policy expects: width and height in pixels, and what is done to it before the image processor."""

    width: int
    height: int
    preprocessing: str


@dataclass(frozen=True)
class ActionConvention:
    """What the seven numbers of an action mean; the fields are the keys of the card.

    rotation: "rotation_vector" and "euler_xyz" (about the fixed axes x, then y, then z) are one turn, applied to the
    reference on the side `composition` names. "euler_difference_xyz" is what is added to the roll, pitch and yaw of the
    reference, measured from `default_rotation`, the orientation (x, y, z, w) of the tool at which all three are zero.
    """

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
    default_rotation: tuple[float, float, float, float] = NO_ROTATION

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
            reference: the pose the step starts from, base frame.
        """
        translation = self.translation_scale * row[:3]
        numbers = self.rotation_scale * row[3:6]
        if self.rotation == EULER_DIFFERENCE:
            end = self._quaternion(self._angles(reference.quaternion) + numbers)
            rotation = rotations.rotation_between(reference.quaternion, end)
        elif self.rotation == "euler_xyz":
            rotation = rotations.to_rotation_vector(rotations.from_euler_xyz(numbers))
        else:
            rotation = rotations.to_rotation_vector(rotations.from_rotation_vector(numbers))
        if self.composition == "tool_axes":
            translation = rotations.rotate(reference.quaternion, translation)
            rotation = rotations.rotate(reference.quaternion, rotation)
        return Action(translation, rotation, self.gripper.opening(float(row[6])))

    def difference(self, start: Pose, end: Pose, opening: float) -> np.ndarray:
        """The row (7,) float64 whose action moves `start` to `end`: the label of a recorded step.

        Args:
            start, end: poses in the base frame.
            opening: gripper opening in [0, 1], 0 closed and 1 open.
        """
        translation = end.position - start.position
        rotation = rotations.rotation_between(start.quaternion, end.quaternion)
        if self.composition == "tool_axes":
            back = rotations.inverse(start.quaternion)
            translation, rotation = rotations.rotate(back, translation), rotations.rotate(back, rotation)
        if self.rotation == EULER_DIFFERENCE:
            rotation = _shortest_difference(self._angles(start.quaternion), self._angles(end.quaternion))
        elif self.rotation == "euler_xyz":
            rotation = rotations.to_euler_xyz(rotations.from_rotation_vector(rotation))
        numbers = (translation / self.translation_scale, rotation / self.rotation_scale)
        return np.array([*numbers[0], *numbers[1], self.gripper.value(opening)])

    def _angles(self, quaternion: np.ndarray) -> np.ndarray:
        """Roll, pitch, yaw (3,) of a tool orientation (4,), measured from the default rotation."""
        return rotations.to_euler_xyz(rotations.multiply(quaternion, rotations.inverse(self._default)))

    def _quaternion(self, angles: np.ndarray) -> np.ndarray:
        """The tool orientation (4,) with this roll, pitch and yaw (3,), measured from the default rotation."""
        return rotations.multiply(rotations.from_euler_xyz(angles), self._default)

    @property
    def _default(self) -> np.ndarray:
        return np.array(self.default_rotation)

    def to_mapping(self) -> dict[str, Any]:
        """The card as plain data, ready for JSON or YAML; a default rotation only where it has a meaning."""
        card = asdict(self)
        default_rotation = card.pop("default_rotation")
        return {**card, "default_rotation": list(default_rotation)} if self.rotation == EULER_DIFFERENCE else card


def _shortest_difference(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest (3,) to add to the angles `start` (3,) to get the rotation that has the angles `end` (3,)."""
    roll, pitch, yaw = end
    # Every rotation has two sets of angles; past pitch = 90 degrees the other set is the near one.
    other = np.array([roll + math.pi, math.pi - pitch, yaw + math.pi])
    return min((rotations.wrapped(angles - start) for angles in (end, other)), key=lambda turn: float(turn @ turn))


def convention_from_mapping(card: Mapping[str, Any], source: str = "the convention card") -> ActionConvention:
    """Reads a card; raises one ConventionError that lists everything missing or not understood."""
    problems: list[str] = []
    values = CardReader(card, "", problems)
    gripper = CardReader(values.mapping("gripper"), "gripper.", problems)
    image = CardReader(values.mapping("image"), "image.", problems)
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
        default_rotation=values.rotation("default_rotation"),
    )
    for name, given, least, most in (
        ("image.width", convention.image.width, 1, MAX_IMAGE_SIDE),
        ("image.height", convention.image.height, 1, MAX_IMAGE_SIDE),
        ("rate_hz", convention.rate_hz, 0.0, MAX_RATE_HZ),
    ):
        if not least <= given <= most and not problems:
            problems.append(f"{name} is {given:g}, expected a number from {least:g} to {most:g}")
    for part in (values, gripper, image):
        part.refuse_unknown()
    low, high = sorted((convention.gripper.open, convention.gripper.closed))
    if not problems and not low < convention.gripper.threshold < high:
        problems.append("gripper.threshold must lie between gripper.closed and gripper.open")
    if convention.rotation == EULER_DIFFERENCE:
        if convention.composition == "tool_axes":
            problems.append(f"composition must be base_axes when rotation is {EULER_DIFFERENCE}")
    elif "default_rotation" in card:
        problems.append(f"default_rotation only has a meaning when rotation is {EULER_DIFFERENCE}")
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
