"""Seconds between two moments at which the device had done everything it was given."""

import time
from types import TracebackType

import torch

from openvla_core.bench.peaks import wait_for


class Stopwatch:
    """`with watch("vision"): ...` adds the seconds of the block to watch.seconds["vision"]."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        self._name, self._started = "", 0.0

    def __call__(self, name: str) -> "Stopwatch":
        self._name = name
        return self

    def __enter__(self) -> None:
        wait_for(self._device)
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wait_for(self._device)
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + time.perf_counter() - self._started
