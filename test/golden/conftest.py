"""What several golden tests read: tensors, samples, and the model in float64 to judge two float32 results by."""

import numpy as np
import pytest
from golden_tools import Sample, to_double
from PIL import Image
from safetensors.torch import load_file

from openvla_core.checkpoint import load_checkpoint
from openvla_core.model import OpenVLA

SAMPLES = 5


@pytest.fixture(scope="session")
def tensors(golden):
    return load_file(golden / "fused_mini" / "golden.safetensors")


@pytest.fixture(scope="session")
def samples(golden, golden_answers, tensors) -> list[Sample]:
    assert len(golden_answers["samples"]) == SAMPLES
    return [
        Sample(
            image=np.asarray(Image.open(golden / "images" / answers["image"]).convert("RGB")),
            task=answers["task"],
            answers=answers,
            tensors={key.removeprefix(f"s{i}."): t for key, t in tensors.items() if key.startswith(f"s{i}.")},
        )
        for i, answers in enumerate(golden_answers["samples"])
    ]


@pytest.fixture(params=range(SAMPLES))
def sample(request, samples) -> Sample:
    return samples[request.param]


@pytest.fixture(scope="session")
def double_model(golden_checkpoint) -> OpenVLA:
    """Computes with some 16 digits: what float32 results are rounded versions of."""
    return to_double(load_checkpoint(golden_checkpoint).model)
