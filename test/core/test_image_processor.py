"""Image transforms: bit for bit what plain Pillow and the published recipe give, and what is refused."""

import copy
import math

import numpy as np
import pytest
from PIL import Image, ImageOps

from openvla_core import image_processor
from openvla_core.errors import CheckpointError, ImageError
from openvla_core.image_processor import ImageProcessor, center_crop, letterbox, preprocessor_config, resize

STRATEGIES = ("resize-naive", "resize-crop", "letterbox")
SHAPES = [(480, 640), (300, 101), (101, 300), (14, 15), (112, 112), (1, 1), (1, 150), (150, 1), (7, 224), (385, 383)]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def stored_transforms(size=28, towers=2):
    """A configuration as published checkpoints have it: a summary, and beside it what is really done."""
    return {
        **preprocessor_config(size, towers),
        "tvf_do_letterbox": False,
        "tvf_letterbox_fill": None,
        "tvf_resize_params": [
            {"antialias": True, "interpolation": 3, "max_size": None, "size": [size, size]} for _ in range(towers)
        ],
        "tvf_crop_params": [{"output_size": [size, size]} for _ in range(towers)],
        "tvf_normalize_params": [{"inplace": False, "mean": [0.5] * 3, "std": [0.25] * 3} for _ in range(towers)],
    }


def recipe(image, strategy, size, means, stds):
    """The published recipe written with Pillow alone: pad, scale, cut the middle, normalise in float32."""
    image = Image.fromarray(image)
    if strategy == "letterbox":
        longer = max(image.size)
        border = tuple(int((longer - side) / 2) for side in image.size)
        image = ImageOps.expand(image, border * 2, fill=tuple(int(255 * mean) for mean in means[-1]))
    width, height = image.size
    if strategy == "resize-naive":
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    elif width <= height:
        image = image.resize((size, int(size * height / width)), Image.Resampling.BICUBIC)
    else:
        image = image.resize((int(size * width / height), size), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2.0) for side in image.size)
    levels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / np.float32(255)
    towers = [
        (levels - np.array(mean, np.float32)) / np.array(std, np.float32) for mean, std in zip(means, stds, strict=True)
    ]
    return np.concatenate(towers, axis=2).transpose(2, 0, 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("size", "towers"), [(112, 2), (384, 1)])
def test_pixels_are_those_of_the_recipe(strategy, shape, size, towers):
    if size == 384 and max(shape) > 100 * min(shape):
        shape = tuple(min(side, 20) for side in shape)
    config = preprocessor_config(size, towers, strategy)
    pixels = ImageProcessor.from_dict(config)(noise(*shape))
    assert pixels.shape == (3 * towers, size, size)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, recipe(noise(*shape), strategy, size, config["means"], config["stds"]))


def test_letterbox_pads_both_sides_and_keeps_the_image():
    image = np.full((20, 31, 3), 200, dtype=np.uint8)
    padded = letterbox(image, (127, 127, 127))
    assert padded.shape == (30, 31, 3)  # the odd pixel is dropped
    assert (padded[5:25] == 200).all()
    assert (padded[:5] == 127).all()
    assert (padded[25:] == 127).all()


