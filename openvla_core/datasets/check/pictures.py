"""The pictures of an episode in numbers, measured once: one decoded picture in memory at a time."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np

SIDE = 64  # pixels of the small grey copies that motion is measured on
MEASURED_WIDTH = 160  # sharpness is measured at one width, or a larger camera would seem blurred
THUMBNAIL_WIDTH = 160
WHITE = 250


@dataclass
class Pictures:
    """N pictures; rows of NaN for those that did not decode.

    times_s (N,) from the first frame. sizes: (width, height) of each, (0, 0) if damaged. brightness, white, sharpness,
    change (N,): mean grey level, share of white pixels, variance of the Laplacian, mean grey level difference to the
    picture before (0 where both are equal in every pixel). color (3,): mean red, green, blue.
    damaged: what is wrong with those that did not decode. thumbnails: some small JPEG files with their times.
    """

    times_s: np.ndarray
    sizes: list[tuple[int, int]] = field(default_factory=list)
    brightness: np.ndarray = field(default_factory=lambda: np.empty(0))
    white: np.ndarray = field(default_factory=lambda: np.empty(0))
    sharpness: np.ndarray = field(default_factory=lambda: np.empty(0))
    change: np.ndarray = field(default_factory=lambda: np.empty(0))
    color: np.ndarray = field(default_factory=lambda: np.full(3, np.nan))
    damaged: dict[int, str] = field(default_factory=dict)
    thumbnails: list[tuple[float, bytes]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.times_s)


def measure(pictures: Iterable[np.ndarray | Exception], times_s: np.ndarray, thumbnails: int = 5) -> Pictures:
    """Looks at every picture (H, W, 3) uint8 RGB once; an error in the place of a picture is one that is damaged."""
    result = Pictures(np.asarray(times_s))
    shown = set(np.linspace(0, max(len(times_s) - 1, 0), thumbnails).astype(int).tolist())
    rows, colors = [], []
    before: np.ndarray | None = None
    small_before: np.ndarray | None = None
    for i, picture in zip(range(len(times_s)), pictures, strict=False):
        if isinstance(picture, Exception):
            result.sizes.append((0, 0))
            result.damaged[i] = str(picture)
            rows.append([np.nan] * 4)
            continue
        result.sizes.append((picture.shape[1], picture.shape[0]))
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        change = np.nan
        if small_before is not None:
            change = float(np.abs(small - small_before).mean())
            if change == 0 and before is not None and not np.array_equal(before, picture):
                change = 1e-6
        rows.append([float(grey.mean()), float((grey >= WHITE).mean()), _sharpness(grey), change])
        colors.append(picture.reshape(-1, 3).mean(axis=0))
        before, small_before = picture, small
        if i in shown:
            result.thumbnails.append((float(times_s[i]), _thumbnail(picture)))
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    result.brightness, result.white, result.sharpness, result.change = table.T
    if colors:
        result.color = np.mean(colors, axis=0)
    return result


def _sharpness(grey: np.ndarray) -> float:
    height = max(1, round(grey.shape[0] * MEASURED_WIDTH / grey.shape[1]))
    shrunk = cv2.resize(grey, (MEASURED_WIDTH, height), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(shrunk, cv2.CV_64F).var())


def _thumbnail(picture: np.ndarray) -> bytes:
    height = max(1, round(picture.shape[0] * THUMBNAIL_WIDTH / picture.shape[1]))
    shrunk = cv2.resize(picture, (THUMBNAIL_WIDTH, height), interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(shrunk, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return encoded[1].tobytes()
