"""Augmentation: what each step leaves alone."""

import numpy as np
import pytest

from openvla_core.image_preparation import center_crop_resize, to_bytes, to_unit_range
from openvla_core.training.augmentation import (
    Augmentation,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop,
    crop_box,
)


def frame(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_the_same_seed_gives_the_same_image_and_another_seed_another():
    first, again, other = (Augmentation()(frame(30, 40), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (30, 40, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_without_ranges_nothing_changes():
    still = Augmentation(crop_area=1.0, brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0)
    np.testing.assert_array_equal(still(frame(30, 40), np.random.default_rng(0)), frame(30, 40))


def test_gray_has_no_hue_and_no_saturation():
    gray = to_unit_range(frame(8, 8)[:, :, :1].repeat(3, axis=2))
    np.testing.assert_allclose(adjust_hue(gray, 0.3), gray, atol=1e-6)
    np.testing.assert_allclose(adjust_saturation(gray, 1.2), gray, atol=1e-6)


def test_a_whole_turn_of_the_colour_circle_leads_back():
    image = to_unit_range(frame(8, 8))
    np.testing.assert_allclose(adjust_hue(image, 1.0), image, atol=1e-5)


def test_a_third_of_a_turn_makes_red_green():
    red = np.array([[[0.8, 0.1, 0.1]]], dtype=np.float32)
    np.testing.assert_allclose(adjust_hue(red, 1 / 3), [[[0.1, 0.8, 0.1]]], atol=1e-6)


def test_no_saturation_is_gray_and_much_of_it_stops_at_the_full_colour():
    colour = np.array([[[0.8, 0.4, 0.2]]], dtype=np.float32)
    np.testing.assert_allclose(adjust_saturation(colour, 0.0), [[[0.8, 0.8, 0.8]]], atol=1e-6)
    np.testing.assert_allclose(adjust_saturation(colour, 9.0), [[[0.8, 0.8 / 3, 0.0]]], atol=1e-6)


def test_contrast_keeps_the_mean_of_every_channel():
    image = to_unit_range(frame(8, 8) // 2 + 60)
    np.testing.assert_allclose(adjust_contrast(image, 0.5).mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=1e-6)


@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_the_crop_slides_along_the_diagonal_and_stays_inside(place):
    top, left, bottom, right = crop_box(0.9, place)
    assert top == left
    assert bottom == right
    assert 0.0 <= top < bottom <= 1.0 + 1e-12
    assert (bottom - top) ** 2 == pytest.approx(0.9)


def test_the_middle_of_all_random_crops_is_the_centre_crop():
    pixels = frame(40, 50)
    middle = to_bytes(crop(to_unit_range(pixels), crop_box(0.9, 0.5)))
    assert np.abs(middle.astype(int) - center_crop_resize(pixels, 0.9)).max() <= 1
