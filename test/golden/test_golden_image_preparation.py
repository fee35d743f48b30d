"""Frames prepared as in the published evaluations, compared with TensorFlow's own.

Measured: all eight images are equal to the last bit. On the way there, the share of values that differed, and by how
many grey levels (cam_640x480 and sq_256x256):

    resized by Pillow's Lanczos filter, rounding between its passes   mean 0.13 and 0.23, at most 4 and 24
    resized in float32, the sums made by a matrix product             0.04 % and 0.06 %, by 1
    resized in float32, sums in order, the sine rounded from float64  0 % and 0.04 %, by 1
    the same with the C library's sine                                none
    decoded by Pillow, then resized                                   66 % and 72 %, mean 0.91 and 1.30, at most 7, 12
    decoded with the fast inverse transform, then resized             none
    cropped                                                           none

Tolerance: one grey level in one value of a thousand after a resize, because C libraries may differ in the last bit of
a sine, and flat areas of these images end exactly half-way between two levels; none for the crop, which needs no sine.
"""

import io

import numpy as np
import pytest
from PIL import Image

from openvla_core import image_preparation
from openvla_core.image_preparation import ImagePreparation, center_crop_resize, lanczos_resize
from openvla_core.jpeg import jpeg_round_trip

NAMES = ("cam_640x480", "sq_256x256")


@pytest.fixture(scope="module")
def expected(golden):
    return np.load(golden / "data_pipeline" / "golden.npz")


def frame(golden, name):
    return np.asarray(Image.open(golden / "images" / f"{name}.png").convert("RGB"))


def assert_as_tensorflow(pixels, expected):
    difference = np.abs(pixels.astype(int) - expected)
    assert pixels.shape == expected.shape
    assert pixels.dtype == expected.dtype
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["lanczos224_nojpeg", "dlimp_resize224"])
def test_resizing_is_that_of_tensorflow(golden, expected, name, kind):
    assert_as_tensorflow(lanczos_resize(frame(golden, name), 224, 224), expected[f"{name}.{kind}"])


@pytest.mark.parametrize("name", NAMES)
def test_resizing_without_the_c_library_stays_within_the_tolerance(golden, expected, name, monkeypatch):
    def missing(_):
        raise OSError

    monkeypatch.setattr(image_preparation.ctypes, "CDLL", missing)
    image_preparation._lanczos_weights.cache_clear()
    resized = lanczos_resize(frame(golden, name), 224, 224)
    image_preparation._lanczos_weights.cache_clear()
    assert_as_tensorflow(resized, expected[f"{name}.lanczos224_nojpeg"])


@pytest.mark.parametrize("name", NAMES)
def test_the_bridge_preset_is_the_published_evaluation_on_bridge(golden, expected, name):
    prepared = ImagePreparation.from_card("bridge", 224)(frame(golden, name))
    assert_as_tensorflow(prepared, expected[f"{name}.jpeg_then_lanczos224"])


@pytest.mark.parametrize("name", NAMES)
def test_the_centre_crop_is_that_of_tensorflow(expected, name):
    cropped = center_crop_resize(expected[f"{name}.jpeg_then_lanczos224"], 0.9)
    np.testing.assert_array_equal(cropped, expected[f"{name}.center_crop09_of_jpeg_lanczos"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("preset", "turned"), [("center_crop", 1), ("libero", -1)])
def test_the_cropping_presets_are_the_published_evaluation_on_libero(golden, expected, name, preset, turned):
    prepared = ImagePreparation.from_card(preset, 224)(frame(golden, name)[::turned, ::turned])
    assert_as_tensorflow(prepared, expected[f"{name}.center_crop09_of_jpeg_lanczos"])


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_jpeg_is_the_one_our_round_trip_stands_for(golden, name):
    """Pillow's encoder writes the same levels; its decoder is the accurate one, hence the difference to ours."""
    stored = np.asarray(Image.open(golden / "data_pipeline" / f"{name}.tf_q95.jpg"))
    ours = io.BytesIO()
    Image.fromarray(frame(golden, name)).save(ours, "JPEG", quality=95, subsampling=2)
    np.testing.assert_array_equal(np.asarray(Image.open(ours)), stored)
    difference = np.abs(jpeg_round_trip(frame(golden, name)).astype(int) - stored)
    assert 0.9 < difference.mean() < 1.4
    assert difference.max() in (10, 12)
