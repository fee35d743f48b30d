"""Any camera picture to RGB: raw encodings by a table, JPEG and PNG by OpenCV. Duck-typed, so it needs no ROS.

Sizes are checked before anything is allocated: a camera topic is input from outside.
"""

import struct
from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np

from openvla_core.errors import ImageError

MAX_PIXELS = 4096 * 4096
MAX_BYTES = 64 * 1024 * 1024


class RawImage(Protocol):
    """The fields of sensor_msgs/Image that carry a picture."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: bytes


class EncodedImage(Protocol):
    """The fields of sensor_msgs/CompressedImage that carry a picture."""

    format: str
    data: bytes


def _as_stored(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels)  # no copy unless rows are padded


def _opencv(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: cv2.cvtColor(np.ascontiguousarray(pixels), code)


# encoding → (bytes per channel, channels as stored, conversion of the (H, W, channels) array to RGB).
# 8UC3 says nothing about colour; it is what OpenCV programs publish, so it has OpenCV's order: blue first.
# yuv422 stores U Y V Y, yuv422_yuy2 stores Y U Y V. Bayer names give the top left 2x2 pixels, row by row.
ENCODINGS: dict[str, tuple[int, int, Callable[[np.ndarray], np.ndarray]]] = {
    "rgb8": (1, 3, _as_stored),
    "bgr8": (1, 3, _opencv(cv2.COLOR_BGR2RGB)),
    "8UC3": (1, 3, _opencv(cv2.COLOR_BGR2RGB)),
    "rgba8": (1, 4, _opencv(cv2.COLOR_RGBA2RGB)),
    "bgra8": (1, 4, _opencv(cv2.COLOR_BGRA2RGB)),
    "8UC4": (1, 4, _opencv(cv2.COLOR_BGRA2RGB)),
    "mono8": (1, 1, _opencv(cv2.COLOR_GRAY2RGB)),
    "8UC1": (1, 1, _opencv(cv2.COLOR_GRAY2RGB)),
    "rgb16": (2, 3, _as_stored),
    "bgr16": (2, 3, _opencv(cv2.COLOR_BGR2RGB)),
    "rgba16": (2, 4, _opencv(cv2.COLOR_RGBA2RGB)),
    "bgra16": (2, 4, _opencv(cv2.COLOR_BGRA2RGB)),
    "mono16": (2, 1, _opencv(cv2.COLOR_GRAY2RGB)),
    "yuv422": (1, 2, _opencv(cv2.COLOR_YUV2RGB_UYVY)),
    "uyvy": (1, 2, _opencv(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": (1, 2, _opencv(cv2.COLOR_YUV2RGB_YUY2)),
    "yuyv": (1, 2, _opencv(cv2.COLOR_YUV2RGB_YUY2)),
    "bayer_rggb8": (1, 1, _opencv(cv2.COLOR_BayerRGGB2RGB)),
    "bayer_bggr8": (1, 1, _opencv(cv2.COLOR_BayerBGGR2RGB)),
    "bayer_gbrg8": (1, 1, _opencv(cv2.COLOR_BayerGBRG2RGB)),
    "bayer_grbg8": (1, 1, _opencv(cv2.COLOR_BayerGRBG2RGB)),
    "bayer_rggb16": (2, 1, _opencv(cv2.COLOR_BayerRGGB2RGB)),
    "bayer_bggr16": (2, 1, _opencv(cv2.COLOR_BayerBGGR2RGB)),
    "bayer_gbrg16": (2, 1, _opencv(cv2.COLOR_BayerGBRG2RGB)),
    "bayer_grbg16": (2, 1, _opencv(cv2.COLOR_BayerGRBG2RGB)),
}


def to_rgb(message: Any) -> np.ndarray:
    """The picture of a message shaped like RawImage or EncodedImage as a (H, W, 3) uint8 RGB array.

    An rgb8 picture without padding is the memory of the message itself, not a copy: do not write into it. 16-bit
    colours keep their upper 8 bits. Raises ImageError for an unknown encoding, sizes that contradict each other or
    exceed 4096 x 4096 pixels, and data that does not decode.
    """
    if hasattr(message, "encoding"):
        return decode_raw(
            message.data, message.height, message.width, message.step, message.encoding, bool(message.is_bigendian)
        )
    return decode_compressed(message.data, message.format)


def decode_raw(data, height: int, width: int, step: int, encoding: str, big_endian: bool = False) -> np.ndarray:
    """RGB (H, W, 3) uint8 of raw rows; `data` is any byte buffer, `step` the bytes from one row to the next.

    Shares the memory of `data` where that holds rgb8 rows without padding.
    """
    if encoding not in ENCODINGS:
        raise ImageError(
            f"image encoding {encoding!r} cannot be turned into RGB. Known: {', '.join(ENCODINGS)}. "
            "Set the camera driver to one of these (depth images are not pictures)."
        )
    item, channels, convert = ENCODINGS[encoding]
    _check_size(height, width)
    row = width * channels * item
    length = memoryview(data).nbytes
    if step < row or length != step * height:
        raise ImageError(
            f"{encoding} image of {width} x {height} has step {step} and {length} bytes; expected a step of at least "
            f"{row} and step x height = {step * height} bytes. Check the camera driver."
        )
    mosaic = encoding.startswith("bayer_")
    if (channels == 2 and width % 2) or (mosaic and (width % 2 or height % 2 or min(width, height) < 4)):
        least = "an even width and height of at least 4" if mosaic else "an even width"
        raise ImageError(f"{encoding} image of {width} x {height}; this encoding needs {least}.")
    pixels = np.frombuffer(data, np.uint8).reshape(height, step)[:, :row]
    if item == 2:
        pixels = pixels[:, 0::2] if big_endian else pixels[:, 1::2]
    return convert(pixels.reshape(height, width, channels))


def decode_compressed(data, format_name: str = "") -> np.ndarray:
    """RGB (H, W, 3) uint8 of JPEG or PNG bytes; the bytes decide, `format_name` only appears in messages."""
    encoded = bytes(data)
    if len(encoded) > MAX_BYTES:
        raise ImageError(f"compressed image has {len(encoded)} bytes; at most {MAX_BYTES} are accepted.")
    if encoded[:2] == b"\xff\xd8":
        size, complete = _jpeg_size(encoded), encoded.rstrip(b"\0")[-2:] == b"\xff\xd9"
    elif encoded[:8] == b"\x89PNG\r\n\x1a\n":
        size, complete = _png_size(encoded), encoded[-8:-4] == b"IEND"
    else:
        raise ImageError(
            f"compressed image ({format_name!r}) starts with {encoded[:8].hex() or 'nothing'}; expected JPEG or PNG. "
            "Depth and video transports are not supported; use the raw or compressed image transport."
        )
    if size is None or not complete:
        raise ImageError(f"compressed image ({format_name!r}, {len(encoded)} bytes) is cut off or damaged.")
    _check_size(*size)
    try:
        # The picture as the sensor saw it: an orientation tag must not turn it behind the policy's back.
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"compressed image ({format_name!r}) does not decode: {error}") from error
    if bgr is None:
        raise ImageError(f"compressed image ({format_name!r}, {len(encoded)} bytes) does not decode.")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ImageError(f"image of {width} x {height} pixels; expected at least 1 and at most {MAX_PIXELS} pixels.")


def _png_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", data[16:24])
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from the first frame header, without decoding."""
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", data[position + 5 : position + 9])
        position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
    return None