def test_one_letterbox_fill_serves_all_towers():
    """It is the last tower's mean, so DINOv2 sees gray bars that are not its own mean."""
    pixels = ImageProcessor.from_dict(preprocessor_config(28, 2, "letterbox"))(np.zeros((10, 40, 3), np.uint8))
    means, stds = (preprocessor_config(28)[key] for key in ("means", "stds"))
    for channel in range(6):
        mean, std = (np.float32(values[channel // 3][channel % 3]) for values in (means, stds))
        assert pixels[channel, 0, 0] == (np.float32(127) / np.float32(255) - mean) / std


def test_a_stored_letterbox_fill_wins():
    config = {**preprocessor_config(28, 1, "letterbox"), "tvf_letterbox_fill": [10, 20, 30]}
    corner = ImageProcessor.from_dict(config)(np.zeros((10, 40, 3), np.uint8))[:, 0, 0]
    np.testing.assert_allclose(corner * 0.5 + 0.5, np.array([10, 20, 30]) / 255, atol=1e-6)


def test_resizing_to_the_shorter_side_keeps_the_proportions():
    image = np.zeros((300, 100, 3), dtype=np.uint8)
    assert resize(image, 50).shape == (150, 50, 3)
    assert resize(image.transpose(1, 0, 2), 50).shape == (50, 150, 3)


def test_center_crop_takes_the_middle():
    image = np.arange(6)[:, None, None].repeat(4, 1).repeat(3, 2).astype(np.uint8)
    assert center_crop(image, (2, 4))[:, 0, 0].tolist() == [2, 3]


def test_a_crop_larger_than_the_image_is_black_around_it():
    cropped = center_crop(np.full((2, 5, 3), 200, np.uint8), (5, 3))
    assert cropped[:, 0, 0].tolist() == [0, 200, 200, 0, 0]
    assert cropped.shape == (5, 3, 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_height_and_width_may_differ(strategy):
    config = {**preprocessor_config(28, 1, strategy), "input_sizes": [[3, 28, 42]]}
    pixels = ImageProcessor.from_dict(config)(np.full((90, 90, 3), 255, np.uint8))
    assert pixels.shape == (3, 28, 42)
    assert (pixels == 1.0).all()  # nothing of it is border


def test_towers_may_see_different_sizes_and_filters():
    config = stored_transforms()
    config["tvf_resize_params"][1].update(size=[56, 56], interpolation=2)
    pixels = ImageProcessor.from_dict(config)(noise(60, 60))
    bilinear = np.asarray(Image.fromarray(noise(60, 60)).resize((56, 56), Image.Resampling.BILINEAR))[14:42, 14:42]
    expected = (bilinear.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    np.testing.assert_array_equal(pixels[3:], expected.transpose(2, 0, 1))


def test_the_stored_transforms_win_over_the_summary():
    config = stored_transforms()
    config |= {"means": [[0.1] * 3] * 2, "stds": [[0.9] * 3] * 2, "interpolations": ["nearest"] * 2}
    pixels = ImageProcessor.from_dict(config)(noise(50, 60))
    expected = ImageProcessor.from_dict(stored_transforms())(noise(50, 60))
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("size", [14, [14]])
def test_one_stored_number_is_the_shorter_side(size):
    config = stored_transforms(14, 1)
    config["tvf_resize_params"][0]["size"] = size
    pixels = ImageProcessor.from_dict(config)(noise(40, 20))
    expected = ImageProcessor.from_dict({**stored_transforms(14, 1), "tvf_resize_params": None,
                                         "image_resize_strategy": "resize-crop"})(noise(40, 20))  # fmt: skip
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("method", list(Image.Resampling))
def test_filters_are_known_by_name_and_by_number(method):
    named = {**preprocessor_config(28, 1), "interpolations": [method.name.lower()]}
    numbered = stored_transforms(28, 1)
    numbered["tvf_resize_params"][0]["interpolation"] = int(method)
    numbered["tvf_normalize_params"] = None
    expected = np.asarray(Image.fromarray(noise(50, 60)).resize((28, 28), method)).transpose(2, 0, 1)
    for config in (named, numbered):
        pixels = ImageProcessor.from_dict(config)(noise(50, 60))
        np.testing.assert_array_equal(np.rint((pixels * 0.5 + 0.5) * 255), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_a_pillow_image_is_read_as_rgb(mode):
    image = Image.fromarray(noise(28, 28)).convert(mode)
    processor = ImageProcessor.from_dict(preprocessor_config(28))
    np.testing.assert_array_equal(processor(image), processor(np.asarray(image.convert("RGB"))))


def test_a_view_is_as_good_as_a_copy():
    view = noise(40, 60)[::-1, ::2]
    processor = ImageProcessor.from_dict(preprocessor_config(28))
    np.testing.assert_array_equal(processor(view), processor(view.copy()))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 3), bool),
        np.zeros((0, 4, 3), np.uint8),
        Image.new("RGB", (0, 4)),
        None,
        "frame.png",
        [[1, 2, 3]],
    ],
)
def test_anything_but_rgb_bytes_is_refused(image):
    with pytest.raises(ImageError, match=r"uint8 \(H, W, 3\)"):
        ImageProcessor.from_dict(preprocessor_config(28))(image)


@pytest.mark.parametrize("strategy", ["resize-crop", "letterbox"])
def test_a_thread_of_pixels_is_refused_before_it_fills_the_memory(strategy):
    with pytest.raises(ImageError, match="1000000 x 1 pixels would grow"):
        ImageProcessor.from_dict(preprocessor_config(224, 1, strategy))(np.zeros((1, 1_000_000, 3), np.uint8))


def test_a_large_camera_frame_is_not():
    assert image_processor.MAX_PIXELS > 12_000 * 9_000
    pixels = ImageProcessor.from_dict(preprocessor_config(28, 1))(np.zeros((3000, 4000, 3), np.uint8))
    assert (pixels == -1.0).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_sizes": None}, "input_sizes"),
        ({"input_sizes": []}, "input_sizes"),
        ({"input_sizes": [[1, 28, 28]] * 2}, "input_sizes"),
        ({"input_sizes": [[3, 28]] * 2}, "input_sizes"),
        ({"input_sizes": [[3, 0, 28]] * 2}, "input_sizes"),
        ({"input_sizes": [[3, True, 28]] * 2}, "input_sizes"),
        ({"input_sizes": [[3, 10**9, 10**9]] * 2}, "input_sizes"),
        ({"input_sizes": [[3, 28, 28], [3, 14, 14]]}, "different sizes"),
        ({"means": [[0.5, 0.5, 0.5]]}, "means"),
        ({"means": [[0.5, 0.5]] * 2}, "mean"),
        ({"means": [["0.5"] * 3] * 2}, "mean"),
        ({"means": [[math.nan] * 3] * 2}, "mean"),
        ({"stds": [[0, 0, 0]] * 2}, "std"),
        ({"stds": [[1e-300] * 3] * 2}, "std"),
        ({"image_resize_strategy": "warp"}, "letterbox"),
        ({"image_resize_strategy": ["letterbox"]}, "image_resize_strategy"),
        ({"interpolations": ["cubic"] * 2}, "bicubic"),
        ({"interpolations": [99] * 2}, "bicubic"),
        ({"tvf_do_letterbox": "no"}, "tvf_do_letterbox"),
        ({"tvf_do_letterbox": True, "tvf_letterbox_fill": [0, 0, 256]}, "fill"),
        ({"tvf_do_letterbox": True, "tvf_letterbox_fill": []}, "tvf_letterbox_fill"),
        ({"tvf_resize_params": [{}]}, "tvf_resize_params"),
        ({"tvf_resize_params": ["size"] * 2}, "tvf_resize_params"),
        ({"tvf_resize_params": [{"size": [28, 28, 28]}] * 2}, "tvf_resize_params"),
        ({"tvf_resize_params": [{"max_size": 30}] * 2}, "max_size"),
        ({"tvf_crop_params": [{"output_size": 28}] * 2}, "tvf_crop_params"),
        ({"tvf_normalize_params": [{"mean": [0.5] * 3}] * 2}, "std"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_by_name(change, named):
    with pytest.raises(CheckpointError, match=named):
        ImageProcessor.from_dict({**preprocessor_config(28), **change})


@pytest.mark.parametrize("key", ["input_sizes", "means", "stds", "image_resize_strategy"])
def test_a_missing_entry_is_named(key):
    config = preprocessor_config(28)
    del config[key]
    with pytest.raises(CheckpointError, match=f"has no '{key}'"):
        ImageProcessor.from_dict(config)


def test_a_damaged_configuration_is_refused_or_still_makes_pixels():
    """2,000 times one value anywhere is exchanged for one of another type, or left out."""
    rng = np.random.default_rng(0)
    others = [
        None,
        True,
        -1,
        0,
        14,
        1.5,
        [14, 14],
        [3, 14, 14],
        10**12,
        1e300,
        "",
        "bicubic",
        [],
        [3],
        {},
        {"size": 1},
        [[3, 28, 28]],
        "\ud800",
    ]
    refused = 0
    for _ in range(2000):
        config = copy.deepcopy(stored_transforms())
        container = config
        while True:
            keys = list(container) if isinstance(container, dict) else range(len(container))
            key = keys[rng.integers(len(keys))]
            if not isinstance(container[key], (dict, list)) or not container[key] or rng.random() < 0.3:
                break
            container = container[key]
        if rng.random() < 0.1:
            del container[key]
        else:
            container[key] = copy.deepcopy(others[rng.integers(len(others))])
        try:
            processor = ImageProcessor.from_dict(config)
        except CheckpointError:
            refused += 1
        else:
            assert np.isfinite(processor(noise(20, 30))).all()
    assert 500 < refused < 2000
