"""Preparing a frame: the order of the steps, sizes, and what is refused. TensorFlow's own pixels are in test/golden."""

import numpy as np
import pytest

from openvla_core.errors import ConfigError, ConventionError, ImageError
from openvla_core.image_preparation import (
    PRESETS,
    ImagePreparation,
    center_crop_resize,
    crop_and_resize,
    lanczos_resize,
    to_bytes,
    to_unit_range,
)
from openvla_core.jpeg import jpeg_round_trip
from openvla_core.processor import Processor


def frame(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_without_steps_the_frame_is_returned_as_it_is():
    image = frame(20, 30)
    assert ImagePreparation()(image) is image
    assert ImagePreparation.from_card("none", 224) == ImagePreparation()


def test_the_presets():
    bridge = ImagePreparation(jpeg_quality=95, resize=224)
    crop = ImagePreparation(jpeg_quality=95, resize=224, center_crop_area=0.9)
    libero = ImagePreparation(rotate_180=True, jpeg_quality=95, resize=224, center_crop_area=0.9)
    expected = {"none": ImagePreparation(), "bridge": bridge, "center_crop": crop, "libero": libero}
    assert {name: ImagePreparation.from_card(name, 224) for name in PRESETS} == expected


def test_the_steps_come_in_the_order_of_the_published_evaluation():
    image = frame(50, 70)
    by_hand = center_crop_resize(lanczos_resize(jpeg_round_trip(image[::-1, ::-1], 95), 56, 56), 0.9)
    np.testing.assert_array_equal(ImagePreparation.from_card("libero", 56)(image), by_hand)


@pytest.mark.parametrize("preset", PRESETS[1:])
@pytest.mark.parametrize("shape", [(480, 640), (1, 1), (1, 100), (100, 1), (3, 5), (56, 56), (17, 200)])
def test_every_frame_ends_at_the_size_of_the_network(preset, shape):
    image = frame(*shape)
    before = image.copy()
    prepared = ImagePreparation.from_card(preset, 56)(image)
    assert prepared.shape == (56, 56, 3)
    assert prepared.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("level", [0, 1, 127, 128, 254, 255])
@pytest.mark.parametrize("preset", PRESETS)
def test_one_gray_stays_the_same_gray(preset, level):
    prepared = ImagePreparation.from_card(preset, 28)(np.full((37, 53, 3), level, np.uint8))
    assert (prepared == level).all()


@pytest.mark.parametrize("shape", [(28, 28), (5, 9), (1, 1)])
def test_resizing_to_the_same_size_changes_nothing(shape):
    np.testing.assert_array_equal(lanczos_resize(frame(*shape), *shape), frame(*shape))


def test_resizing_turns_with_the_image():
    image = frame(48, 80)
    upright, lying = lanczos_resize(image, 20, 31), lanczos_resize(image.swapaxes(0, 1), 31, 20)
    assert np.abs(upright.astype(int) - lying.swapaxes(0, 1)).max() <= 1


def test_shrinking_averages_and_does_not_skip():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    middle = lanczos_resize(stripes, 8, 8)[2:6, 2:6].astype(int)
    assert np.abs(middle - 100).max() <= 2


def test_a_crop_of_everything_is_the_frame():
    np.testing.assert_array_equal(center_crop_resize(frame(20, 30), 1.0), frame(20, 30))


def test_the_crop_keeps_the_given_share_of_the_area():
    """On a ramp, the first and the last value tell how much was cut away at either side."""
    ramp = np.linspace(0, 1, 101, dtype=np.float32)[:, None, None].repeat(101, axis=1).repeat(3, axis=2)
    cropped = center_crop_resize(to_bytes(ramp), 0.81) / 255.0
    assert cropped[0, 0, 0] == pytest.approx(0.05, abs=0.01)
    assert cropped[-1, 0, 0] == pytest.approx(0.95, abs=0.01)


def test_what_a_box_finds_outside_the_image_is_black():
    image = np.ones((4, 4, 3), np.float32)
    grown = crop_and_resize(image, (-1.0, 0.0, 1.0, 1.0), 7, 4)
    assert grown[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_a_box_of_one_pixel_is_its_middle():
    image = to_unit_range(frame(5, 5))
    np.testing.assert_allclose(crop_and_resize(image, (0.0, 0.5, 1.0, 1.0), 1, 1)[0, 0], image[2, 3], atol=1e-6)


def test_bytes_survive_the_way_to_floats_and_back():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_bytes(to_unit_range(levels)), levels)
    assert to_bytes(np.array([-1.0, 2.0], np.float32)).tolist() == [0, 255]


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), None])
@pytest.mark.parametrize("preset", PRESETS)
def test_anything_but_rgb_bytes_is_refused(preset, image):
    with pytest.raises(ImageError, match=r"uint8 \(H, W, 3\)"):
        ImagePreparation.from_card(preset, 28)(image)


@pytest.mark.parametrize("name", ["", "Bridge", "LIBERO", None, ["none"]])
def test_an_unknown_preset_is_refused_with_the_choices(name):
    with pytest.raises(ConventionError, match="none, bridge, center_crop, libero"):
        ImagePreparation.from_card(name, 224)


@pytest.mark.parametrize(
    "field",
    [
        {"jpeg_quality": 0},
        {"jpeg_quality": True},
        {"resize": 0},
        {"resize": 224.0},
        {"resize": 10**6},
        {"center_crop_area": 0.0},
        {"center_crop_area": 1.1},
        {"center_crop_area": float("nan")},
        {"center_crop_area": "0.9"},
    ],
)
def test_a_step_outside_its_range_is_refused(field):
    with pytest.raises(ConfigError, match=str(next(iter(field.values())))):
        ImagePreparation(**field)


def test_the_processor_prepares_every_image(golden_policy):
    """So whatever goes through the processor shows the model the same frame: inference, evaluation, self-test."""
    plain = golden_policy.processor
    preparation = ImagePreparation.from_card("libero", 224)
    prepared = Processor(plain.tokenizer, plain.image_processor, plain.config, preparation)
    image, sentence = frame(48, 64), "pick up the cup"
    inputs = prepared(image, sentence)
    by_hand = plain(preparation(image), sentence)
    assert (inputs["pixel_values"] == by_hand["pixel_values"]).all()
    assert (inputs["input_ids"] == by_hand["input_ids"]).all()
    assert (inputs["pixel_values"] != plain(image, sentence)["pixel_values"]).any()
    assert plain.preparation == ImagePreparation()
