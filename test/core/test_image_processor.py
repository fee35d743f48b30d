"""Image transforms: sizes, fills and what is refused."""

import numpy as np
import pytest
from PIL import Image

from openvla_core.errors import CheckpointError, ImageError
from openvla_core.image_processor import ImageProcessor, center_crop, letterbox, preprocessor_config, resize


@pytest.mark.parametrize("strategy", ["resize-naive", "resize-crop", "letterbox"])
@pytest.mark.parametrize("shape", [(480, 640), (300, 101), (14, 15), (112, 112)])
@pytest.mark.parametrize("towers", [1, 2])
def test_every_image_ends_at_the_size_of_the_tower(strategy, shape, towers):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels = ImageProcessor.from_dict(preprocessor_config(112, towers, strategy))(image)
    assert pixels.shape == (3 * towers, 112, 112)
    assert pixels.dtype == np.float32
    assert np.isfinite(pixels).all()


def test_letterbox_pads_both_sides_and_keeps_the_image():
    image = np.full((20, 31, 3), 200, dtype=np.uint8)
    padded = letterbox(image, (127, 127, 127))
    assert padded.shape == (30, 31, 3)  # the odd pixel is dropped
    assert (padded[5:25] == 200).all()
    assert (padded[:5] == 127).all()
    assert (padded[25:] == 127).all()


def test_resizing_to_the_shorter_side_keeps_the_proportions():
    image = np.zeros((300, 100, 3), dtype=np.uint8)
    assert resize(image, 50).shape == (150, 50, 3)
    assert resize(image.transpose(1, 0, 2), 50).shape == (50, 150, 3)


def test_center_crop_takes_the_middle():
    image = np.arange(6)[:, None, None].repeat(4, 1).repeat(3, 2).astype(np.uint8)
    assert center_crop(image, (2, 4))[:, 0, 0].tolist() == [2, 3]


def test_a_pillow_image_is_read_as_rgb():
    processor = ImageProcessor.from_dict(preprocessor_config(28))
    gray = Image.new("L", (28, 28), 128)
    expected = processor(np.full((28, 28, 3), 128, dtype=np.uint8))
    np.testing.assert_array_equal(processor(gray), expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        None,
        [[1, 2, 3]],
    ],
)
def test_anything_but_rgb_bytes_is_refused(image):
    with pytest.raises(ImageError, match=r"uint8 \(H, W, 3\)"):
        ImageProcessor.from_dict(preprocessor_config(28))(image)


@pytest.mark.parametrize(
    "change",
    [{"input_sizes": None}, {"means": [[0.5, 0.5, 0.5]]}, {"stds": [[0, 0, 0]] * 2}, {"image_resize_strategy": "warp"}],
)
def test_an_incomplete_configuration_is_refused(change):
    with pytest.raises(CheckpointError):
        ImageProcessor.from_dict({**preprocessor_config(28), **change})
