"""Pillow's antialiased resize in torch, bit for bit, on any device.

Pillow resamples bytes with integers: every weight is rounded to a multiple of 2**-22, and every sum of weighted bytes
to the nearest byte, in one pass along the rows and one along the columns. Here both passes are matrix products in
float64, which are exact in whatever order a device adds: all sums are whole numbers below 2**53.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor

ONE = 2.0**22  # the weight 1 in Pillow's fixed-point numbers

Filter = Callable[[np.ndarray], np.ndarray]


def resample(pixels: Tensor, columns: Tensor | None, rows: Tensor | None, rows_first: bool = False) -> Tensor:
    """Resizes planes of bytes.

    Args:
        pixels: (C, H, W) float64 holding whole numbers from 0 to 255.
        columns: (W, w) float64 from `resize_matrix`, transposed; None leaves the width as it is.
        rows: (h, H) float64 from `resize_matrix`; None leaves the height as it is.
        rows_first: whether the height changes before the width. Between the passes bytes are rounded, so that the order
            shows in single grey levels. Pillow up to 12 begins with the width; 13 begins with the height where that
            shrinks more.

    Returns:
        (C, h, w) float64, whole numbers from 0 to 255.
    """
    if rows is not None and rows_first:
        pixels = _to_bytes(rows @ pixels)
    if columns is not None:
        pixels = _to_bytes(pixels @ columns)
    return pixels if rows is None or rows_first else _to_bytes(rows @ pixels)


def resize_matrix(old: int, new: int, interpolation: int) -> np.ndarray:
    """(new, old) float64: Pillow's whole-numbered weight of each of `old` pixels in each of `new` ones, times 2**22.

    interpolation: Pillow's number of a filter; one of FILTERS.
    """
    weigh, reach = FILTERS[interpolation]
    scale = old / new
    spread = max(scale, 1.0)  # a smaller image is made of wider windows
    centers = (np.arange(new) + 0.5) * scale
    starts = np.maximum((centers - reach * spread + 0.5).astype(np.int64), 0)
    ends = np.minimum((centers + reach * spread + 0.5).astype(np.int64), old)
    places = starts[:, None] + np.arange((ends - starts).max())
    inside = places < ends[:, None]
    weights = np.where(inside, weigh((places - centers[:, None] + 0.5) * (1.0 / spread)), 0.0)
    # Summed from left to right: numpy's own sum adds in pairs, which rounds otherwise.
    sums = weights.cumsum(axis=1)[:, -1:]
    fixed = weights / np.where(sums == 0.0, 1.0, sums) * ONE
    matrix = np.zeros((new, old))
    line, _ = np.nonzero(inside)
    matrix[line, places[inside]] = np.trunc(fixed + np.copysign(0.5, fixed))[inside]
    return matrix


def _to_bytes(sums: Tensor) -> Tensor:
    return sums.add_(ONE / 2).mul_(1 / ONE).floor_().clamp_(0.0, 255.0)


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


# How much a pixel at a distance counts, and up to which distance any does; in pixels of the smaller image.
FILTERS: dict[int, tuple[Filter, float]] = {
    int(Image.Resampling.BILINEAR): (_bilinear, 1.0),
    int(Image.Resampling.BICUBIC): (_bicubic, 2.0),
    int(Image.Resampling.LANCZOS): (_lanczos, 3.0),
}
