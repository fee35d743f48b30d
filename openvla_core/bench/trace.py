"""What one action consists of, as the profiler of torch sees it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from openvla_core.bench.peaks import wait_for

SHOWN = 15


def trace(call: Callable[[], object], device: torch.device, file: Path) -> dict[str, Any]:
    """Runs the call twice, the second time under the profiler, and writes a trace that browsers show.

    Returns:
        How many operations and GPU kernels there were, and which of them took the longest, in milliseconds.
    """
    on_cuda = device.type == "cuda"
    call()
    wait_for(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiler:
        call()
        wait_for(device)
    profiler.export_chrome_trace(str(file))
    times = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    averages = sorted(profiler.key_averages(), key=lambda one: -getattr(one, times))
    kernels = [event for event in profiler.events() or () if event.device_type == torch.autograd.DeviceType.CUDA]
    return {
        "trace": file.name,
        "operations": sum(one.count for one in averages),
        "kernels": len(kernels),
        "longest": [
            {"name": one.key[:120], "count": one.count, "ms": round(getattr(one, times) / 1000.0, 4)}
            for one in averages[:SHOWN]
        ],
    }
