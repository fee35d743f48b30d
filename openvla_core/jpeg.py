"""What JPEG does to an image, as TensorFlow decodes it: the published policies were trained on such frames.

TensorFlow reads JPEG with the fast integer cosine transform, Pillow and OpenCV with the accurate one. On one and the
same file they differ by one grey level on average and by ten on hard edges, and neither Pillow nor OpenCV can be asked
for the fast one. Entropy coding loses nothing, so it is left out: pixels are transformed, rounded and transformed back.
The integer arithmetic is that of libjpeg: its accurate forward and its fast inverse transform, one chroma sample for
2 x 2 pixels, and its triangle filter to bring chroma back to full size. Needs numpy and Pillow only.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image

from openvla_core.errors import ConfigError

# An 8-point cosine transform in units of 1/8192, with libjpeg's roundings: a row per frequency, the first four samples.
# The last four mirror them, negated at odd frequencies.
_FIRST_HALF = np.array(
    (
        (8192, 8192, 8192, 8192),
        (11363, 9633, 6437, 2260),
        (10703, 4433, -4433, -10703),
        (9633, -2259, -11362, -6436),
        (8192, -8192, -8192, 8192),
        (6437, -11362, 2261, 9633),
        (4433, -10704, 10704, -4433),
        (2260, -6436, 9633, -11363),
    ),
    dtype=np.float64,
)
COSINES = np.concatenate([_FIRST_HALF, _FIRST_HALF[:, ::-1] * np.array([1, -1] * 4)[:, None]], axis=1)


def jpeg_round_trip(pixels: np.ndarray, quality: int = 95) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same shape after JPEG encoding with 4:2:0 chroma and TensorFlow's decoding.

    Raises ConfigError when quality is not a whole number from 1 to 100.
    """
    check_quality(quality)
    height, width = pixels.shape[:2]
    luma_steps, chroma_steps = _quantization_steps(quality)
    luma, blue, red = _luma_chroma(pixels)
    luma = _through_blocks(luma, luma_steps)
    blue, red = (_enlarge(_through_blocks(_shrink(plane), chroma_steps), height, width) for plane in (blue, red))
    return _rgb(luma[:height, :width], blue - 128, red - 128)


def check_quality(quality: int) -> None:
    """Raises ConfigError unless quality is a whole number from 1 to 100."""
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ConfigError(f"the JPEG quality is {quality!r}; expected a whole number from 1 to 100.")


@lru_cache(maxsize=8)
def _quantization_steps(quality: int) -> tuple[np.ndarray, np.ndarray]:
    """(8, 8) int32 for luma and chroma: the tables libjpeg writes at this quality."""
    stored = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stored, "JPEG", quality=quality)
    with Image.open(stored) as image:
        tables = image.quantization
    luma, chroma = (np.array(tables[index], dtype=np.int32).reshape(8, 8) for index in (0, 1))
    return luma, chroma


def _fixed(value: float) -> int:
    return int(value * 65536 + 0.5)


