"""Warm-up until the median settles, then round after round with the same new image for every mode."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from openvla_core.bench.answers import Answer, Runner
from openvla_core.bench.memory import peak_bytes, restart_peak
from openvla_core.bench.modes import REFERENCE
from openvla_core.bench.peaks import wait_for
from openvla_core.bench.subject import image

# Images of the warm-up have numbers of their own, so that none of them is seen again.
WARM_UP_IMAGES = 1_000_000
SETTLED = 3
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Limits:
    """iterations: rounds that are measured. warm_up_s: at most, per mode. warm_up_calls: to a median. tolerance:
    between medians that agree. stage_rounds: in which stages are measured.
    """

    iterations: int = 60
    warm_up_s: float = 3.0
    warm_up_calls: int = 5
    tolerance: float = 0.05
    stage_rounds: int = 10


@dataclass
class Samples:
    """What one mode did, an entry per round: seconds on the wall, seconds of this process on any core, its answer."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    warm_up_calls: int = 0
    peak_bytes: int = 0


def measure(
    runners: Mapping[str, Runner], device: torch.device, limits: Limits, progress: Progress = lambda what, i, n: None
) -> dict[str, Samples]:
    """Warm-up of each mode, the rounds, then memory and stages apart from them. runners: the reference first."""
    assert next(iter(runners)) == REFERENCE
    samples = {name: Samples() for name in runners}
    for number, (name, runner) in enumerate(runners.items()):
        progress("warming up", number, len(runners))
        samples[name].warm_up_calls = warm_up(runners[REFERENCE], runner, device, limits)
    for number in range(limits.iterations):
        progress("measuring", number, limits.iterations)
        _round(runners, samples, number, device)
    for number, (name, runner) in enumerate(runners.items()):
        progress("memory and stages", number, len(runners))
        restart_peak(device)
        runner(image(0))
        samples[name].peak_bytes = peak_bytes(device)
        samples[name].stages = median_stages(runner, limits.stage_rounds)
    progress("done", 1, 1)
    return samples


def warm_up(reference: Runner, runner: Runner, device: torch.device, limits: Limits) -> int:
    """Calls the runner until a few medians in a row agree, or its time is up. Returns how often it was called."""
    medians: list[float] = []
    started, calls = time.perf_counter(), 0
    while True:
        picture = image(WARM_UP_IMAGES + calls)
        runner.expect(WARM_UP_IMAGES + calls, reference(picture).ids)
        medians.append(statistics.median(_timed(runner, picture, device)[1] for _ in range(limits.warm_up_calls)))
        calls += limits.warm_up_calls
        last = medians[-SETTLED:]
        agree = len(last) == SETTLED and max(last) - min(last) <= limits.tolerance * min(last)
        if agree or time.perf_counter() - started > limits.warm_up_s:
            return calls


def median_stages(runner: Runner, rounds: int) -> dict[str, float]:
    """Seconds per stage, each the median over a few images; the first one is not counted."""
    seen = [runner.stages(image(number)) for number in range(rounds + 1)][1:]
    return {name: statistics.median(one[name] for one in seen) for name in seen[0]} if seen else {}


def _round(runners: Mapping[str, Runner], samples: dict[str, Samples], number: int, device: torch.device) -> None:
    picture, truth = image(number), np.empty(0, dtype=np.int64)
    for name, runner in runners.items():
        if name != REFERENCE:
            runner.expect(number, truth)
        answer, wall, cpu = _timed(runner, picture, device)
        if name == REFERENCE:
            truth = answer.ids
        samples[name].answers.append(answer)
        samples[name].wall_s.append(wall)
        samples[name].cpu_s.append(cpu)


def _timed(runner: Runner, picture: np.ndarray, device: torch.device) -> tuple[Answer, float, float]:
    wait_for(device)
    cpu, started = time.process_time(), time.perf_counter()
    answer = runner(picture)  # ends with numbers in main memory: nothing is left to wait for
    wall = time.perf_counter() - started
    return answer, wall, time.process_time() - cpu
