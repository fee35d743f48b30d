"""Where the arm was measured, as far as that was heard."""

import math
from collections import deque

import numpy as np

from fault_injection.derivatives import distance_to_track

KNOWN_S = 1.0  # how old a pose may be that a stream begins at
DISCOVERED_M = 0.01  # how far the arm may have moved before it is heard for the first time


class Measured:
    """Positions (3,) metres with the stamps they carry, seconds."""

    def __init__(self) -> None:
        self._heard: deque[tuple[float, np.ndarray]] = deque(maxlen=6000)  # a minute

    def add(self, at_s: float, position: np.ndarray) -> None:
        """One position."""
        self._heard.append((at_s, position))

    @property
    def until_s(self) -> float:
        """The stamp of the newest one: what was measured later was not heard yet."""
        return self._heard[-1][0] if self._heard else -math.inf

    def has(self, place: np.ndarray, stamp_s: float, within_m: float, slack_s: float) -> bool:
        """Whether the arm was measured at a place, or passed it, in the second before a command."""
        if not self._heard:  # a robot that publishes joint angles only: nothing to compare with here
            return True
        distance_m, count = self._distance(place, stamp_s, slack_s)
        return distance_m <= (within_m if count > 1 else max(within_m, DISCOVERED_M))

    def describe(self, place: np.ndarray, stamp_s: float, slack_s: float) -> str:
        """How far from the place, for a report."""
        distance_m, count = self._distance(place, stamp_s, slack_s)
        late_s = self.until_s - stamp_s
        return f"{distance_m * 1e3:.1f} mm from {count} poses of the second before; heard until {late_s:.1f} s after"

    def _distance(self, place: np.ndarray, stamp_s: float, slack_s: float) -> tuple[float, int]:
        known = [(at_s, position) for at_s, position in self._heard if at_s >= stamp_s - KNOWN_S]
        before = [position for at_s, position in known if at_s <= stamp_s + slack_s]
        # The controller may discover a new robot a moment before we do: then what is heard first counts.
        track = before if len(before) > 1 else [position for _, position in known[:2]]
        return (distance_to_track(place, np.array(track)) if len(track) > 1 else math.inf), len(before)
