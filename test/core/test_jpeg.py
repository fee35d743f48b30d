"""The JPEG round trip in numpy does what libjpeg does; Pillow, which is built on libjpeg, is the witness."""

import io

import numpy as np
import pytest
from PIL import Image

from openvla_core import jpeg
from openvla_core.errors import ConfigError


def frames(count=60):
    """Noise and smooth gradients of odd sizes, the smallest included, with a quality each."""
    rng = np.random.default_rng(0)
    for index in range(count):
        height, width = rng.integers(1, 6 if index % 3 == 0 else 70, 2)
        noise = rng.integers(0, 256, (height, width, 3))
        ramp = 3 * np.arange(height)[:, None, None] + 2 * np.arange(width)[:, None] + np.array([0, 40, 80])
        pixels = noise if index % 2 else np.clip(ramp + noise % 19, 0, 255)
        yield pixels.astype(np.uint8), int(rng.choice([1, 10, 50, 75, 90, 95, 99, 100]))


def opened(pixels, quality):
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG", quality=quality, subsampling=2)
    return Image.open(stored)


def accurate_inverse(levels, steps):
    """libjpeg's accurate inverse transform is its forward one transposed, with its own places to round."""
    columns = (levels * steps[:, :, None]).astype(np.float64).reshape(8, -1)
    rows = np.floor((jpeg.COSINES.T @ columns + 2.0**10) / 2.0**11).reshape(levels.shape)
    samples = np.floor((np.matmul(jpeg.COSINES.T, rows) + 2.0**17) / 2.0**18)
    return 32 * samples.astype(np.int32)


def test_with_the_accurate_transform_every_pixel_is_that_of_pillow(monkeypatch):
    """So colours, chroma in both directions, padding, forward transform and rounding are libjpeg's."""
    monkeypatch.setattr(jpeg, "_inverse", accurate_inverse)
    for pixels, quality in frames():
        np.testing.assert_array_equal(jpeg.jpeg_round_trip(pixels, quality), np.asarray(opened(pixels, quality)))


def test_with_plain_chroma_every_pixel_is_that_of_pillow_when_in_a_hurry(monkeypatch):
    """Pillow's drafts use the fast transform, though never with the chroma filter that TensorFlow uses."""

    def repeat(plane, height, width):
        return plane.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]

    monkeypatch.setattr(jpeg, "_enlarge", repeat)
    for pixels, quality in frames():
        image = opened(pixels, quality)
        image.decoderconfig = (1, 1)  # scale 1, draft
        np.testing.assert_array_equal(jpeg.jpeg_round_trip(pixels, quality), np.asarray(image))


def test_one_colour_stays_what_it_was():
    gray = np.full((20, 30, 3), 131, dtype=np.uint8)
    np.testing.assert_array_equal(jpeg.jpeg_round_trip(gray), gray)


@pytest.mark.parametrize("quality", [0, 101, 95.0, True, "95", None, [95]])
def test_a_quality_that_jpeg_does_not_have_is_refused(quality):
    with pytest.raises(ConfigError, match="from 1 to 100"):
        jpeg.jpeg_round_trip(np.zeros((8, 8, 3), np.uint8), quality)
