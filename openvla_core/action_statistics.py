"""What [-1, 1] means for each data set: the 1 % and 99 % quantiles of its actions."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from openvla_core.errors import ActionError, StatisticsError

# Keeps the division finite when both quantiles are equal; as in the published training code.
EPSILON = 1e-8
# No robot has more joints, and no unit larger numbers: millions would keep the model busy for ever.
MAX_DIMENSIONS, MAX_VALUE = 1000, 1e12
EXACT_ROWS = 1 << 15  # rows that are added up in their own precision


@dataclass(frozen=True)
class ActionStatistics:
    """q01, q99 (D,) float64 in the units of the data set; mask (D,) bool, false where values are left unscaled.

    constant (D,) bool marks dimensions that never change in the data; training sees them as 0.
    """

    q01: np.ndarray
    q99: np.ndarray
    mask: np.ndarray
    constant: np.ndarray

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str = "action") -> "ActionStatistics":
        """Reads the "action" part of one data set. Raises StatisticsError where it is incomplete or not finite."""
        try:
            q01, q99 = (np.array(values[key], dtype=np.float64) for key in ("q01", "q99"))
            mask = np.array(values.get("mask", np.ones(len(q01), dtype=bool)))
            low, high = (np.array(values.get(key, q), dtype=np.float64) for key, q in (("min", q01), ("max", q99)))
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise StatisticsError(f"statistics of {name!r} need lists of numbers q01 and q99: {error!r}.") from error
        if q01.ndim != 1 or not q01.size or not q01.shape == q99.shape == mask.shape == low.shape == high.shape:
            raise StatisticsError(
                f"the statistics of {name!r} have q01 {q01.shape}, q99 {q99.shape}, mask {mask.shape}, min {low.shape} "
                f"and max {high.shape}; expected lists of one length."
            )
        if mask.dtype != bool:
            raise StatisticsError(f"the mask of {name!r} is {mask.tolist()}; expected true or false per dimension.")
        if not (np.isfinite(q01).all() and np.isfinite(q99).all() and (q01 <= q99).all()):
            raise StatisticsError(f"the statistics of {name!r} must be finite with q01 <= q99: {q01}, {q99}.")
        largest = max(np.abs(q01).max(), np.abs(q99).max())
        if q01.size > MAX_DIMENSIONS or not largest < MAX_VALUE:
            raise StatisticsError(
                f"the statistics of {name!r} have {q01.size} numbers up to {largest:g}; "
                f"expected at most {MAX_DIMENSIONS} below {MAX_VALUE:g}. Copy the statistics again."
            )
        return cls(q01, q99, mask, constant=low == high)

    @property
    def dimensions(self) -> int:
        """D, the numbers in one action."""
        return len(self.q01)

    def unnormalize(self, normalized: np.ndarray) -> np.ndarray:
        """(..., D) in [-1, 1] -> (..., D) float64 in the units of the data set; unmasked ones stay as they are."""
        normalized = self._checked(normalized)
        scaled = 0.5 * (normalized + 1.0) * (self.q99 - self.q01) + self.q01
        return np.where(self.mask, scaled, normalized)

    def normalize(self, action: np.ndarray) -> np.ndarray:
        """(..., D) in the units of the data set -> (..., D) float64; scaled dimensions are clipped to [-1, 1]."""
        action = self._checked(action)
        scaled = 2.0 * (action - self.q01) / (self.q99 - self.q01 + EPSILON) - 1.0
        normalized = np.where(self.mask, np.clip(scaled, -1.0, 1.0), action)
        return np.where(self.constant, 0.0, normalized)

    def _checked(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, dtype=np.float64)
        if values.ndim == 0 or values.shape[-1] != self.dimensions:
            raise ActionError(f"the action has shape {values.shape}; the statistics are for (..., {self.dimensions}).")
        return values


def compute_statistics(actions: np.ndarray, mask: list[bool] | None = None) -> dict[str, Any]:
    """The "action" part of dataset_statistics.json for actions (N, D), as plain lists.

    mask: true where a dimension is to be scaled; by default all but the last, the gripper.
    """
    actions = np.asarray(actions)
    if actions.ndim != 2 or not actions.size or not np.isfinite(actions).all():
        raise StatisticsError(f"statistics need finite actions of shape (N, D) with N > 0; got {actions.shape}.")
    q01, q99 = np.quantile(actions, [0.01, 0.99], axis=0)
    mean, std = mean_and_std(actions)
    return {
        "mean": mean.tolist(),
        "std": std.tolist(),
        "max": actions.max(axis=0).tolist(),
        "min": actions.min(axis=0).tolist(),
        "q01": q01.tolist(),
        "q99": q99.tolist(),
        "mask": mask if mask is not None else [True] * (actions.shape[1] - 1) + [False],
    }


def mean_and_std(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) -> two of (D,): in the precision of the rows up to EXACT_ROWS, as published figures were computed.

    Beyond, a sum in float32 loses more and more of every row it is given, and all of it from 2**24 rows of equal size
    on: blocks of rows are added up in float64 then.
    """
    if len(rows) <= EXACT_ROWS:
        return rows.mean(axis=0), rows.std(axis=0)
    blocks = range(0, len(rows), EXACT_ROWS)
    total = sum(rows[i : i + EXACT_ROWS].sum(axis=0, dtype=np.float64) for i in blocks)
    mean = total / len(rows)
    squares = sum(np.square(rows[i : i + EXACT_ROWS] - mean).sum(axis=0) for i in blocks)
    return mean, np.sqrt(squares / len(rows))


def choose_unnorm_key(statistics: Mapping[str, Any], unnorm_key: str | None) -> str:
    """The data set whose units to use. Raises StatisticsError when it is unknown, or left out with several there."""
    if unnorm_key is None and len(statistics) == 1:
        return next(iter(statistics))
    if unnorm_key is not None and unnorm_key in statistics:
        return unnorm_key
    if not statistics:
        raise StatisticsError(
            "this checkpoint has no action statistics; put the dataset_statistics.json of its training data beside it."
        )
    if unnorm_key is None:
        raise StatisticsError(
            f"unnorm_key is missing and this checkpoint has several. Choose one of: {', '.join(sorted(statistics))}."
        )
    wanted = str(unnorm_key).lower()
    nearest = sorted(statistics, key=lambda key: -difflib.SequenceMatcher(None, wanted, key.lower()).ratio())
    raise StatisticsError(
        f"unnorm_key {str(unnorm_key)[:80]!r} is not in this checkpoint. It has: {', '.join(nearest)}. "
        "Set unnorm_key to one of these."
    )


def statistics_of(statistics: Mapping[str, Any], unnorm_key: str) -> ActionStatistics:
    """The action statistics of one data set, checked."""
    entry = statistics[unnorm_key]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("action"), Mapping):
        raise StatisticsError(f"the statistics of {unnorm_key!r} have no 'action' part.")
    return ActionStatistics.from_dict(entry["action"], unnorm_key)
