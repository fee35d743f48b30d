"""Tests for a machine with a GPU: `pytest test/gpu`. Elsewhere nothing here is collected.

OPENVLA_GPU_REHEARSAL=1 runs on a CPU, with a small model, what does not ask the GPU itself.
"""

import os

import pytest
import torch

REHEARSAL = not torch.cuda.is_available() and bool(os.environ.get("OPENVLA_GPU_REHEARSAL"))

collect_ignore_glob: list[str] = []
if not torch.cuda.is_available():
    collect_ignore_glob = ["test_gpu_device.py", "test_gpu_unrecordable.py"] if REHEARSAL else ["test_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if REHEARSAL else "cuda")


@pytest.fixture(autouse=True)
def exact_float32():
    """TensorFloat-32 keeps 10 bits of 23: fine for speed, not for comparing tokens."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
