"""What the published evaluations do to a camera frame before the image processor sees it.

The order is fixed: turn by 180 degrees (LIBERO's cameras are mounted that way in the data), compress and decompress as
JPEG (the training data had been), resize to the network's size, crop the centre. The crop belongs to policies trained
with image augmentation and to no others: those saw random crops of 0.9 of the area, so at test time they are given the
middle one; a policy trained without would see everything five per cent too large. A policy trained on frames that this
project prepared itself, or on none of the above, wants the preset "none".

All steps give the pixels TensorFlow gives. Needs numpy and Pillow only.
"""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from openvla_core.errors import ConfigError, ConventionError
from openvla_core.image_processor import as_rgb
from openvla_core.jpeg import check_quality, jpeg_round_trip

# The names a convention card may give in image.preprocessing.
PRESETS = ("none", "bridge", "center_crop", "libero")

JPEG_QUALITY = 95
CROP_AREA = 0.9
MAX_SIZE = 4096


@dataclass(frozen=True)
class ImagePreparation:
    """The steps before the image processor, each one optional; with none of them the frame stays as it is.

    rotate_180: turn the frame upside down, left to right.
    jpeg_quality: 1 to 100, None for no JPEG.
    resize: side in pixels of the square the frame is stretched to, None to keep its size.
    center_crop_area: share of the area, above 0 and at most 1, that is enlarged to the whole; None for no crop.
    """

    rotate_180: bool = False
    jpeg_quality: int | None = None
    resize: int | None = None
    center_crop_area: float | None = None

    def __post_init__(self) -> None:
        if self.jpeg_quality is not None:
            check_quality(self.jpeg_quality)
        if self.resize is not None and not (type(self.resize) is int and 1 <= self.resize <= MAX_SIZE):
            raise ConfigError(f"resize is {self.resize!r}; expected a number of pixels from 1 to {MAX_SIZE}, or None.")
        if self.center_crop_area is not None:
            _check_area(self.center_crop_area)

    @classmethod
    def from_card(cls, preprocessing: str, size: int) -> "ImagePreparation":
        """The preset a convention card names, for a network that sees size x size pixels.

        "none": nothing. "bridge": JPEG and resize, as openvla-7b was evaluated on Bridge. "center_crop": the crop too,
        for fine-tunes with image augmentation. "libero": the rotation as well, for the published LIBERO fine-tunes.

        Raises ConventionError for any other name, ConfigError for a size that is not a number of pixels.
        """
        if preprocessing not in PRESETS:
            raise ConventionError(f"image.preprocessing is {preprocessing!r}; choose one of {', '.join(PRESETS)}.")
        if preprocessing == "none":
            return cls()
        return cls(
            rotate_180=preprocessing == "libero",
            jpeg_quality=JPEG_QUALITY,
            resize=size,
            center_crop_area=None if preprocessing == "bridge" else CROP_AREA,
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """image (H, W, 3) uint8 RGB -> (S, S, 3) uint8 RGB, or (H, W, 3) without resize. Raises ImageError."""
        pixels = as_rgb(image)
        if self.rotate_180:
            pixels = pixels[::-1, ::-1]
        if self.jpeg_quality is not None:
            pixels = jpeg_round_trip(pixels, self.jpeg_quality)
        if self.resize is not None:
            pixels = lanczos_resize(pixels, self.resize, self.resize)
        if self.center_crop_area is not None:
            pixels = center_crop_resize(pixels, self.center_crop_area)
        return pixels


def lanczos_resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3) uint8 by an antialiased Lanczos filter three lobes wide.

    Between its two passes the image stays in float32 and is not clipped, unlike in Pillow: next to hard edges the two
    are up to 24 grey levels apart.
    """
    if pixels.shape[:2] == (height, width):
        return pixels  # every weight would be 0 or 1
    rows = _weighted_sums(pixels.reshape(pixels.shape[0], -1), *_lanczos_weights(pixels.shape[0], height))
    columns = rows.reshape(height, -1, 3).swapaxes(0, 1).reshape(-1, height * 3)
    sums = _weighted_sums(columns, *_lanczos_weights(pixels.shape[1], width))
    resized = np.clip(np.rint(sums), 0.0, 255.0).astype(np.uint8)
    return np.ascontiguousarray(resized.reshape(width, height, 3).swapaxes(0, 1))


def center_crop_resize(pixels: np.ndarray, area: float) -> np.ndarray:
    """The middle of (H, W, 3) uint8, `area` (above 0, at most 1) of it, enlarged to (H, W, 3) uint8."""
    _check_area(area)
    side = np.sqrt(np.float32(area))
    start = (np.float32(1.0) - side) / np.float32(2.0)
    box = (start, start, start + side, start + side)
    return np.ascontiguousarray(to_bytes(crop_and_resize(to_unit_range(pixels), box, *pixels.shape[:2])))


def crop_and_resize(image: np.ndarray, box: tuple[float, float, float, float], height: int, width: int) -> np.ndarray:
    """Bilinear, without antialiasing.

    Args:
        image: (H, W, 3) float32.
        box: top, left, bottom, right in the image's own units: 0 is the middle of the first pixel, 1 of the last.
        height, width: of the result; its corner pixels lie on the corners of the box.

    Returns:
        (height, width, 3) float32; 0 where the box reaches beyond the image.
    """
    top, bottom, down, inside_y = between(box[0], box[2], image.shape[0], height)
    left, right, along, inside_x = between(box[1], box[3], image.shape[1], width)
    # Both times the lines that are picked lie together in memory: columns first, (W, 3, H), then rows, (H, 3, W).
    columns = np.ascontiguousarray(image.transpose(1, 2, 0))
    before, after = columns[left], columns[right]
    columns = before + (after - before) * along[:, None, None]
    rows = np.ascontiguousarray(columns.transpose(2, 1, 0))
    upper, lower = rows[top], rows[bottom]
    result = (upper + (lower - upper) * down[:, None, None]).transpose(0, 2, 1)
    if not (inside_y.all() and inside_x.all()):
        result = result * (inside_y[:, None] & inside_x)[:, :, None]
    return result


def to_unit_range(pixels: np.ndarray) -> np.ndarray:
    """uint8 -> float32 from 0 to 1."""
    return pixels.astype(np.float32) * np.float32(1.0 / 255.0)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """float32 from 0 to 1 -> uint8; what is outside is clipped."""
    return (np.clip(image, 0.0, 1.0) * np.float32(255.5)).astype(np.uint8)


def _check_area(area: float) -> None:
    if isinstance(area, bool) or not isinstance(area, (int, float)) or not 0.0 < area <= 1.0:
        raise ConfigError(f"center_crop_area is {area!r}; expected a share above 0 and at most 1, such as {CROP_AREA}.")


def between(start: float, end: float, old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each of `new` samples: the pixels before and after it, how far it is between them, whether it is inside."""
    first, last, span = np.float32(start), np.float32(end), np.float32(old - 1)
    if new == 1:
        places = np.full(1, np.float32(0.5) * (first + last) * span)
    else:
        places = first * span + np.arange(new, dtype=np.float32) * ((last - first) * span / np.float32(new - 1))
    inside = (places >= 0) & (places <= span)
    places = np.where(inside, places, np.float32(0.0))
    before = np.floor(places)
    return before.astype(np.intp), np.ceil(places).astype(np.intp), places - before, inside


