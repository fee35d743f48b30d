"""What a GPU is given are the pixels of the image processor, to the last bit; tried here on the CPU device."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from openvla_core.engine.gpu_images import KEPT, DeviceImages, fast_processor
from openvla_core.errors import ImageError
from openvla_core.image_processor import ImageProcessor, preprocessor_config

SHAPES = [(480, 640), (640, 480), (300, 101), (101, 300), (14, 15), (112, 112), (1, 1), (1, 150), (150, 1), (385, 383)]
CASE = "image_transform/resize_naive_fused224_bf16stats"


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def both(config):
    processor = ImageProcessor.from_dict(config)
    return processor, DeviceImages(processor, "cpu")


def check(processor, images, frame):
    found = images(frame)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    np.testing.assert_array_equal(found.numpy(), processor(frame)[None])


@pytest.mark.parametrize("strategy", ["resize-naive", "resize-crop", "letterbox"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("size", "towers"), [(112, 2), (224, 1)])
def test_pixels_are_those_of_the_image_processor(strategy, shape, size, towers):
    processor, images = both(preprocessor_config(size, towers, strategy))
    for seed in range(2):
        check(processor, images, noise(*shape, seed=seed))


@pytest.mark.parametrize("name", ["cam_640x480", "sq_224x224", "sq_256x256", "tall_100x300", "wide_320x180"])
def test_published_pixels_are_bit_exact(golden, name):
    _, images = both(json.loads((golden / f"{CASE}.preprocessor_config.json").read_text()))
    frame = np.asarray(Image.open(golden / "images" / f"{name}.png").convert("RGB"))
    expected = load_file(golden / f"{CASE}.safetensors")[f"{name}.pixel_values_stride8"]
    np.testing.assert_array_equal(images(frame)[0, :, ::8, ::8].numpy(), expected)


def test_towers_may_see_different_sizes_and_filters():
    config = preprocessor_config(28, 2)
    config["tvf_resize_params"] = [{"size": [28, 28], "interpolation": 3}, {"size": [56, 40], "interpolation": 1}]
    config["tvf_crop_params"] = [{"output_size": [28, 28]}] * 2
    config["tvf_normalize_params"] = [{"mean": [0.5] * 3, "std": [0.25, 0.3, 0.4]}, {"mean": [0.1] * 3, "std": [1] * 3}]
    check(*both(config), noise(60, 81))


def test_a_crop_larger_than_the_image_is_black_around_it():
    config = {**preprocessor_config(40, 1), "tvf_crop_params": [{"output_size": [45, 51]}]}
    check(*both(config), noise(60, 81))


def test_frames_of_many_shapes_may_alternate():
    """More shapes than are prepared for at a time."""
    processor, images = both(preprocessor_config(56, 2, "letterbox"))
    for seed in range(3):
        for side in range(40, 40 + KEPT + 2):
            check(processor, images, noise(side, 60, seed=seed))


def test_a_result_is_not_touched_by_the_next_frame():
    processor, images = both(preprocessor_config(56))
    frames = [noise(56, 56, seed=seed) for seed in range(2)]
    found = [images(frame) for frame in frames]
    for frame, pixels in zip(frames, found, strict=True):
        np.testing.assert_array_equal(pixels.numpy(), processor(frame)[None])


def test_read_only_and_strided_frames_are_taken():
    processor, images = both(preprocessor_config(56))
    frame = noise(60, 90)
    frame.setflags(write=False)
    check(processor, images, frame)
    check(processor, images, frame[:, ::-1])


@pytest.mark.parametrize("strategy", ["resize-crop", "letterbox"])
def test_extreme_shapes_are_done_or_refused_as_ever(strategy):
    processor, images = both(preprocessor_config(28, 1, strategy))
    check(processor, images, noise(4100, 20))
    with pytest.raises(ImageError, match="less extreme"):
        images(noise(1, 2**19))


@pytest.mark.parametrize("wrong", [noise(4, 4)[..., :1], noise(4, 4).astype(np.float32), noise(0, 4), "picture"])
def test_what_is_no_frame_is_refused(wrong):
    images = DeviceImages(ImageProcessor.from_dict(preprocessor_config(28)), "cpu")
    with pytest.raises(ImageError, match="expected uint8"):
        images(wrong)


def test_a_pillow_that_rounds_otherwise_keeps_the_work(monkeypatch, caplog):
    """Whatever Pillow comes next: its own pixels are the ones the model was shown."""
    processor, images = both(preprocessor_config(56))

    def other(pixels, size, interpolation):
        return 255 - np.asarray(Image.fromarray(pixels).resize(size[::-1], interpolation))

    monkeypatch.setattr("openvla_core.engine.gpu_images.resize", other)
    check(processor, images, noise(60, 81))
    assert "81 x 60" in caplog.text


def test_a_cpu_keeps_pillow_and_so_does_an_unknown_filter():
    known = ImageProcessor.from_dict(preprocessor_config(28))
    unknown = ImageProcessor.from_dict({**preprocessor_config(28), "interpolations": ["nearest", "nearest"]})
    assert fast_processor(known, "cpu") is None
    assert DeviceImages.can_do(known)
    assert not DeviceImages.can_do(unknown)
    assert fast_processor(unknown, "cuda") is None