def _luma_chroma(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    red, green, blue = (pixels[:, :, channel].astype(np.int32) for channel in range(3))
    half = 1 << 15
    center = (128 << 16) + half - 1
    luma = _fixed(0.299) * red + _fixed(0.587) * green + _fixed(0.114) * blue + half
    blueness = half * blue - _fixed(0.168735892) * red - _fixed(0.331264108) * green + center
    redness = half * red - _fixed(0.418687589) * green - _fixed(0.081312411) * blue + center
    return luma >> 16, blueness >> 16, redness >> 16


def _rgb(luma: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    half = 1 << 15
    channels = (
        luma + ((_fixed(1.402) * red + half) >> 16),
        luma + ((-_fixed(0.34414) * blue - _fixed(0.71414) * red + half) >> 16),
        luma + ((_fixed(1.772) * blue + half) >> 16),
    )
    return np.clip(np.stack(channels, axis=2), 0, 255).astype(np.uint8)


def _shrink(plane: np.ndarray) -> np.ndarray:
    """(H, W) -> (ceil(H / 2), 8 n): means of 2 x 2; halves round down and up in turn, so that none drifts."""
    height, width = plane.shape
    plane = np.pad(plane, ((0, height % 2), (0, -width % 16)), mode="edge")
    sums = plane[::2, ::2] + plane[::2, 1::2] + plane[1::2, ::2] + plane[1::2, 1::2]
    return (sums + 1 + np.arange(sums.shape[1]) % 2) >> 2


def _enlarge(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Back to (height, width): each new sample is 3/4 of the nearer and 1/4 of the next one, along both axes."""
    plane = plane[: (height + 1) // 2, : (width + 1) // 2]
    if plane.shape[1] <= 2:  # libjpeg does not interpolate so few
        return plane.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    rows = _interleave(3 * plane + _previous(plane, 0), 3 * plane + _next(plane, 0), 0)
    left, right = (3 * rows + _previous(rows, 1) + 8) >> 4, (3 * rows + _next(rows, 1) + 7) >> 4
    return _interleave(left, right, 1)[:height, :width]


def _previous(plane: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate([plane.take([0], axis), plane.take(range(plane.shape[axis] - 1), axis)], axis)


def _next(plane: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate([plane.take(range(1, plane.shape[axis]), axis), plane.take([-1], axis)], axis)


def _interleave(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    shape = (2 * first.shape[0], first.shape[1]) if axis == 0 else (first.shape[0], -1)
    return np.stack([first, second], axis + 1).reshape(shape)


def _through_blocks(plane: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(H, W) int32 -> the same, padded to whole blocks of 8 x 8, transformed, rounded to `steps`, transformed back."""
    plane = np.pad(plane, [(0, -side % 8) for side in plane.shape], mode="edge")
    rows, columns = (side // 8 for side in plane.shape)
    blocks = plane.reshape(rows, 8, columns, 8).transpose(1, 3, 0, 2).reshape(8, 8, -1) - 128
    levels = _levels(_forward(blocks), steps)
    blocks = np.clip((_inverse(levels, steps) >> 5) + 128, 0, 255)
    return blocks.reshape(8, 8, rows, columns).transpose(2, 0, 3, 1).reshape(plane.shape)


def _forward(blocks: np.ndarray) -> np.ndarray:
    """(8, 8, n) samples -> (8, 8, n) float64 coefficients times 8: rows first, then columns, rounded after each."""
    # Products of whole numbers this small are exact in float64.
    along_rows = np.floor((np.matmul(COSINES, blocks.astype(np.float64)) + 2.0**10) / 2.0**11)
    columns = along_rows.reshape(8, -1)
    return np.floor((COSINES @ columns + 2.0**14) / 2.0**15).reshape(blocks.shape)


def _levels(coefficients: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Coefficients times 8 divided by their steps, halves away from zero, as int32."""
    divisor = 8.0 * steps[:, :, None]
    return (np.sign(coefficients) * np.floor((np.abs(coefficients) + divisor / 2) / divisor)).astype(np.int32)


def _inverse(levels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(8, 8, n) levels -> (8, 8, n) int32 samples times 32, by the fast transform of Arai, Agui and Nakajima."""
    scale = np.cos(np.arange(8) * np.pi / 16) * np.sqrt(2.0)
    scale[0] = 1.0
    fine = np.floor(np.outer(scale, scale) * 2.0**14 + 0.5).astype(np.int64)
    scaled = levels * ((steps * fine + (1 << 11)) >> 12).astype(np.int32)[:, :, None]
    return _inverse_1d(_inverse_1d(scaled).swapaxes(0, 1)).swapaxes(0, 1)


def _inverse_1d(x: np.ndarray) -> np.ndarray:
    """Along the first axis. Products are cut to 8 fractional bits, downwards: this is what makes it fast and coarse."""

    def times(values: np.ndarray, factor: int) -> np.ndarray:
        return (values * factor) >> 8

    sum04, difference04, sum26 = x[0] + x[4], x[0] - x[4], x[2] + x[6]
    turned = times(x[2] - x[6], 362) - sum26  # 362 / 256 = sqrt 2
    even = (sum04 + sum26, difference04 + turned, difference04 - turned, sum04 - sum26)
    sum53, difference53, sum17, difference17 = x[5] + x[3], x[5] - x[3], x[1] + x[7], x[1] - x[7]
    odd0 = sum17 + sum53
    common = times(difference53 + difference17, 473)
    odd1 = times(difference53, -669) + common - odd0
    odd2 = times(sum17 - sum53, 362) - odd1
    odd3 = times(difference17, 277) - common + odd2
    pairs = list(zip(even, (odd0, odd1, odd2, -odd3), strict=True))
    return np.stack([e + o for e, o in pairs] + [e - o for e, o in reversed(pairs)])
