"""One demonstration, whatever file it came from: frames, an instruction, states and actions at one rate."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from openvla_core.errors import DatasetError
from openvla_core.images import decode_compressed

PRIMARY = "primary"  # the third-person camera that the policy looks through
SECONDARY = "secondary"
WRIST = "wrist"


class Frames(Protocol):
    """The pictures of one camera, decoded when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""

    def encoded(self, index: int) -> bytes | None:
        """The JPEG or PNG file of the picture as it was stored; None when it was stored as plain pixels."""


class PixelFrames:
    """Frames held as pixels: (T, H, W, 3) uint8 RGB, or a sequence of (H, W, 3)."""

    def __init__(self, pixels: np.ndarray | Sequence[np.ndarray]) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self._pixels[index])

    def encoded(self, index: int) -> bytes | None:
        return None


class EncodedFrames:
    """Frames held as JPEG or PNG files in memory."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> np.ndarray:
        return decode_compressed(self._files[index])

    def encoded(self, index: int) -> bytes | None:
        return self._files[index]


@dataclass(frozen=True)
class Episode:
    """T steps of one demonstration.

    name: unique in its data set. instruction: as it was given; empty when there was none.
    images: camera name ("primary", "secondary", "wrist") -> T frames.
    actions: (T, D) float32; what was done after frame t, in the units and frame of the convention; the last number is
    the gripper. state: name -> (T, n) float32, such as "pose" (T, 7): position in metres and quaternion x, y, z, w of
    the tool in the base frame; "gripper" (T, 1): 0 closed to 1 open; "joints" (T, n) radians.
    times_s: (T,) float64 seconds since the first frame. rate_hz: nominal steps per second, 0 when unknown.
    success: the operator's verdict, None when not told. convention: the card's values, None when unknown.
    metadata: anything else worth keeping, JSON-like (operator, robot, source, ...). Its "holes" are the steps before
    which something is missing in the recording.
    """

    name: str
    instruction: str
    images: Mapping[str, Frames]
    actions: np.ndarray
    state: Mapping[str, np.ndarray]
    times_s: np.ndarray
    rate_hz: float
    success: bool | None = None
    convention: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises DatasetError when the parts do not have one length."""
        steps = len(self.times_s)
        lengths = {"actions": len(self.actions)}
        lengths |= {f"images[{name}]": len(frames) for name, frames in self.images.items()}
        lengths |= {f"state[{name}]": len(values) for name, values in self.state.items()}
        wrong = {name: length for name, length in lengths.items() if length != steps}
        if wrong:
            raise DatasetError(f"episode {self.name!r} has {steps} times, but {wrong}; every part needs one per step.")
        if self.actions.ndim != 2:
            raise DatasetError(f"episode {self.name!r} has actions of shape {self.actions.shape}; expected (steps, D).")
        holes = self.metadata.get("holes", [])
        fits = isinstance(holes, list) and all(type(step) is int and 0 < step < steps for step in holes)
        if not fits or sorted(set(holes)) != holes:
            raise DatasetError(f"episode {self.name!r} has holes {holes!r}; expected rising numbers of its steps.")

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def segment(self) -> np.ndarray:
        """(T,) int64, equal for steps that follow each other without a hole; chunks of actions never cross one."""
        return np.searchsorted(self.metadata.get("holes", []), np.arange(len(self)), side="right")


class EpisodeSource(Protocol):
    """A data set that hands out episodes one by one, so that none has to fit into memory with the others."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Episode: ...

    def __iter__(self) -> Iterator[Episode]: ...
