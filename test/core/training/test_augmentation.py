"""Augmentation: what each step leaves alone."""

import colorsys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from openvla_core.image_preparation import center_crop_resize, crop_and_resize, to_bytes, to_unit_range
from openvla_core.training.augmentation import Augmentation, adjust_colours, adjust_contrast, crop, crop_box


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


def planes_of(pixels):
    return np.ascontiguousarray(to_unit_range(pixels).transpose(2, 0, 1))


def turned(image: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    """(H, W, 3) float32 -> the same with other colours."""
    return adjust_colours(np.ascontiguousarray(image.transpose(2, 0, 1)), saturation, hue)


@pytest.mark.parametrize("change", [(1.0, 0.3), (1.2, 0.0), (0.5, -0.2)])
def test_gray_has_no_hue_and_no_saturation(change):
    gray = to_unit_range(frame(8, 8)[:, :, :1].repeat(3, axis=2))
    np.testing.assert_allclose(turned(gray, *change), gray, atol=1e-6)


@pytest.mark.parametrize("turns", [1.0, -1.0, 2.0])
def test_a_whole_turn_of_the_colour_circle_leads_back(turns):
    image = to_unit_range(frame(8, 8))
    np.testing.assert_allclose(turned(image, 1.0, turns), image, atol=1e-6)


@pytest.mark.parametrize(("third", "end"), [(1 / 3, [0.1, 0.8, 0.1]), (-1 / 3, [0.1, 0.1, 0.8])])
def test_a_third_of_a_turn_makes_red_green_or_blue(third, end):
    red = np.array([[[0.8, 0.1, 0.1]]], dtype=np.float32)
    np.testing.assert_allclose(turned(red, 1.0, third), [[end]], atol=1e-6)


def test_no_saturation_is_gray_and_much_of_it_stops_at_the_full_colour():
    colour = np.array([[[0.8, 0.4, 0.2]]], dtype=np.float32)
    np.testing.assert_allclose(turned(colour, 0.0, 0.0), [[[0.8, 0.8, 0.8]]], atol=1e-6)
    np.testing.assert_allclose(turned(colour, 9.0, 0.0), [[[0.8, 0.8 / 3, 0.0]]], atol=1e-6)


@pytest.mark.parametrize(("saturation", "hue"), [(0.8, 0.05), (1.2, -0.05), (1.0, 0.02)])
def test_colours_change_as_the_standard_library_says(saturation, hue):
    """Every pixel by itself, in double precision."""
    image = to_unit_range(frame(16, 16))
    expected = []
    for pixel in image.reshape(-1, 3).tolist():
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb((h + hue) % 1.0, min(1.0, s * saturation), v))
    np.testing.assert_allclose(turned(image, saturation, hue), np.reshape(expected, image.shape), atol=2e-6)


def test_contrast_keeps_the_mean_of_every_channel():
    planes = planes_of(frame(8, 8) // 2 + 60)
    means = planes.mean(axis=(1, 2))
    np.testing.assert_allclose(adjust_contrast(planes, 0.5).mean(axis=(1, 2)), means, atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (1, 5), (224, 224)])
@pytest.mark.parametrize("place", [0.0, 0.37, 1.0])
def test_the_crop_is_that_of_the_evaluation_to_the_last_bit(shape, place):
    box = crop_box(0.9, place)
    expected = crop_and_resize(to_unit_range(frame(*shape)), box, *shape)
    np.testing.assert_array_equal(crop(frame(*shape), box).transpose(1, 2, 0), expected)


def test_images_do_not_share_memory_and_views_are_taken_as_they_are():
    """The work is done in memory that is used again for the next image."""
    augment = Augmentation()
    given = frame(30, 40)
    first = augment(given, np.random.default_rng(1))
    kept = first.copy()
    augment(frame(30, 40)[::-1], np.random.default_rng(2))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(given, frame(30, 40))
    upside_down = augment(given[::-1, ::2], np.random.default_rng(3))
    np.testing.assert_array_equal(upside_down, augment(given[::-1, ::2].copy(), np.random.default_rng(3)))


def test_threads_do_not_disturb_each_other():
    seeds = range(24)
    alone = [Augmentation()(frame(64, 64), np.random.default_rng(seed)) for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: Augmentation()(frame(64, 64), np.random.default_rng(seed)), seeds))
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_the_crop_slides_along_the_diagonal_and_stays_inside(place):
    top, left, bottom, right = crop_box(0.9, place)
    assert top == left
    assert bottom == right
    assert 0.0 <= top < bottom <= 1.0 + 1e-12
    assert (bottom - top) ** 2 == pytest.approx(0.9)


def test_the_middle_of_all_random_crops_is_the_centre_crop():
    pixels = frame(40, 50)
    middle = to_bytes(crop(pixels, crop_box(0.9, 0.5)).transpose(1, 2, 0))
    assert np.abs(middle.astype(int) - center_crop_resize(pixels, 0.9)).max() <= 1