def _weighted_sums(lines: np.ndarray, weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Lines (old, n) -> (new, n) float32: each new line is the sum of a few old ones, added in their order.

    Args:
        weights: (new, taps) float32.
        starts: (new,), the first old line that each new one needs.
    """
    sums = np.zeros((len(starts), lines.shape[1]), dtype=np.float32)
    for tap, column in enumerate(weights.T):
        # The order of additions decides the last bit, and with it which way a grey level rounds.
        sums += column[:, None] * lines[np.minimum(starts + tap, len(lines) - 1)]
    return sums


@lru_cache(maxsize=32)
def _lanczos_weights(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (new, taps) float32 and first lines (new,), in the float32 arithmetic of TensorFlow."""
    spacing = np.float32(1.0) / (np.float32(new) / np.float32(old))
    stretch = max(spacing, np.float32(1.0))  # wider than the old pixels only when shrinking: this is the antialiasing
    centers = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * spacing
    reach = np.float32(3.0) * stretch
    starts = np.maximum(np.ceil(centers - reach - np.float32(0.5)), 0.0).astype(np.intp)
    ends = np.minimum(np.floor(centers + reach - np.float32(0.5)) + 1, old).astype(np.intp)
    lines = starts[:, None] + np.arange((ends - starts).max())
    distances = np.abs((lines.astype(np.float32) + np.float32(0.5) - centers[:, None]) * (np.float32(1.0) / stretch))
    weights = np.where(lines < ends[:, None], _lanczos(distances), np.float32(0.0))
    totals = np.cumsum(weights, axis=1, dtype=np.float32)[:, -1:]
    return weights * (np.float32(1.0) / totals), starts


def _lanczos(distances: np.ndarray) -> np.ndarray:
    """sinc(x) sinc(x / 3) up to 3, then 0, in float32."""
    pi = np.float32(math.pi)
    x = np.clip(distances, np.float32(1e-3), np.float32(3.0))
    sine = _sine()
    values = np.float32(3.0) * sine(pi * x) * sine(pi * x / np.float32(3.0)) / (pi * pi * x * x)
    return np.where(distances <= 1e-3, np.float32(1.0), np.where(distances > 3.0, np.float32(0.0), values))


def _sine() -> Callable[[np.ndarray], np.ndarray]:
    """The sine of float32 numbers in the C library, which TensorFlow uses; numpy's differs in the last bit.

    Flat areas of an image end half-way between two grey levels often enough for that bit to show. Where a platform does
    not offer the function, the rounded float64 sine leaves one pixel in 2,000 off by one.
    """
    try:
        sinf = ctypes.CDLL(None).sinf
    except (AttributeError, OSError, TypeError):
        return lambda x: np.sin(x.astype(np.float64)).astype(np.float32)
    sinf.restype, sinf.argtypes = ctypes.c_float, [ctypes.c_float]
    return lambda x: np.array([sinf(float(value)) for value in x.flat], dtype=np.float32).reshape(x.shape)
