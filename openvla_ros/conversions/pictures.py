"""Camera images."""

import array

import cv2
import numpy as np

from openvla_core import images
from openvla_ros import topics
from openvla_ros.conversions.headers import set_header


def to_rgb(message: topics.Image | topics.CompressedImage) -> np.ndarray:
    """The picture of an Image or CompressedImage, (H, W, 3) uint8 RGB. Raises ImageError.

    That of an rgb8 Image shares the memory of the message: do not write into it.
    """
    return images.to_rgb(message)


def image_bytes(message: topics.Image | topics.CompressedImage) -> np.ndarray:
    """The bytes of an Image or CompressedImage as they came, (n,) uint8; not a copy."""
    return np.frombuffer(message.data, dtype=np.uint8)


def image_message(rgb: np.ndarray, stamp_ns: int, frame: str) -> topics.Image:
    """An rgb8 Image of a (H, W, 3) uint8 array."""
    height, width, _ = rgb.shape
    message = topics.Image(height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width)
    # Filling an array.array from memory is 30 times faster than assigning bytes (the setter copies item by item).
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(rgb).data.cast("B"))
    message.data = data
    return set_header(message, stamp_ns, frame)


def jpeg_message(message: topics.Image, quality: int) -> topics.CompressedImage:
    """The same picture as a JPEG file of this quality, with the same header. Raises ImageError."""
    rgb = to_rgb(message)
    _, encoded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    data = array.array("B")
    data.frombytes(encoded.data)
    return topics.CompressedImage(header=message.header, format="rgb8; jpeg compressed bgr8", data=data)
