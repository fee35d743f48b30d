"""Bit for bit Pillow's resize. Its two passes are asked for one by one: which comes first depends on its version."""

import numpy as np
import pytest
import torch
from PIL import Image

from openvla_core.engine.resample import FILTERS, resample, resize_matrix

# (height, width) before and after: cameras, square frames, odd sizes, portrait, single lines, upscaling.
SIZES = [
    ((480, 640), (224, 224)), ((720, 1280), (224, 224)), ((640, 480), (224, 224)), ((256, 256), (224, 224)),
    ((224, 224), (224, 224)), ((101, 333), (224, 224)), ((1, 150), (224, 224)), ((150, 1), (112, 112)),
    ((60, 80), (224, 224)), ((385, 383), (384, 384)),
]  # fmt: skip
BICUBIC = int(Image.Resampling.BICUBIC)


def pictures(height, width, seed):
    """Noise, stripes of black and white, and a gradient; the stripes overshoot most."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    period = int(generator.integers(1, 5))
    stripes = np.where((y // period + x // period) % 2, 255, 0)[..., None].repeat(3, axis=2)
    gradient = np.stack([255 * x // width, 255 * y // height, 255 * (x + y) // (width + height)], axis=2)
    return noise, stripes.astype(np.uint8), gradient.astype(np.uint8)


def of_pillow(image, size, interpolation, rows_first):
    passes = [(size[1], len(image)), (size[1], size[0])]
    if rows_first:
        passes[0] = (image.shape[1], size[0])
    picture = Image.fromarray(image)
    for width_and_height in passes:
        picture = picture.resize(width_and_height, interpolation)
    return np.asarray(picture)


def of_torch(image, size, interpolation, rows_first, device="cpu"):
    columns = torch.from_numpy(resize_matrix(image.shape[1], size[1], interpolation)).T.contiguous().to(device)
    rows = torch.from_numpy(resize_matrix(image.shape[0], size[0], interpolation)).to(device)
    planes = torch.from_numpy(image).to(device).permute(2, 0, 1).double()
    return resample(planes, columns, rows, rows_first).permute(1, 2, 0).cpu().numpy()


@pytest.mark.parametrize("interpolation", FILTERS, ids=lambda number: Image.Resampling(number).name.lower())
def test_small_images_of_all_sorts(interpolation):
    """1008 images for the filter that checkpoints ask for, 180 for the others."""
    generator = np.random.default_rng(interpolation)
    for seed in range(336 if interpolation == BICUBIC else 60):
        height, width, *size = (int(side) for side in generator.integers(1, 49, 4))
        for image in pictures(height, width, seed):
            rows_first = bool(seed % 2)
            expected = of_pillow(image, size, interpolation, rows_first)
            np.testing.assert_array_equal(of_torch(image, size, interpolation, rows_first), expected)


@pytest.mark.parametrize("rows_first", [False, True])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_frames_of_cameras(old, new, rows_first):
    for image in pictures(*old, seed=0):
        expected = of_pillow(image, new, BICUBIC, rows_first)
        np.testing.assert_array_equal(of_torch(image, new, BICUBIC, rows_first), expected)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_one_of_the_two_orders_is_what_pillow_does_in_one_call(old, new):
    for image in pictures(*old, seed=1)[:2]:
        expected = np.asarray(Image.fromarray(image).resize((new[1], new[0]), Image.Resampling.BICUBIC))
        found = [of_torch(image, new, BICUBIC, rows_first) for rows_first in (False, True)]
        assert any(np.array_equal(resized, expected) for resized in found)


def test_the_order_of_the_passes_matters():
    """Or the tests above could not tell one from the other."""
    image = pictures(100, 40, seed=0)[0]
    first, second = (of_torch(image, (30, 30), BICUBIC, rows_first) for rows_first in (False, True))
    assert (first != second).any()


def test_the_sums_stay_whole_and_small_enough_for_32_bits():
    """So they are exact in float64, whatever the order of adding."""
    for old in (7, 480, 1280, 3840):
        matrix = resize_matrix(old, 224, BICUBIC)
        assert (matrix == np.round(matrix)).all()
        assert 255 * np.abs(matrix).sum(axis=1).max() < 2**31
