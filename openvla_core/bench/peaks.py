"""What this machine reaches right now: bytes copied and matrix products, measured in the run it is compared with."""

import time
from collections.abc import Callable

import torch

from openvla_core.bench.floors import Peaks

# Bytes of a buffer and side of a matrix: beyond every cache of a GPU, and a tenth of a second on one slow core.
ON_GPU, ON_CPU = (512 << 20, 8192), (64 << 20, 768)
TRIES = 8


def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """The best of a few tries each: how fast it can go, not how fast it went."""
    size, side = ON_GPU if device.type == "cuda" else ON_CPU
    if device.type == "cuda" and dtype == torch.float32:
        side //= 2
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    copying = _shortest(lambda: target.copy_(source), device)
    left = torch.ones(side, side, dtype=dtype, device=device)
    right, product = torch.ones_like(left), torch.empty_like(left)
    computing = _shortest(lambda: torch.mm(left, right, out=product), device)
    return Peaks(bytes_per_s=2 * size / copying, flop_per_s=2 * side**3 / computing)


def wait_for(device: torch.device) -> None:
    """Until the device has done everything it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _shortest(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(TRIES):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        times.append(time.perf_counter() - started)
    return min(times)
