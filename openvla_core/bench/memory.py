"""The most memory that was used since a moment: of the GPU where there is one, else of this process."""

from pathlib import Path

import torch

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_PEAK = "5"


def restart_peak(device: torch.device) -> None:
    """From here on. Where the system does not let a process do that, the peak is that since its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        CLEAR.write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        pass


def peak_bytes(device: torch.device) -> int:
    """Allocated on the GPU, or resident in main memory; 0 where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
