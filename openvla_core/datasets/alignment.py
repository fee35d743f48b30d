"""Streams of different rates become steps: each step is one camera frame and what was known when it was taken.

Nothing later than a frame's stamp ever becomes part of its step. Only the label of a step looks ahead, by one step.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from openvla_core.datasets.bags.stream import Stream
from openvla_core.errors import DatasetError

NS_PER_S = 1_000_000_000
LONGEST_STEP = 1.5  # periods from one step to the next; beyond it frames are missing and the label spans a hole


@dataclass(frozen=True)
class Series:
    """A stream in the order of its stamps, one value per stamp; stamps_ns, order (N,) int64: stamps, places."""

    stamps_ns: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, stream: Stream) -> "Series":
        """Sorted by stamp; of equal stamps the first to arrive stays."""
        order = np.argsort(stream.stamps_ns, kind="stable")
        stamps = stream.stamps_ns[order]
        first = np.append(True, stamps[1:] != stamps[:-1]) if len(stamps) else np.empty(0, bool)
        return cls(stamps[first], order[first])

    def as_of(self, times_ns: np.ndarray) -> np.ndarray:
        """The newest message at or before each time (K,) -> indices (K,) into the stream; -1 before the first."""
        latest = np.searchsorted(self.stamps_ns, times_ns, side="right") - 1
        return (
            np.where(latest < 0, -1, self.order[np.maximum(latest, 0)])
            if len(self.order)
            else np.full(len(times_ns), -1)
        )


def choose_frames(stamps_ns: np.ndarray, rate_hz: float) -> tuple[np.ndarray, int]:
    """The frames that become steps: those nearest to a regular grid that begins at the first one.

    Whether a frame is chosen depends on the frames up to it alone: it is taken when, at the pace the camera has just
    shown, the next one would be further from the grid.

    Args:
        stamps_ns: (N,) int64, strictly increasing.
        rate_hz: steps per second; a camera that is slower gives all its frames.

    Returns:
        Indices (K,) into stamps_ns, and how many points of the grid had no frame.
    """
    if not rate_hz > 0:
        raise DatasetError(f"the rate of the steps is {rate_hz} Hz; give a number above 0, such as 5.")
    period = NS_PER_S / rate_hz
    chosen: list[int] = []
    missed = 0
    due = 0.0
    for i, stamp in enumerate(stamps_ns):
        spacing = float(stamp - stamps_ns[i - 1]) if i else 0.0
        if chosen and stamp < due - min(spacing, period) / 2:
            continue
        late = (float(stamp) - due) / period if chosen else 0.0
        if late > 0.5:  # the camera paused: the grid begins again here
            missed += int(late + 0.5)
            due = float(stamp)
        due = (due if chosen else float(stamp)) + period
        chosen.append(i)
    return np.array(chosen, dtype=np.int64), missed


@dataclass(frozen=True)
class Steps:
    """K steps. stamps_ns (K,) int64 and frames (K,) indices of messages of the primary camera.

    latest: role -> (K,) index of the newest message at the step. following: the same one step later, for labels.
    segment (K,) int: steps with the same number follow each other without a hole.
    counts: what was left out and why. rate_hz: of the grid.
    """

    stamps_ns: np.ndarray
    frames: np.ndarray
    latest: Mapping[str, np.ndarray]
    following: Mapping[str, np.ndarray]
    segment: np.ndarray
    rate_hz: float
    counts: Mapping[str, int] = field(default_factory=dict)

    def without_holes(self, kept: np.ndarray) -> np.ndarray:
        """segment of the steps (M,) that are kept: one that is missing between two of them is a hole as well."""
        breaks = (np.diff(kept) != 1) | (np.diff(self.segment[kept]) != 0)
        return np.append(0, np.cumsum(breaks))[: len(kept)]


def align(
    camera: Stream,
    continuous: Mapping[str, Stream],
    latched: Mapping[str, Stream],
    rate_hz: float,
    freshness_s: float = 0.0,
    span: tuple[int, int] | None = None,
) -> Steps:
    """Brings the streams to the frames of the camera.

    Args:
        camera: the stream whose frames become steps.
        continuous: role -> stream that must be fresh at every step, such as the pose.
        latched: role -> stream whose last value stays in force, such as a gripper command; -1 before the first.
        rate_hz: steps per second.
        freshness_s: the oldest a continuous value may be, seconds; 0 for half a period.
        span: first and last stamp (ns) at which a step may lie, None for all.

    Returns:
        The steps that have a successor, because a label needs one.
    """
    cameras = Series.of(camera)
    frames, missed = choose_frames(cameras.stamps_ns, rate_hz)
    stamps = cameras.stamps_ns[frames]
    counts = Counter({"frames missing": missed})
    keep = np.ones(len(stamps), dtype=bool)
    if span is not None:
        keep = (stamps >= span[0]) & (stamps <= span[1])
        counts["another instruction or none"] = int((~keep).sum())
    window = (freshness_s or 0.5 / rate_hz) * NS_PER_S
    latest = {}
    for role, stream in {**continuous, **latched}.items():
        series = Series.of(stream)
        latest[role] = series.as_of(stamps)
        if role in continuous:
            ages = stamps - stream.stamps_ns[np.maximum(latest[role], 0)] if len(stream) else np.full(len(stamps), 1)
            fresh = (latest[role] >= 0) & (ages <= window)
            counts[f"{role} older than {window / NS_PER_S:.3g} s"] = int((keep & ~fresh).sum())
            keep &= fresh
    # A label runs from one step to the next; where that one is missing, there is no label.
    period = NS_PER_S / rate_hz
    joined = keep[:-1] & keep[1:] & (np.diff(stamps) <= LONGEST_STEP * period)
    here = np.flatnonzero(joined)
    counts["without a next step"] = int(keep.sum() - len(here))
    segment = np.cumsum(np.append(True, np.diff(here) != 1)) - 1 if len(here) else np.empty(0, dtype=np.int64)
    return Steps(
        stamps_ns=stamps[here],
        frames=cameras.order[frames[here]],
        latest={role: indices[here] for role, indices in latest.items()},
        following={role: indices[here + 1] for role, indices in latest.items()},
        segment=segment,
        rate_hz=rate_hz,
        counts={reason: count for reason, count in counts.items() if count},
    )
