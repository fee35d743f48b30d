"""Steady timers, and figures about what happened in the last seconds."""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

SAME_MOMENT_S = 0.0001
READINGS = 5

# Watchdogs and heartbeats must not stop or jump with the wall clock.
STEADY = Clock(clock_type=ClockType.STEADY_TIME)


def steady_timer(node: Node, period_s: float, callback: Callable[[], None]):
    """A timer that keeps its pace when the wall clock or simulated time jumps."""
    return node.create_timer(period_s, callback, clock=STEADY)


def one_moment(ros_now_ns: Callable[[], int], steady_s: Callable[[], float] = time.monotonic) -> tuple[int, float]:
    """ROS time in nanoseconds and time.monotonic() of one moment, so that what is made for the one is stamped with it.

    On a busy machine a process may wait for 10 ms and more between two lines; the clocks are then read again.
    """
    best = (0, 0.0)
    shortest_s = float("inf")
    for _ in range(READINGS):
        before_s = steady_s()
        stamp_ns = ros_now_ns()
        took_s = steady_s() - before_s
        if took_s < shortest_s:
            best, shortest_s = (stamp_ns, before_s + took_s / 2), took_s
        if took_s <= SAME_MOMENT_S:
            break
    return best


class RateWindow:
    """Rate and latency over the last seconds. Times are seconds of time.monotonic()."""

    def __init__(self, span_s: float = 10.0) -> None:
        self._span_s = span_s
        self._entries: deque[tuple[float, float]] = deque(maxlen=4096)

    def add(self, latency_s: float = 0.0, now_s: float | None = None) -> None:
        """Notes one event and how long it took."""
        self._entries.append((time.monotonic() if now_s is None else now_s, latency_s))

    def clear(self) -> None:
        """Forgets every event."""
        self._entries.clear()

    def rate_hz(self, now_s: float | None = None) -> float:
        """Events per second; 0 with fewer than two events in the window."""
        self._forget(now_s)
        if len(self._entries) < 2:
            return 0.0
        elapsed = self._entries[-1][0] - self._entries[0][0]
        return (len(self._entries) - 1) / elapsed if elapsed > 0 else 0.0

    def percentile_ms(self, percent: float, now_s: float | None = None) -> float:
        """The latency that `percent` of the events did not exceed, milliseconds; 0 without events."""
        self._forget(now_s)
        if not self._entries:
            return 0.0
        return float(np.percentile([latency for _, latency in self._entries], percent)) * 1000.0

    def _forget(self, now_s: float | None) -> None:
        oldest = (time.monotonic() if now_s is None else now_s) - self._span_s
        while self._entries and self._entries[0][0] < oldest:
            self._entries.popleft()


class Histogram:
    """Counts of times since the start, in buckets that end at the given milliseconds, the last one open."""

    def __init__(self, ends_ms: Sequence[int]) -> None:
        self._ends_ms = tuple(ends_ms)
        self._counts = [0] * (len(self._ends_ms) + 1)

    def add(self, seconds: float) -> None:
        """Notes one time."""
        self._counts[bisect_left(self._ends_ms, seconds * 1e3)] += 1

    def values(self, name: str) -> dict[str, str]:
        """One key per bucket, such as {"latency_le_100_ms": "12", ..., "latency_gt_500_ms": "0"}."""
        keys = [f"{name}_le_{end}_ms" for end in self._ends_ms] + [f"{name}_gt_{self._ends_ms[-1]}_ms"]
        return {key: str(count) for key, count in zip(keys, self._counts, strict=True)}
