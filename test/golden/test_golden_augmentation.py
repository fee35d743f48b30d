"""Each augmentation step does what TensorFlow's does.

Measured: brightness and crop are equal to the last bit; contrast differs by at most 6e-8, hue by 7e-7, saturation by
6e-7, a few roundings of float32. One grey level is 4e-3.
"""

import json

import numpy as np
import pytest

from openvla_core.image_preparation import to_unit_range
from openvla_core.training import augmentation


def planes_of(frame):
    return np.ascontiguousarray(to_unit_range(frame).transpose(2, 0, 1))


def image_of(planes):
    return planes.transpose(1, 2, 0)


STEPS = {
    "brightness": lambda frame, delta: image_of(augmentation.adjust_brightness(planes_of(frame), delta)),
    "contrast": lambda frame, factor: image_of(augmentation.adjust_contrast(planes_of(frame), factor)),
    "saturation": lambda frame, factor: augmentation.adjust_colours(planes_of(frame), factor, 0.0),
    "hue": lambda frame, delta: augmentation.adjust_colours(planes_of(frame), 1.0, delta),
    "crop_and_resize": lambda frame, box: image_of(augmentation.crop(frame, box)),
}
KEYS = [f"aug.{name}.{index}" for name in ("brightness", "contrast", "saturation", "hue", "crop") for index in (0, 1)]


@pytest.fixture(scope="module")
def expected(golden):
    return np.load(golden / "data_pipeline" / "golden.npz")


@pytest.fixture(scope="module")
def operations(golden):
    listed = json.loads((golden / "data_pipeline" / "golden.json").read_text(encoding="utf-8"))["augment_ops"]
    return {operation["key"]: operation for operation in listed}


@pytest.mark.parametrize("key", KEYS)
def test_a_step_is_that_of_tensorflow(expected, operations, key):
    operation = operations[key]
    parameter = operation["param"] if "param" in operation else tuple(operation["box_y0x0y1x1"])
    changed = STEPS[operation["op"]](expected["cam_640x480.jpeg_then_lanczos224"], parameter)
    assert changed.dtype == np.float32
    np.testing.assert_allclose(changed[::4, ::4], expected[key], rtol=0, atol=1e-6)


def test_every_step_is_compared(operations):
    assert sorted(operations) == sorted(KEYS)


def test_together_they_spread_brightness_as_tensorflow_does(golden, expected):
    """Mean and spread of the mean grey level over 200 random augmentations of one image."""
    listed = json.loads((golden / "data_pipeline" / "golden.json").read_text(encoding="utf-8"))[
        "augment_image_200_seeds"
    ]
    frame = expected["cam_640x480.jpeg_then_lanczos224"]
    assert frame.mean() == pytest.approx(listed["input_mean"])
    augment = augmentation.Augmentation()
    means = [augment(frame[::4, ::4], np.random.default_rng(seed)).mean() for seed in range(200)]
    # Both figures come from 200 draws with a spread of 29: three standard errors of their difference.
    assert np.mean(means) == pytest.approx(listed["mean_of_means"], abs=3 * 29 * (2 / 200) ** 0.5)
    assert np.std(means) == pytest.approx(listed["std_of_means"], abs=3 * 29 * (1 / 200) ** 0.5)
