"""Episodes against each other: cards, robots, frames, cameras, pictures, and twins."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from openvla_core.datasets.check.evidence import Evidence
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.settings import CheckSettings
from openvla_core.datasets.check.timing import camera_rate_hz
from openvla_core.datasets.episode import PRIMARY

RATE_TOLERANCE = 0.25
FEWEST_FOR_A_MEDIAN = 3
COLOR_DISTANCE = 12.0  # grey levels between mean colours that are another picture


def check(evidences: Sequence[Evidence], settings: CheckSettings) -> Iterator[Finding]:
    """Findings that need more than one episode."""
    yield from _differing("CARD_MIXED", "cards", {e.name: _card_key(e) for e in evidences if e.card is not None})
    facts = {e.name: e.recording.facts for e in evidences if e.recording is not None}
    robots = {name: str(values["robot"]) for name, values in facts.items() if values.get("robot")}
    yield from _differing("ROBOT_MIXED", "robots", robots)
    yield from _differing("FRAME_MIXED", "frames", _frames(evidences))
    yield from _differing("IMAGE_SIZE_MIXED", "picture sizes", _sizes(evidences))
    yield from _camera_rates(evidences)
    yield from _twins(evidences)
    yield from _sharpness(evidences, settings)
    yield from _colors(evidences)


def _differing(code: str, what: str, values: dict[str, str]) -> Iterator[Finding]:
    """One finding per episode that differs from what most have."""
    counts = Counter(values.values())
    if len(counts) < 2:
        return
    usual = counts.most_common(1)[0][0]
    for name, value in values.items():
        if value != usual:
            sentence = (
                f"{value}; expected {usual}, as in {counts[usual]} of {len(values)} episodes ({len(counts)} {what})"
            )
            yield Finding(code, sentence, name)


def _card_key(evidence: Evidence) -> str:
    assert evidence.card is not None
    card = evidence.card.to_mapping()
    digest = hashlib.sha256(repr(sorted(card.items())).encode()).hexdigest()[:6]
    return f"{evidence.card.name} ({digest})"


def _frames(evidences: Sequence[Evidence]) -> dict[str, str]:
    frames = {}
    for evidence in evidences:
        stream = evidence.recording.streams.get("pose") if evidence.recording is not None else None
        if stream is not None and stream.frames:
            frames[evidence.name] = " and ".join(stream.frames)
    return frames


def _sizes(evidences: Sequence[Evidence]) -> dict[str, str]:
    sizes = {}
    for evidence in evidences:
        known = [size for size in evidence.pictures.sizes if size != (0, 0)] if evidence.pictures is not None else []
        if known:
            width, height = Counter(known).most_common(1)[0][0]
            sizes[evidence.name] = f"{width} x {height}"
    return sizes


def _camera_rates(evidences: Sequence[Evidence]) -> Iterator[Finding]:
    rates = {e.name: camera_rate_hz(e.recording.streams.get(PRIMARY)) for e in evidences if e.recording is not None}
    rates = {name: rate for name, rate in rates.items() if rate}
    if len(rates) < 2:
        return
    usual = float(np.median(list(rates.values())))
    for name, rate in rates.items():
        if abs(rate - usual) > RATE_TOLERANCE * usual:
            yield Finding("CAMERA_RATE_MIXED", f"{rate:.1f} frames per second; expected about {usual:.1f}", name)


def _twins(evidences: Sequence[Evidence]) -> Iterator[Finding]:
    """Two demonstrations never have the very same motion: a person's hand and the sensors' noise see to that."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for evidence in evidences:
        episode = evidence.episode
        if episode is not None and len(episode) > 2:
            rows = np.round(np.asarray(episode.actions, dtype=np.float64), 6)
            if np.ptp(rows[:, :-1], axis=0).any():
                groups[rows.tobytes()].append(evidence.name)
    for names in groups.values():
        for name in names[1:]:
            yield Finding("EPISODE_DUPLICATE", f"every action equals that of {names[0]}; expected other motions", name)


def _sharpness(evidences: Sequence[Evidence], settings: CheckSettings) -> Iterator[Finding]:
    sharp = {}
    for evidence in evidences:
        if evidence.pictures is not None and np.isfinite(evidence.pictures.sharpness).any():
            seen = evidence.pictures.brightness >= settings.black
            if seen.any():
                sharp[evidence.name] = float(np.nanmedian(evidence.pictures.sharpness[seen]))
    if len(sharp) < FEWEST_FOR_A_MEDIAN:
        return
    usual = float(np.median(list(sharp.values())))
    for name, value in sharp.items():
        if value < settings.sharpness_ratio * usual:
            yield Finding(
                "IMAGE_BLURRED", f"sharpness {value:.0f}; expected about {usual:.0f}, as the others have", name
            )


def _colors(evidences: Sequence[Evidence]) -> Iterator[Finding]:
    colors = {e.name: e.pictures.color for e in evidences if e.pictures is not None}
    colors = {name: color for name, color in colors.items() if np.isfinite(color).all()}
    if len(colors) < FEWEST_FOR_A_MEDIAN:
        return
    usual = np.median(np.array(list(colors.values())), axis=0)
    for name, color in colors.items():
        away, swapped = (float(np.linalg.norm(c - usual)) for c in (color, color[::-1]))
        if away > COLOR_DISTANCE and swapped < away / 2:
            given, expected = (", ".join(f"{value:.0f}" for value in c) for c in (color, usual))
            sentence = (
                f"mean red, green, blue ({given}); the others have ({expected}), nearer with red and blue exchanged"
            )
            yield Finding("COLORS_SWAPPED", sentence, name)
