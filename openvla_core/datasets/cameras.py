"""Which camera is which, and pictures as files: what every format of demonstrations has to settle."""

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np

from openvla_core.datasets.episode import PRIMARY, WRIST, Episode, Frames
from openvla_core.errors import DatasetError

WRIST_WORDS = ("wrist", "hand", "gripper")


def picture_file(frames: Frames, index: int) -> bytes:
    """The JPEG or PNG file of a frame as it was stored, or a new PNG file of its pixels: nothing is lost."""
    stored = frames.encoded(index)
    return encode_png(frames[index]) if stored is None else stored


def encode_png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a PNG file. Raises DatasetError for another shape or type."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise DatasetError(f"a frame has shape {pixels.shape} and type {pixels.dtype}; expected (H, W, 3) uint8 RGB.")
    written, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not written:
        raise DatasetError(f"a frame of shape {pixels.shape} cannot be written as PNG.")
    return data.tobytes()


def frame_shape(episode: Episode, camera: str) -> tuple[int, int, int]:
    """Height, width and 3 of the first frame. Raises DatasetError for an episode without steps."""
    if not len(episode):
        raise DatasetError(f"episode {episode.name!r} has no steps; leave it out.")
    height, width, channels = episode.images[camera][0].shape
    return height, width, channels


def name_cameras(keys: Sequence[str], chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Camera name -> key in the data set.

    `chosen` decides when it is given. Otherwise the names are the last words of the keys; if none of them is "primary",
    the first key that does not speak of a wrist is, and the first that does is "wrist".
    Raises DatasetError when `chosen` names a key that is not there.
    """
    if chosen is not None:
        unknown = sorted(set(chosen.values()) - set(keys))
        if unknown:
            raise DatasetError(f"the data set has no camera {unknown}. It has: {sorted(keys)}.")
        return dict(chosen)
    names = {key: _last_word(key) for key in keys}
    if PRIMARY not in names.values():
        outside = [key for key in keys if not _on_wrist(key)]
        names |= dict.fromkeys(outside[:1], PRIMARY)
    if WRIST not in names.values():
        names |= dict.fromkeys([key for key in keys if _on_wrist(key)][:1], WRIST)
    return {name: key for key, name in names.items()}


def distinct(names: Iterable[str], what: str) -> None:
    """Raises DatasetError when a name is there twice."""
    names = list(names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{what} {twice} would be there twice; rename one.")


def _last_word(key: str) -> str:
    return key.removeprefix("observation.images.").removeprefix("observation.").replace("/", "_")


def _on_wrist(key: str) -> bool:
    return any(word in key.lower() for word in WRIST_WORDS)
