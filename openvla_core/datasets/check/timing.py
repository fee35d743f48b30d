"""Rates, holes and clocks: whether the streams say when things happened."""

from collections.abc import Iterator

import numpy as np

from openvla_core.datasets.bags.stream import Stream
from openvla_core.datasets.check.evidence import NS_PER_S, Evidence
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.settings import CheckSettings
from openvla_core.datasets.episode import PRIMARY

GAP_CODES = {PRIMARY: "CAMERA_GAPS", "pose": "POSE_GAPS"}
SLOWER = 0.9  # of the policy's rate; a camera at exactly that rate jitters around it


def check(evidence: Evidence, settings: CheckSettings) -> Iterator[Finding]:
    """Findings about time of one episode."""
    yield from _length(evidence, settings)
    if evidence.recording is None:
        return
    streams = evidence.recording.streams
    for role in (PRIMARY, "pose"):
        if role in streams and len(streams[role]) > 2:
            yield from _stamps(evidence, role, streams[role], settings)
            yield from _gaps(evidence, role, streams[role], settings)
    yield from _camera_rate(evidence)
    yield from _clock_set(evidence)
    yield from _clocks(evidence, settings)


def _length(evidence: Evidence, settings: CheckSettings) -> Iterator[Finding]:
    episode = evidence.episode
    if episode is None:
        return
    seconds = float(episode.times_s[-1]) if len(episode) else 0.0
    if len(episode) < settings.fewest_steps or seconds < settings.shortest_s:
        sentence = (
            f"{len(episode)} steps in {seconds:.1f} s; expected at least {settings.fewest_steps} steps and "
            f"{settings.shortest_s:g} s"
        )
        yield Finding("TOO_SHORT", sentence, evidence.name)
    if seconds > settings.longest_s:
        yield Finding("TOO_LONG", f"{seconds:.0f} s; expected at most {settings.longest_s:g} s", evidence.name)
    dropped = episode.metadata.get("dropped", {})
    lost = sum(count for reason, count in dropped.items() if " older than " in reason or "frames missing" in reason)
    if lost and lost > settings.dropped_share * (lost + len(episode)):
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        sentence = (
            f"{lost} of {lost + len(episode)} steps dropped ({reasons}); expected {settings.dropped_share:.0%} at most"
        )
        yield Finding("STEPS_DROPPED", sentence, evidence.name)


def _stamps(evidence: Evidence, role: str, stream: Stream, settings: CheckSettings) -> Iterator[Finding]:
    if not stream.stamped:
        yield Finding("STAMP_MISSING", f"all {len(stream)} stamps of {stream.topic} are 0", evidence.name)
        return
    steps = np.diff(stream.stamps_ns)
    delays = (stream.arrivals_ns - stream.stamps_ns) / NS_PER_S
    jumps = np.flatnonzero(np.abs(np.diff(delays)) > settings.jump_s)
    twins, back = np.flatnonzero(steps == 0), np.flatnonzero(steps < 0)
    # A burst of late arrivals moves the delay and comes back; a clock that was set stays where it is.
    for jump in jumps:
        shift = float(np.median(delays[jump + 1 :]) - np.median(delays[: jump + 1]))
        if abs(shift) > settings.jump_s:
            sentence = f"the stamps of {stream.topic} move by {-shift:+.2f} s against arrival; expected no jump"
            yield Finding("CLOCK_JUMP", sentence, evidence.name, evidence.seconds(stream.stamps_ns[jump]))
            return
    if len(twins):
        sentence = f"{len(twins)} of {len(stream)} messages of {stream.topic} repeat the stamp before; expected none"
        yield Finding("STAMP_DUPLICATE", sentence, evidence.name, evidence.seconds(stream.stamps_ns[twins[0]]))
    if len(back):
        sentence = f"{len(back)} stamps of {stream.topic} go back, by up to {-steps.min() / 1e6:.0f} ms; expected none"
        yield Finding("STAMP_BACKWARDS", sentence, evidence.name, evidence.seconds(stream.stamps_ns[back[0]]))


def _clock_set(evidence: Evidence) -> Iterator[Finding]:
    """The recorder has seen the clock of its machine being set, which moves stamps and arrivals alike."""
    assert evidence.recording is not None
    jumps = evidence.recording.facts.get("clock_jumps")
    for jump in jumps[:1] if isinstance(jumps, list) else []:
        seconds, by_s = jump if isinstance(jump, list) and len(jump) == 2 else (0.0, jump)
        sentence = f"the clock of the recorder was set by {by_s} s; expected no jump"
        yield Finding("CLOCK_JUMP", sentence, evidence.name, float(seconds))


def _gaps(evidence: Evidence, role: str, stream: Stream, settings: CheckSettings) -> Iterator[Finding]:
    stamps = np.unique(stream.stamps_ns)
    intervals = np.diff(stamps) / NS_PER_S
    if not len(intervals):
        return
    usual = float(np.median(intervals))
    limit = max(settings.gap_s, settings.gap_periods * usual)
    holes = np.flatnonzero(intervals > limit)
    if len(holes):
        lost = float(np.round(intervals[holes] / usual - 1).sum())
        longest = holes[np.argmax(intervals[holes])]
        sentence = (
            f"{len(holes)} {'hole' if len(holes) == 1 else 'holes'} in {stream.topic}, the longest "
            f"{intervals[longest]:.2f} s, about {lost:.0f} messages lost; expected one every {usual * 1e3:.0f} ms"
        )
        yield Finding(GAP_CODES[role], sentence, evidence.name, evidence.seconds(stamps[longest]))


def _camera_rate(evidence: Evidence) -> Iterator[Finding]:
    assert evidence.recording is not None
    camera = evidence.recording.streams.get(PRIMARY)
    rate_hz = evidence.episode.rate_hz if evidence.episode is not None else 0.0
    measured = camera_rate_hz(camera)
    if measured and rate_hz and measured < SLOWER * rate_hz:
        yield Finding("CAMERA_SLOW", f"{measured:.1f} frames per second; the steps need {rate_hz:g}", evidence.name)


def camera_rate_hz(stream: Stream | None) -> float:
    """Frames per second by the median interval; 0 when it cannot be told."""
    if stream is None or len(stream) < 3:
        return 0.0
    usual = float(np.median(np.diff(np.unique(stream.stamps_ns)))) if len(np.unique(stream.stamps_ns)) > 1 else 0.0
    return NS_PER_S / usual if usual else 0.0


def _clocks(evidence: Evidence, settings: CheckSettings) -> Iterator[Finding]:
    """Compares each stream's median delay from stamp to arrival: on one clock all are small and alike."""
    assert evidence.recording is not None
    delays = {}
    for role in (PRIMARY, "pose", "joints", "target"):
        stream = evidence.recording.streams.get(role)
        if stream is not None and stream.stamped and len(stream):
            delays[role] = (float(np.median(stream.arrivals_ns - stream.stamps_ns)) / NS_PER_S, stream.topic)
    if len(delays) < 2:
        return
    low, high = min(delays.values()), max(delays.values())
    if high[0] - low[0] > settings.clock_s:
        sentence = (
            f"from stamp to arrival {low[1]} takes {low[0]:.2f} s and {high[1]} {high[0]:.2f} s; expected a difference "
            f"below {settings.clock_s:g} s"
        )
        yield Finding("CLOCK_OFFSET", sentence, evidence.name)
