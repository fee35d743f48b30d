"""Image augmentation as the published fine-tunes had it: a random crop, then brightness, contrast, saturation and hue.

In between, an image is three planes: (3, H, W) float32 from 0 to 1, changed in place; what leaves the range is clipped.
A policy trained with the random crop must be shown the centre crop afterwards (openvla_core.image_preparation); one
trained without it must not.
"""

import math
import threading
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from openvla_core.image_preparation import between


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed; each number is drawn evenly from its range, anew for every image.

    crop_area: share of the area that is kept and enlarged again.
    brightness: largest number added or subtracted.
    contrast, saturation: smallest and largest factor.
    hue: largest turn of the colour circle in either direction, 1 being once around.
    """

    crop_area: float = 0.9
    brightness: float = 0.2
    contrast: tuple[float, float] = (0.8, 1.2)
    saturation: tuple[float, float] = (0.8, 1.2)
    hue: float = 0.05

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """pixels (H, W, 3) uint8 RGB -> the same shape, changed at random."""
        height, width = pixels.shape[:2]
        rooms = _rooms(threading.get_ident(), height, width)
        planes = crop(pixels, crop_box(self.crop_area, rng.random()), rooms)
        adjust_brightness(planes, rng.uniform(-self.brightness, self.brightness))
        adjust_contrast(planes, rng.uniform(*self.contrast))
        saturation, hue = rng.uniform(*self.saturation), rng.uniform(-self.hue, self.hue)
        image = adjust_colours(planes, saturation, hue, rooms)
        return np.multiply(image, np.float32(255.5), out=image).astype(np.uint8)


class Rooms:
    """Memory to work in, for images of one size: taking it anew for every step costs more than the arithmetic."""

    def __init__(self, height: int, width: int) -> None:
        self._bytes = [np.empty(3 * height * width, dtype=np.uint8) for _ in range(2)]
        self._floats = [np.empty(3 * height * width, dtype=np.float32) for _ in range(3)]

    def bytes(self, number: int, *shape: int) -> np.ndarray:
        return self._bytes[number].reshape(shape)

    def floats(self, number: int, *shape: int) -> np.ndarray:
        return self._floats[number].reshape(shape)


@lru_cache(maxsize=4)
def _rooms(thread: int, height: int, width: int) -> Rooms:
    return Rooms(height, width)


def crop_box(area: float, place: float) -> tuple[float, float, float, float]:
    """Top, left, bottom, right of a crop of `area`, from 0 to 1; place 0 is top left, 1 bottom right.

    One number places the crop, not two: in the published pipeline both offsets come from the same random seed, so the
    crop only ever slides along the diagonal.
    """
    side = area**0.5
    start = place * (1.0 - side)
    return start, start, start + side, start + side


def crop(pixels: np.ndarray, box: tuple[float, float, float, float], rooms: Rooms | None = None) -> np.ndarray:
    """What is inside the box, enlarged bilinearly to the size of the image: (H, W, 3) uint8 -> planes.

    The same, to the last bit, as crop_and_resize of the image in the unit range. The box must lie inside the image. The
    planes are room 1 of `rooms`.
    """
    height, width = pixels.shape[:2]
    rooms = Rooms(height, width) if rooms is None else rooms
    top, bottom, down, _ = between(box[0], box[2], height, height)
    left, right, along, _ = between(box[1], box[3], width, width)
    # What is picked lies together in memory both times: columns as bytes of all rows and channels, then rows.
    stacked = np.concatenate(cv2.split(np.ascontiguousarray(pixels)), out=rooms.bytes(0, 3 * height, width))
    columns = cv2.transpose(stacked, dst=rooms.bytes(1, width, 3 * height))
    before, after = rooms.floats(0, width, 3 * height), rooms.floats(1, width, 3 * height)
    picked = rooms.bytes(0, width, 3 * height)
    for places, values in ((left, before), (right, after)):
        np.multiply(np.take(columns, places, axis=0, out=picked, mode="clip"), np.float32(1.0 / 255.0), out=values)
    _interpolate(before, after, along[:, None])
    rows = cv2.transpose(after, dst=rooms.floats(0, 3 * height, width)).reshape(3, height, width)
    lower, upper = rooms.floats(1, 3, height, width), rooms.floats(2, 3, height, width)
    np.take(rows, bottom, axis=1, out=lower, mode="clip")
    np.take(rows, top, axis=1, out=upper, mode="clip")
    return _interpolate(upper, lower, down[:, None])


def adjust_brightness(planes: np.ndarray, delta: float) -> np.ndarray:
    """Adds `delta` to every channel."""
    planes += np.float32(delta)
    return _clip(planes)


def adjust_contrast(planes: np.ndarray, factor: float) -> np.ndarray:
    """Stretches every channel about its mean."""
    for plane in planes:
        mean = np.float32(cv2.mean(plane)[0])
        plane -= mean
        plane *= np.float32(factor)
        plane += mean
    return _clip(planes)


def adjust_colours(planes: np.ndarray, saturation: float, hue: float, rooms: Rooms | None = None) -> np.ndarray:
    """Multiplies the saturation of HSV, at most up to 1, and turns the colour circle by `hue`, 1 being once around.

    Returns (H, W, 3); the brightest channel of each pixel stays. Uses room 0 and 2 of `rooms`.
    """
    height, width = planes.shape[1:]
    rooms = Rooms(height, width) if rooms is None else rooms
    image, changed = rooms.floats(2, height, width, 3), rooms.floats(0, height, width, 3)
    cv2.cvtColor(cv2.merge(list(planes), dst=image), cv2.COLOR_RGB2HSV, dst=changed)
    degrees, saturations = changed[..., 0], changed[..., 1]
    degrees += np.float32(360.0 * math.fmod(hue, 1.0))
    if hue < 0:
        np.add(degrees, np.float32(360.0), out=degrees, where=degrees < 0)
    np.minimum(saturations * np.float32(saturation), np.float32(1.0), out=saturations)
    return cv2.cvtColor(changed, cv2.COLOR_HSV2RGB, dst=image)


def _interpolate(before: np.ndarray, after: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Turns `after` into what lies between both, `share` of the way."""
    after -= before
    after *= share
    after += before
    return after


def _clip(image: np.ndarray) -> np.ndarray:
    return np.clip(image, np.float32(0.0), np.float32(1.0), out=image)
