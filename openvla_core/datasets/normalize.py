"""Three ways the field brings actions into one range, and the choice OpenVLA made: quantiles."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from openvla_core.action_statistics import EPSILON, ActionStatistics
from openvla_core.errors import StatisticsError

KINDS = ("bounds_q99", "bounds", "normal")


def normalize_actions(actions: np.ndarray, statistics: Mapping[str, Any], kind: str = "bounds_q99") -> np.ndarray:
    """Actions (..., D) in the units of the data set -> (..., D) float64 without unit.

    Args:
        statistics: the "action" part of dataset_statistics.json. Dimensions its "mask" leaves out stay as they are.
        kind: "bounds_q99" puts the 1 % and 99 % quantiles at -1 and 1 and clips; it is what checkpoints are served
            with. "bounds" does so with minimum and maximum. Both set dimensions that never change to 0. "normal"
            subtracts the mean and divides by the standard deviation, without clipping.

    Raises StatisticsError for an unknown kind or incomplete statistics.
    """
    if kind == "bounds_q99":
        return ActionStatistics.from_dict(statistics).normalize(actions)
    if kind == "bounds":
        bounds = {**statistics, "q01": statistics.get("min"), "q99": statistics.get("max")}
        return ActionStatistics.from_dict(bounds).normalize(actions)
    if kind == "normal":
        return _standardize(np.asarray(actions, dtype=np.float64), statistics)
    raise StatisticsError(f"normalization {kind!r} is unknown; choose one of {', '.join(KINDS)}.")


def _standardize(actions: np.ndarray, statistics: Mapping[str, Any]) -> np.ndarray:
    try:
        mean, std = (np.array(statistics[key], dtype=np.float64) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise StatisticsError(f"normalization 'normal' needs lists of numbers mean and std: {error!r}.") from error
    mask = np.array(statistics.get("mask", np.ones(mean.shape, dtype=bool)))
    if not mean.shape == std.shape == mask.shape == actions.shape[-1:] or (std < 0).any():
        raise StatisticsError(
            f"actions {actions.shape} do not fit mean {mean.shape}, std {std.shape} and mask {mask.shape}; "
            "expected one number per dimension, no std below 0."
        )
    return np.where(mask, (actions - mean) / (std + EPSILON), actions)
