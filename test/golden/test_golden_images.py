"""Pixels are bit for bit those of the published image processor, from plain Pillow and numpy."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from openvla_core.image_processor import ImageProcessor, center_crop, preprocessor_config, resize

CASE = "image_transform/resize_naive_fused224_bf16stats"
IMAGES = ("cam_640x480", "gray_160x120", "rgba_160x120", "sq_224x224", "sq_256x256", "tall_100x300", "wide_320x180")


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / f"{CASE}.safetensors")


@pytest.fixture(scope="module")
def processor(golden):
    values = json.loads((golden / f"{CASE}.preprocessor_config.json").read_text())
    return ImageProcessor.from_dict(values)


def rgb(golden, name):
    return np.asarray(Image.open(golden / "images" / f"{name}.png").convert("RGB"))


@pytest.mark.parametrize("name", IMAGES)
def test_pixel_values_are_bit_exact(golden, expected, processor, name):
    pixels = processor(rgb(golden, name))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[:, ::8, ::8], expected[f"{name}.pixel_values_stride8"])


def test_every_pixel_of_one_image_is_bit_exact(golden, expected, processor):
    np.testing.assert_array_equal(processor(rgb(golden, "cam_640x480")), expected["cam_640x480.pixel_values"])


def test_a_new_checkpoint_normalises_like_the_published_one(golden, processor):
    """The published means are rounded to bfloat16; unrounded ones change tokens."""
    image = rgb(golden, "sq_256x256")
    np.testing.assert_array_equal(ImageProcessor.from_dict(preprocessor_config(224))(image), processor(image))


@pytest.mark.parametrize("name", IMAGES)
def test_resized_images_are_bit_exact(golden, expected, processor, name):
    """Before normalisation, so that a wrong resize cannot hide behind a wrong mean."""
    tower = processor.towers[0]
    resized = center_crop(resize(rgb(golden, name), tower.resize, tower.interpolation), tower.crop)
    stored = expected[f"{name}.resized_u8"]
    for planes in np.split(stored, len(stored) // 3):  # one copy per tower where it was stored so
        np.testing.assert_array_equal(resized.transpose(2, 0, 1), planes)


@pytest.mark.parametrize("name", IMAGES)
def test_mean_and_spread_of_every_pixel_agree(golden, expected, processor, name):
    pixels = processor(rgb(golden, name)).astype(np.float64).reshape(6, -1)
    computed = np.stack([pixels.mean(axis=1), pixels.std(axis=1, ddof=1)])
    np.testing.assert_allclose(computed, expected[f"{name}.mean_std"], rtol=0, atol=1e-12)
