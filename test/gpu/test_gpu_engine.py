"""On a GPU the engine says what transformers says, and a recording does what the calls do."""

import gc

import numpy as np
import pytest
import torch
from slices import COUNT, REFERENCE, inputs, published, slice_model

from openvla_core import load_policy
from openvla_core.engine.engine import Engine
from openvla_core.engine.gpu_images import DeviceImages
from openvla_core.engine.graphs import Stages
from openvla_core.engine.vision import encode_image, side_stream
from openvla_core.image_processor import ImageProcessor, preprocessor_config

WORDS = (8, 12, 17, 20)


@pytest.fixture(scope="module")
def exact_model(device):
    yield slice_model(device, torch.float32)
    gc.collect()


@pytest.fixture(scope="module")
def fast_model(device):
    yield slice_model(device, torch.bfloat16)
    gc.collect()


def partly_right(ids, wrong):
    draft = ids.clone()
    draft[wrong] = (draft[wrong] + 1) % 31000
    return draft


@pytest.mark.parametrize("drafts", [False, True])
def test_float32_tokens_are_those_of_transformers(exact_model, drafts):
    engine = Engine(exact_model, drafts=drafts)
    answers = set()
    for seed in range(12):
        given = inputs(exact_model, WORDS[seed % len(WORDS)], seed)
        expected = published(exact_model, *given)
        draft = partly_right(torch.tensor(expected), [[], [2, 4], list(range(COUNT))][seed % 3])
        assert engine.generate(REFERENCE, *given, COUNT, draft).ids.tolist() == expected
        answers.add(tuple(expected))
    assert len(answers) > 6, "the model would answer everything alike"


@pytest.mark.parametrize("drafts", [False, True])
def test_recorded_and_called_give_the_same_bits_in_bfloat16(fast_model, drafts):
    called = Engine(fast_model, drafts=drafts, graphs=False)
    recorded = Engine(fast_model, drafts=drafts, graphs=True)
    for seed in range(8):
        given = inputs(fast_model, WORDS[seed % len(WORDS)], seed)
        first, second = (engine.generate(REFERENCE, *given, COUNT) for engine in (called, recorded))
        assert torch.equal(first.ids, second.ids)
        assert torch.equal(first.logits, second.logits)


def test_drafts_change_no_bit_in_bfloat16(fast_model):
    engine = Engine(fast_model, drafts=True)
    for seed in range(8):
        given = inputs(fast_model, WORDS[seed % len(WORDS)], seed)
        plain = engine.generate(REFERENCE, *given, COUNT)
        for wrong in ([], [1, 4], list(range(COUNT))):
            drafted = engine.generate(REFERENCE, *given, COUNT, partly_right(plain.ids, wrong))
            assert torch.equal(drafted.ids, plain.ids)
            assert torch.equal(drafted.logits, plain.logits)
            assert drafted.passes == 1 + len([i for i in wrong if 0 < i < COUNT - 1])


def test_nothing_is_recorded_after_the_warm_up(fast_model):
    engine = Engine(fast_model, drafts=True)
    engine.warm_up(REFERENCE, COUNT)
    prepared = engine.prepared
    assert prepared >= 2
    for seed in range(8):
        ids = engine.generate(REFERENCE, *inputs(fast_model, 6 + seed % 3, seed), COUNT).ids
        engine.generate(REFERENCE, *inputs(fast_model, 6 + seed % 3, seed), COUNT, ids)
    assert engine.prepared == prepared


@pytest.mark.parametrize("batch", [1, 2])
@torch.inference_mode()
def test_towers_side_by_side_give_the_bits_of_one_after_the_other(fast_model, device, batch):
    """Thirty times: a tensor given away too early would not show every time."""
    side = side_stream(fast_model)
    assert (side is not None) == (device.type == "cuda")
    for seed in range(30):
        pixels = inputs(fast_model, 8, seed)[1].repeat(batch, 1, 1, 1)
        assert torch.equal(encode_image(fast_model, pixels, side), encode_image(fast_model, pixels))


def test_a_result_survives_every_other_stage(device):
    """The graphs share their memory for intermediate values; what they return may not lie there."""
    stages = Stages(device, capture=True)

    def work(x):
        return (x @ x).softmax(-1) + (x * 2).sum()

    sizes = (64, 256, 128, 256)
    given = [torch.randn(size, size, device=device) for size in sizes]
    expected = [work(x) for x in given]
    for _ in range(3):
        for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
            found = {i: stages.run(f"work {i}", work, given[i]) for i in order}
            for i, result in found.items():
                assert torch.equal(result, expected[i])
    assert stages.captures == len(sizes)


@pytest.mark.parametrize("strategy", ["resize-naive", "resize-crop", "letterbox"])
@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (640, 480), (256, 256), (224, 224), (101, 333), (60, 80)])
def test_pixels_are_those_of_pillow_to_the_last_bit(device, strategy, shape):
    processor = ImageProcessor.from_dict(preprocessor_config(224, 2, strategy))
    images = DeviceImages(processor, device)
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for _ in range(3)]
    frames = [*noise, np.where(noise[0] > 127, 255, 0).astype(np.uint8)]
    found = [images(frame) for frame in frames]  # all are under way before the first is looked at
    for frame, pixels in zip(frames, found, strict=True):
        assert pixels.device.type == device.type
        np.testing.assert_array_equal(pixels[0].cpu().numpy(), processor(frame))


@pytest.mark.parametrize("drafts", [False, True])
def test_the_published_answers_come_out(golden_checkpoint, device, golden_policy, drafts):
    policy = load_policy(golden_checkpoint, device=str(device), decoding="reference", drafts=drafts)
    generator = np.random.default_rng(0)
    for _ in range(6):
        frame = generator.integers(0, 256, (120, 160, 3), dtype=np.uint8)
        expected = golden_policy.predict(frame, "pick up the cup", "toy_arm")
        assert policy.predict(frame, "pick up the cup", "toy_arm").tokens.ids.tolist() == expected.tokens.ids.tolist()
