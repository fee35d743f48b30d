"""What an episode says about itself when it ends: how its topics came, and what it was told to do."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from openvla_ros.topic_tap import TopicTap

ENOUGH = 0.8  # a topic is slow below this share of the rate it should have


def audit(taps: Sequence[TopicTap]) -> dict[str, Any]:
    """Rates and gaps as seen, the rates that were expected, and the needed topics that never came."""
    heard = {tap.facts.name: tap for tap in taps if tap.facts is not None}
    return {
        "rates": {name: round(tap.rate_hz, 2) for name, tap in heard.items()},
        "expected_rates": {name: tap.wanted.rate_hz for name, tap in heard.items() if tap.wanted.rate_hz},
        "longest_gaps": {name: round(tap.longest_gap_s, 3) for name, tap in heard.items()},
        "missing": [tap.name for tap in taps if tap.wanted.required and not tap.count],
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


def longest(instructions: list[list], duration_s: float) -> str:
    """The sentence that was in force for the longest time; each comes with the seconds at which it began."""
    ends = [began for began, _ in instructions[1:]] + [duration_s]
    return max(zip(instructions, ends, strict=True), key=lambda entry: entry[1] - entry[0][0])[0][1]


def package_version() -> str:
    """The version of this package; empty when it is not installed."""
    try:
        return version("openvla_ros")
    except PackageNotFoundError:
        return ""
