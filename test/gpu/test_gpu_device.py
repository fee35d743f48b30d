"""What only the device can tell: memory that is asked for, copies to the host, code that is compiled."""

import threading

import numpy as np
import pytest
import torch
from slices import COUNT, REFERENCE, inputs, published, slice_model
from torch.profiler import ProfilerActivity, profile

from openvla_core import load_policy
from openvla_core.engine.compiled import no_recompile
from openvla_core.engine.engine import Engine
from openvla_core.engine.gpu_images import DeviceImages
from openvla_core.engine.graphs import Stages
from openvla_core.image_processor import ImageProcessor, preprocessor_config

INSTRUCTION, DATA_SET = "pick up the cup", "toy_arm"


@pytest.fixture(scope="module")
def model(device):
    return slice_model(device, torch.bfloat16)


@pytest.fixture
def frames():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (120, 160, 3), dtype=np.uint8) for _ in range(4)]


def allocations():
    return torch.cuda.memory_stats()["allocation.all.allocated"]


def test_a_replay_allocates_nothing(device):
    stages = Stages(device, capture=True)
    given = torch.randn(512, 512, device=device)

    def work(x):
        return ((x @ x).relu() @ x).softmax(dim=-1)

    stages.run("work", work, given)
    torch.cuda.synchronize()
    before = allocations()
    for _ in range(10):
        stages.run("work", work, given)
    torch.cuda.synchronize()
    assert allocations() == before
    assert torch.equal(stages.run("work", work, given), work(given))


@pytest.mark.parametrize("drafts", [False, True])
def test_a_warm_engine_asks_the_device_for_no_memory(model, drafts):
    """Around the graphs a few small tensors come and go; they come from what is held already."""
    engine = Engine(model, drafts=drafts)
    given = [inputs(model, 10 + seed % 3, seed) for seed in range(6)]
    drafts_of = [engine.generate(REFERENCE, *sample, COUNT).ids.cpu() for sample in given]
    assert engine.prepared >= 2
    assert engine._stages.capturing, "nothing was recorded"
    for sample, draft in zip(given, drafts_of, strict=True):
        engine.generate(REFERENCE, *sample, COUNT, draft)
    torch.cuda.synchronize()
    before, reserved = torch.cuda.memory_stats()["segment.all.allocated"], torch.cuda.memory_reserved()
    for sample, draft in zip(given, drafts_of, strict=True):
        engine.generate(REFERENCE, *sample, COUNT, draft)
    torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["segment.all.allocated"] == before
    assert torch.cuda.memory_reserved() == reserved


def test_an_action_is_copied_to_the_host_once(golden_checkpoint, device, frames):
    policy = load_policy(golden_checkpoint, device=str(device), decoding="reference")
    for frame in frames[:3]:
        policy.predict(frame, INSTRUCTION, DATA_SET)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recording:
        policy.predict(frames[3], INSTRUCTION, DATA_SET)
        torch.cuda.synchronize()
    names = [event.name for event in recording.events()]
    assert any("Memcpy HtoD" in name for name in names), "the profiler saw no copy at all"
    assert len([name for name in names if "Memcpy DtoH" in name]) == 1


def test_a_frame_goes_up_without_waiting(device, frames):
    """From page-locked memory, once the shape of the frames is known."""
    images = DeviceImages(ImageProcessor.from_dict(preprocessor_config(224)), device)
    images(frames[0])
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recording:
        images(frames[1])
        torch.cuda.synchronize()
    copies = [event.name for event in recording.events() if "Memcpy" in event.name and "DtoD" not in event.name]
    assert copies
    assert all("HtoD" in name and "Pinned" in name for name in copies), copies


def test_recording_does_not_mind_another_thread_at_work(model, device):
    """A node may upload frames or answer another robot meanwhile."""
    stop, working, failed = threading.Event(), threading.Event(), []

    def other_work():
        try:
            with torch.cuda.stream(torch.cuda.Stream(device)):
                while not stop.is_set():
                    x = torch.randn(300, 300, device=device)
                    (x @ x).sum().item()
                    working.set()
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=other_work)
    thread.start()
    try:
        assert working.wait(60)
        engine = Engine(model, graphs=True)
        engine.warm_up(REFERENCE, COUNT)
    finally:
        stop.set()
        thread.join()
    assert not failed
    given = inputs(model, 10, 0)
    plain = Engine(model, graphs=False).generate(REFERENCE, *given, COUNT)
    assert torch.equal(engine.generate(REFERENCE, *given, COUNT).logits, plain.logits)


def test_compiled_layers_answer_alike_and_compile_nothing_after_the_warm_up(device):
    exact = slice_model(device, torch.float32)
    engine = Engine(exact, compile_layers=True)
    engine.warm_up(REFERENCE, COUNT)
    with no_recompile():
        for seed in range(4):
            given = inputs(exact, 8 + seed, seed)
            assert engine.generate(REFERENCE, *given, COUNT).ids.tolist() == published(exact, *given)
