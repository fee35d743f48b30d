import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_core import images
from openvla_core.errors import ImageError

RED_ISH = np.array([200, 60, 30], np.uint8)


def solid(height=8, width=6):
    return np.broadcast_to(RED_ISH, (height, width, 3)).copy()


def raw(encoding, pixels, padding=0, big_endian=0):
    """A stand-in for sensor_msgs/Image holding (H, W, C) pixels, each row followed by `padding` bytes."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=rows.shape[1],
        data=rows.tobytes(),
        is_bigendian=big_endian,
    )


def compressed(data, name="jpeg"):
    return SimpleNamespace(format=name, data=data)


def mosaic(pattern, height=8, width=8):
    """A Bayer picture of one colour whose top left 2x2 pixels are the pattern."""
    levels = [RED_ISH["rgb".index(letter)] for letter in pattern]
    return np.tile(np.array(levels, np.uint8).reshape(2, 2), (height // 2, width // 2))[..., None]


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        ("rgb8", [200, 60, 30]),
        ("bgr8", [30, 60, 200]),
        ("8UC3", [30, 60, 200]),
        ("rgba8", [200, 60, 30, 9]),
        ("bgra8", [30, 60, 200, 9]),
        ("8UC4", [30, 60, 200, 9]),
    ],
)
def test_every_channel_order_gives_rgb(encoding, stored, padding):
    pixels = np.broadcast_to(np.array(stored, np.uint8), (4, 6, len(stored)))
    assert np.array_equal(images.to_rgb(raw(encoding, pixels, padding)), solid(4, 6))


def test_an_rgb8_picture_is_the_memory_of_its_message():
    """A copy of every frame would be work for nothing: the policy only reads it."""
    message = raw("rgb8", solid(480, 640))
    assert np.shares_memory(images.to_rgb(message), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize(
    ("encoding", "channels", "padding", "copies"),
    [("rgb8", 3, 0, 0), ("rgb8", 3, 12, 1), ("bgr8", 3, 0, 1), ("bgra8", 4, 0, 1), ("mono8", 1, 0, 1)],
)
def test_no_more_memory_is_asked_for_than_the_picture_needs(encoding, channels, padding, copies):
    message = raw(encoding, np.zeros((480, 640, channels), np.uint8), padding)
    images.to_rgb(message)
    tracemalloc.start()
    try:
        rgb = images.to_rgb(message)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert copies * rgb.nbytes <= peak < (copies + 0.1) * rgb.nbytes


def test_row_order_and_column_order_survive_padding():
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(images.to_rgb(raw("rgb8", pixels, padding=11)), pixels)


def test_grey_fills_all_three_channels():
    rgb = images.to_rgb(raw("mono8", np.full((3, 4, 1), 90, np.uint8)))
    assert rgb.shape == (3, 4, 3)
    assert (rgb == 90).all()


@pytest.mark.parametrize(("big_endian", "kind"), [(0, "<u2"), (1, ">u2")])
def test_sixteen_bit_colours_keep_their_upper_bits_in_both_byte_orders(big_endian, kind):
    pixels = (solid().astype(np.uint16) * 256 + 17).astype(kind)
    assert np.array_equal(images.to_rgb(raw("rgb16", pixels, big_endian=big_endian)), solid())


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_patterns_give_their_colour_back(pattern, bits):
    pixels = mosaic(pattern)
    if bits == 16:
        pixels = pixels.astype("<u2") * 256
    assert np.array_equal(images.to_rgb(raw(f"bayer_{pattern}{bits}", pixels)), solid(8, 8))


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_packed_yuv_gives_the_colour_within_rounding(encoding, order):
    # Limited-range BT.601 of the colour (200, 60, 30).
    red, green, blue = (float(value) for value in RED_ISH)
    y = 16 + 0.257 * red + 0.504 * green + 0.098 * blue
    u = 128 - 0.148 * red - 0.291 * green + 0.439 * blue
    v = 128 + 0.439 * red - 0.368 * green - 0.071 * blue
    pair = [round({"y": y, "u": u, "v": v}[letter]) for letter in order]
    pixels = np.tile(np.array(pair, np.uint8), (4, 3)).reshape(4, 6, 2)
    assert np.abs(images.to_rgb(raw(encoding, pixels)).astype(int) - solid(4, 6)).max() <= 3


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "", "nonsense", "RGB8"])
def test_unknown_encodings_are_refused_by_name(encoding):
    message = raw("rgb8", solid())
    message.encoding = encoding
    with pytest.raises(ImageError, match="cannot be turned into RGB.*rgb8"):
        images.to_rgb(message)


@pytest.mark.parametrize(
    "change",
    [
        {"step": 17},
        {"step": 19},
        {"height": 9},
        {"width": 7},
        {"data": b""},
        {"height": 0},
        {"width": 0, "step": 0, "data": b""},
    ],
)
def test_sizes_that_contradict_each_other_are_refused(change):
    message = raw("rgb8", solid())
    vars(message).update(change)
    with pytest.raises(ImageError):
        images.to_rgb(message)


def test_too_many_pixels_are_refused_before_looking_at_the_data():
    message = raw("rgb8", solid())
    vars(message).update(height=8192, width=8192, step=3 * 8192)
    with pytest.raises(ImageError, match="at most"):
        images.to_rgb(message)


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.sampled_from([*images.ENCODINGS, "16UC1"]),
    height=st.integers(0, 20),
    width=st.integers(0, 20),
    step=st.integers(0, 90),
    length=st.integers(0, 2000),
)
def test_any_header_gives_a_picture_of_its_size_or_an_image_error(encoding, height, width, step, length):
    message = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, data=b"\7" * length, is_bigendian=0
    )
    try:
        assert images.to_rgb(message).shape == (height, width, 3)
    except ImageError:
        pass


@pytest.mark.parametrize(("encoding", "channels"), [("bgr8", 3), ("bgra8", 4), ("mono8", 1), ("uyvy", 2)])
def test_a_converted_picture_is_a_copy_of_its_own(encoding, channels):
    message = raw(encoding, np.full((4, 6, channels), 90, np.uint8))
    message.data = bytearray(message.data)
    rgb = images.to_rgb(message)
    before = rgb.copy()
    message.data[:] = bytes(len(message.data))
    assert np.array_equal(rgb, before)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_compressed_pictures_come_back_as_rgb(extension):
    data = cv2.imencode(extension, cv2.cvtColor(solid(32, 48), cv2.COLOR_RGB2BGR))[1].tobytes()
    rgb = images.to_rgb(compressed(data, "rgb8; jpeg compressed bgr8"))
    assert rgb.shape == (32, 48, 3)
    assert np.abs(rgb.astype(int) - solid(32, 48)).max() <= 3


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.99])
def test_truncated_pictures_are_refused(extension, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = cv2.imencode(extension, noise)[1].tobytes()
    with pytest.raises(ImageError):
        images.to_rgb(compressed(data[: int(len(data) * share)]))


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(20), b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n"])
def test_what_is_not_a_picture_is_refused(data):
    with pytest.raises(ImageError):
        images.to_rgb(compressed(data))


def test_a_decompression_bomb_is_refused_from_its_header():
    data = bytearray(cv2.imencode(".png", solid())[1].tobytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ImageError, match="60000 x 60000"):
        images.to_rgb(compressed(bytes(data)))


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), extension=st.sampled_from([".jpg", ".png"]))
def test_a_damaged_byte_gives_a_picture_or_an_image_error(position, value, extension):
    data = bytearray(cv2.imencode(extension, np.arange(48 * 32, dtype=np.uint8).reshape(32, 48))[1].tobytes())
    data[position % len(data)] = value
    try:
        assert images.to_rgb(compressed(bytes(data))).ndim == 3
    except ImageError:
        pass
