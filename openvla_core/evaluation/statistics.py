"""Success rates with honest intervals, and percentiles of latencies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a success rate: (low, high), fractions in [0, 1]. No trials give (0, 1).

    Unlike the plain normal interval it stays inside [0, 1] and is not empty at 0 or all successes.
    """
    assert 0 <= successes <= trials, f"{successes} successes of {trials} trials"
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    shrink = 1 + z * z / trials
    center = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, center - half), min(1.0, center + half)


@dataclass(frozen=True)
class Rate:
    """How often something happened: `count` of `trials`."""

    count: int
    trials: int

    @property
    def value(self) -> float:
        """The fraction in [0, 1]; 0 without trials."""
        return self.count / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval, fractions."""
        return wilson_interval(self.count, self.trials)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.count}/{self.trials} = {100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def percentiles_ms(values_ms: Sequence[float]) -> dict[str, float | int | None]:
    """Median, 95th percentile and maximum of latencies in milliseconds; None where there are no values."""
    values = np.asarray(values_ms, dtype=np.float64)
    if values.size == 0:
        return {"p50": None, "p95": None, "max": None, "count": 0}
    p50, p95 = np.percentile(values, [50, 95])
    return {
        "p50": round(float(p50), 2),
        "p95": round(float(p95), 2),
        "max": round(float(values.max()), 2),
        "count": int(values.size),
    }
