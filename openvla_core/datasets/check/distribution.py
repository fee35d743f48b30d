"""The labels of the whole set: outliers, against bridge_orig too, and statistics that cannot scale."""

from collections.abc import Iterator, Sequence

import numpy as np

from openvla_core.datasets.check.evidence import Evidence
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.settings import CheckSettings

# q01 and q99 of the published statistics of bridge_orig: metres and radians per step at 5 Hz.
BRIDGE_LOW = np.array([-0.0287, -0.0417, -0.0261, -0.0809, -0.0929, -0.2072])
BRIDGE_HIGH = np.array([0.0283, 0.0409, 0.0402, 0.0819, 0.0779, 0.2038])
BRIDGE_RATE_HZ = 5.0
NAMES = ("x", "y", "z", "rotation 1", "rotation 2", "rotation 3", "gripper")
LEAST_STEP = 0.02  # metres; shorter steps are no outliers whatever the others are
LEAST_TURN = 0.1  # radians
FEWEST_STEPS = 20  # of a set that has a distribution


def check(evidences: Sequence[Evidence], settings: CheckSettings) -> Iterator[Finding]:
    """Findings about the distribution of actions."""
    usable = [e for e in evidences if _is_usable(e)]
    if sum(len(e.episode) for e in usable if e.episode is not None) < FEWEST_STEPS:
        return
    rows = all_actions(usable)
    yield from _outliers(usable, settings)
    yield from _against_bridge(usable, settings)
    low, high = np.quantile(rows, [0.01, 0.99], axis=0)
    for i in range(rows.shape[1] - 1):
        if low[i] < high[i]:
            continue
        name = NAMES[i] if rows.shape[1] == len(NAMES) else f"dimension {i}"
        if rows[:, i].min() == rows[:, i].max():
            yield Finding("STATISTICS_CONSTANT", f"{name} is always {rows[0, i]:.3g}; expected it to change")
        else:
            moving = int((rows[:, i] != low[i]).sum())
            sentence = (
                f"{name} has q01 = q99 = {low[i]:.3g} but {moving} of {len(rows)} steps differ; expected q01 < q99"
            )
            yield Finding("STATISTICS_DEGENERATE", sentence)
    if len(usable) > 1 and np.ptp(rows[:, -1]) == 0:
        yield Finding("GRIPPER_UNUSED", f"the gripper is {rows[0, -1]:.3g} in all {len(rows)} steps; expected changes")


def all_actions(evidences: Sequence[Evidence]) -> np.ndarray:
    """Actions of all usable episodes (N, D) float64."""
    rows = [np.asarray(e.episode.actions, np.float64) for e in evidences if e.episode is not None and _is_usable(e)]
    width = rows[0].shape[1] if rows else 7
    return np.concatenate([part for part in rows if part.shape[1] == width]) if rows else np.empty((0, width))


def _is_usable(evidence: Evidence) -> bool:
    episode = evidence.episode
    return episode is not None and len(episode) > 0 and bool(np.isfinite(episode.actions).all())


def _outliers(evidences: Sequence[Evidence], settings: CheckSettings) -> Iterator[Finding]:
    sized = [e for e in evidences if e.card is not None and e.episode is not None and e.episode.actions.shape[1] == 7]
    if not sized:
        return
    sizes = [np.array([e.card.size(row) for row in e.episode.actions.astype(np.float64)]) for e in sized]  # type: ignore[union-attr]
    usual = np.quantile(np.concatenate(sizes), 0.95, axis=0)
    limits = np.maximum(settings.outlier * usual, [LEAST_STEP, LEAST_TURN])
    for evidence, values in zip(sized, sizes, strict=True):
        for column, (unit, what) in enumerate((("m", "step"), ("rad", "turn"))):
            worst = int(np.argmax(values[:, column]))
            if values[worst, column] > limits[column]:
                sentence = (
                    f"a {what} of {values[worst, column]:.3f} {unit}; 95 % of the set are below {usual[column]:.3f}, "
                    f"expected {limits[column]:.3f} {unit} at most"
                )
                assert evidence.episode is not None
                yield Finding("OUTLIER", sentence, evidence.name, float(evidence.episode.times_s[worst]))
                break


def bridge_quantiles(rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """q01 and q99 (6,) of bridge_orig as it would be at this many steps per second: m and rad per step."""
    scale = BRIDGE_RATE_HZ / rate_hz if rate_hz > 0 else 1.0
    return BRIDGE_LOW * scale, BRIDGE_HIGH * scale


def in_units(evidences: Sequence[Evidence]) -> tuple[np.ndarray, float]:
    """Actions (N, 6) in metres and radians per step, and the steps per second; of episodes with a card."""
    parts, rates = [], []
    for evidence in evidences:
        if evidence.card is not None and evidence.episode is not None and evidence.episode.actions.shape[1] == 7:
            scale = np.repeat([evidence.card.translation_scale, evidence.card.rotation_scale], 3)
            parts.append(evidence.episode.actions[:, :6].astype(np.float64) * scale)
            rates.append(evidence.episode.rate_hz)
    return (np.concatenate(parts), float(np.median(rates))) if parts else (np.empty((0, 6)), 0.0)


def _against_bridge(evidences: Sequence[Evidence], settings: CheckSettings) -> Iterator[Finding]:
    rows, rate_hz = in_units(evidences)
    if not len(rows):
        return
    low, high = bridge_quantiles(rate_hz)
    own_low, own_high = np.quantile(rows, [0.01, 0.99], axis=0)
    ratios = np.maximum(own_high / high, own_low / low)
    for i in np.flatnonzero(ratios > settings.bridge_ratio):
        sentence = (
            f"{NAMES[i]} goes from {own_low[i]:.3f} to {own_high[i]:.3f} (1 % to 99 %), {ratios[i]:.1f} times "
            f"bridge_orig ({low[i]:.3f} to {high[i]:.3f} at {rate_hz:g} Hz); expected at most "
            f"{settings.bridge_ratio:g} times"
        )
        yield Finding("OUTLIER_BRIDGE", sentence)
