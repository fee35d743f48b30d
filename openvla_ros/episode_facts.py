"""What an episode says about itself when it ends: how its topics came, and what it was told to do."""

import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from openvla_ros.topic_tap import TopicTap

CLOCK_JUMP_S = 0.1  # between two looks a fraction of a second apart; slewing moves it by less than a millisecond
MOST_JUMPS = 100
ENOUGH = 0.8  # a topic is slow below this share of the rate it should have


def audit(taps: Sequence[TopicTap]) -> dict[str, Any]:
    """Rates and gaps as seen, the rates expected, the needed topics that never came, and what each is called here."""
    heard = {tap.facts.name: tap for tap in taps if tap.facts is not None}
    return {
        "rates": {name: round(tap.rate_hz, 2) for name, tap in heard.items()},
        "expected_rates": {name: tap.wanted.rate_hz for name, tap in heard.items() if tap.wanted.rate_hz},
        "longest_gaps": {name: round(tap.longest_gap_s, 3) for name, tap in heard.items()},
        "missing": [tap.name for tap in taps if tap.wanted.required and not tap.count],
        "topics": {tap.wanted.name: tap.facts.name for tap in taps if tap.facts is not None},
    }


def slow_topics(taps: Sequence[TopicTap]) -> list[str]:
    """One sentence for each topic that was missing or slower than it should be."""
    sentences = []
    for tap in taps:
        wanted = tap.wanted
        if wanted.required and not tap.count:
            sentences.append(f"{tap.name} is missing.")
        elif wanted.rate_hz and tap.count and tap.rate_hz < ENOUGH * wanted.rate_hz:
            sentences.append(f"{tap.name} came at {tap.rate_hz:.1f} Hz, expected {wanted.rate_hz:g} Hz.")
    return sentences


class ClockWatch:
    """Notices when the clock of the machine is set while an episode is recorded: its stamps then mean two things.

    jumps: each [seconds since the start, by how many seconds].
    """

    def __init__(self) -> None:
        self.jumps: list[list[float]] = []
        self._started_s = time.monotonic()
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def look(self) -> None:
        """Compares the clock with one that nobody can set."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        by_s = (offset_ns - self._offset_ns) * 1e-9
        if abs(by_s) > CLOCK_JUMP_S and len(self.jumps) < MOST_JUMPS:
            self.jumps.append([round(time.monotonic() - self._started_s, 3), round(by_s, 3)])
        self._offset_ns = offset_ns


def package_version() -> str:
    """The version of this package; empty when it is not installed."""
    try:
        return version("openvla_ros")
    except PackageNotFoundError:
        return ""
