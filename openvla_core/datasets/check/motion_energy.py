"""Whether what is seen and what is measured happen at one time: motion in the picture against speed of the tool."""

from collections.abc import Iterator, Sequence

import numpy as np

from openvla_core.datasets.check.evidence import Evidence
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.settings import CheckSettings

STEP_S = 0.02  # grid on which both are compared
LONGEST_LAG_S = 1.0
SMOOTH_S = 0.2  # noise of poses and pictures below this is averaged away
LEAST_LENGTH_S = 2.0
CERTAIN = 0.6  # correlation at the best lag,
BETTER = 0.15  # and by how much it must beat no lag at all
FEWEST, CERTAIN_TOGETHER = 3, 0.35  # episodes whose mean tells the offset of a set, and the correlation it takes


def tool_path(evidence: Evidence) -> tuple[np.ndarray, np.ndarray] | None:
    """Times (N,) in seconds from the first frame and positions (N, 3) of the tool, finite, in order; None without."""
    if evidence.recording is not None and "pose" in evidence.recording.streams:
        stream = evidence.recording.streams["pose"]
        stamps, first = np.unique(stream.stamps_ns, return_index=True)
        points = stream.values[first, :3]
        times = np.array([evidence.seconds(stamp) for stamp in stamps])
    elif evidence.episode is not None and "pose" in evidence.episode.state:
        times, points = evidence.episode.times_s, evidence.episode.state["pose"][:, :3].astype(np.float64)
    else:
        return None
    finite = np.isfinite(points).all(axis=1)
    return (times[finite], points[finite]) if finite.sum() > 2 else None


def signals(evidence: Evidence, least_s: float = LEAST_LENGTH_S) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Times on a grid, motion in the picture and speed of the tool (m/s), smoothed alike; None when either is missing.

    None too when both are there for less than `least_s` seconds.

    Both are averages over the time between two frames, so that neither is delayed against the other.
    """
    path, pictures = tool_path(evidence), evidence.pictures
    if path is None or pictures is None or len(pictures.change) < 4:
        return None
    order = np.argsort(pictures.times_s[: len(pictures.change)], kind="stable")
    times, change = pictures.times_s[order], pictures.change[order]
    keep = np.append(False, np.diff(times) > 1e-6) & np.isfinite(change)
    if keep.sum() < 4:
        return None
    middles = (times - np.diff(times, prepend=times[0]) / 2)[keep]
    energy = (change / np.maximum(np.diff(times, prepend=times[0] - 1.0), 1e-6))[keep]
    tool_times, points = path
    span = max(np.median(np.diff(times)), STEP_S)
    grid = np.arange(max(middles[0], tool_times[0] + span), min(middles[-1], tool_times[-1] - span), STEP_S)
    if len(grid) * STEP_S < least_s:
        return None

    def position(at: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(at, tool_times, points[:, axis]) for axis in range(3)], axis=1)

    speed = np.linalg.norm(position(grid + span / 2) - position(grid - span / 2), axis=1) / span
    kernel = np.ones(max(1, round(SMOOTH_S / STEP_S)))
    kernel /= len(kernel)
    smooth = [np.convolve(values, kernel, mode="same") for values in (np.interp(grid, middles, energy), speed)]
    return grid, smooth[0], smooth[1]


LAGS = np.arange(-round(LONGEST_LAG_S / STEP_S), round(LONGEST_LAG_S / STEP_S) + 1)


def lag_curve(evidence: Evidence) -> np.ndarray | None:
    """The correlation at every lag of LAGS (in steps of the grid, positive where pictures trail the tool)."""
    found = signals(evidence)
    if found is None:
        return None
    _, energy, speed = found
    size = len(energy)
    if size // 2 <= LAGS[-1]:
        return None
    lags = [int(lag) for lag in LAGS]
    overlaps = [(slice(max(k, 0), size + min(k, 0)), slice(max(-k, 0), size - max(k, 0))) for k in lags]
    return np.array([_correlation(energy[seen], speed[moved]) for seen, moved in overlaps])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def check(evidence: Evidence, settings: CheckSettings) -> Iterator[Finding]:
    """A finding when pictures and motion of one episode are apart in time, beyond doubt."""
    curve = lag_curve(evidence)
    if curve is not None:
        yield from _offset(curve, CERTAIN, evidence.name, settings)


def check_set(evidences: Sequence[Evidence], settings: CheckSettings) -> Iterator[Finding]:
    """The same for the whole set: what is faint in every single episode adds up."""
    curves = [curve for evidence in evidences if (curve := lag_curve(evidence)) is not None]
    if len(curves) >= FEWEST:
        yield from _offset(np.mean(curves, axis=0), CERTAIN_TOGETHER, "", settings)


def _offset(curve: np.ndarray, certain: float, name: str, settings: CheckSettings) -> Iterator[Finding]:
    best = int(np.argmax(curve))
    lag, score, unshifted = float(LAGS[best]) * STEP_S, float(curve[best]), float(curve[len(LAGS) // 2])
    if abs(lag) > settings.offset_s and score > certain and score > unshifted + BETTER:
        word = "trail" if lag > 0 else "lead"
        sentence = (
            f"the pictures {word} the tool by {abs(lag):.2f} s (correlation {score:.2f}, without shift "
            f"{unshifted:.2f}); expected {settings.offset_s:g} s at most"
        )
        yield Finding("IMAGE_ACTION_OFFSET", sentence, name)
