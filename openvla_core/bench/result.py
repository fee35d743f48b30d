"""Everything that was measured as plain values: what the JSON file holds and the tables show."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from openvla_core.bench.exactness import compare
from openvla_core.bench.floors import Peaks, stage_work, total_floor_s
from openvla_core.bench.modes import REFERENCE, Mode
from openvla_core.bench.rounds import Samples
from openvla_core.bench.subject import Subject

DIGITS = 4


def mode_results(subject: Subject, modes: Mapping[str, Mode], samples: Mapping[str, Samples]) -> dict[str, Any]:
    """{mode: figures}. Times in milliseconds; ratio_to_hf is how many times faster the median is than that of `hf`."""
    yardstick = float(np.median(samples[REFERENCE].wall_s))
    results: dict[str, Any] = {}
    for name, sample in samples.items():
        wall = np.array(sample.wall_s)
        p50, p95, p99 = (1000.0 * float(np.percentile(wall, q)) for q in (50, 95, 99))
        exactness = compare(subject, samples[REFERENCE].answers, sample.answers)
        passes = [answer.passes for answer in sample.answers]
        proposed, accepted = (sum(getattr(a, what) for a in sample.answers) for what in ("proposed", "accepted"))
        results[name] = {
            "what": modes[name].what,
            "exact": modes[name].exact,
            "quantization": modes[name].quantization,
            "p50_ms": round(p50, DIGITS),
            "p95_ms": round(p95, DIGITS),
            "p99_ms": round(p99, DIGITS),
            "mean_ms": round(1000.0 * float(wall.mean()), DIGITS),
            "hz": round(1000.0 / p50, DIGITS),
            "ratio_to_hf": round(1000.0 * yardstick / p50, DIGITS),
            "cpu_ms": round(1000.0 * float(np.median(sample.cpu_s)), DIGITS),
            "peak_mb": round(sample.peak_bytes / 1e6, 1),
            "passes_mean": round(float(np.mean(passes)), DIGITS),
            "proposed": proposed,
            "accepted": accepted,
            "tokens_equal": exactness["tokens_equal"] == exactness["tokens"],
            "actions": len(sample.answers),
            "exactness": exactness,
            "stages_ms": {stage: round(1000.0 * value, DIGITS) for stage, value in sample.stages.items()},
            "stages_sum_ms": round(1000.0 * stage_sum_s(sample.stages, float(np.mean(passes))), DIGITS),
            "warm_up_calls": sample.warm_up_calls,
            "wall_ms": [round(1000.0 * value, DIGITS) for value in sample.wall_s],
            "cpu_samples_ms": [round(1000.0 * value, DIGITS) for value in sample.cpu_s],
            "passes": passes,
        }
    return results


def stage_sum_s(stages: Mapping[str, float], passes: float) -> float:
    """All stages of one action, with the one pass that was measured as often as it is made."""
    return sum(seconds * (passes if stage == "decode" else 1.0) for stage, seconds in stages.items())


def floor_results(subject: Subject, peaks: Peaks, quantizations: list[str]) -> dict[str, Any]:
    """For the full weights ("none") and each quantization: work and least time of every stage, and of an action."""
    on_cuda, found = subject.device.type == "cuda", {}
    for name in dict.fromkeys(["none", *quantizations]):
        work = stage_work(subject.config, subject.tokens, subject.dtype, name, on_cuda)
        stages = {
            stage: {
                "gflop": round(one.flop / 1e9, 6),
                "gbytes": round(one.bytes / 1e9, 6),
                "floor_ms": round(1000.0 * one.floor_s(peaks), 6),
            }
            for stage, one in work.items()
        }
        passes = subject.count - 1
        found[name] = {
            "stages": stages,
            "passes": passes,
            "floor_ms": round(1000.0 * total_floor_s(work, peaks, passes), 6),
        }
    return found


def different(results: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    """Modes that promise the reference's tokens, computed in float32, and gave others."""
    if dtype != torch.float32:
        return []
    return [name for name, figures in results.items() if figures["exact"] and not figures["tokens_equal"]]
