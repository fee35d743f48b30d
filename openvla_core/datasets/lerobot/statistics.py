"""The statistics LeRobot keeps beside the data: per episode, and of the whole data set."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from openvla_core.datasets.episode import Episode, Frames
from openvla_core.datasets.lerobot.table import CAMERA
from openvla_core.datasets.lerobot.table import numbers as column_numbers

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
SAMPLED_FRAMES = 8  # of each camera and episode: decoding every frame would take longer than writing them
PIXEL_STEP = 4

Statistics = dict[str, dict[str, np.ndarray]]


def describe(values: np.ndarray, axis: int | tuple[int, ...] = 0) -> dict[str, np.ndarray]:
    """min, max, mean, std (of the whole, not of a sample), count and five quantiles of (T, ...) along `axis`."""
    values = np.asarray(values, np.float64)
    summary = {"min": values.min(axis), "max": values.max(axis), "mean": values.mean(axis), "std": values.std(axis)}
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=axis)
    return summary | {"count": np.array([len(values)])} | dict(zip(QUANTILES, quantiles, strict=True))


def describe_frames(frames: Frames) -> dict[str, np.ndarray]:
    """The same of colours in [0, 1], each (3, 1, 1), from eight frames spread over the episode."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, SAMPLED_FRAMES).round().astype(int))
    pixels = np.stack([frames[int(index)][::PIXEL_STEP, ::PIXEL_STEP] for index in chosen])
    summary = describe(pixels / 255.0, (0, 1, 2))
    return {name: value if name == "count" else value.reshape(3, 1, 1) for name, value in summary.items()}


class StatisticsBook:
    """Statistics of each episode and, when they are kept, of the whole. Numbers stay in memory, pictures do not."""

    def __init__(self, keep: bool = True) -> None:
        self._keep = keep
        self._numbers: dict[str, list[np.ndarray]] = {}
        self._pictures: dict[str, list[dict[str, np.ndarray]]] = {}

    def add(self, episode: Episode, table: Any) -> Statistics:
        """The statistics of one episode and its table of rows; also kept for those of the whole."""
        statistics: Statistics = {}
        for key in table.column_names:
            if not key.startswith(CAMERA):
                values = column_numbers(table, key)
                statistics[key] = describe(values)
                if self._keep:
                    self._numbers.setdefault(key, []).append(values)
        for name, frames in episode.images.items():
            statistics[CAMERA + name] = describe_frames(frames)
            if self._keep:
                self._pictures.setdefault(CAMERA + name, []).append(statistics[CAMERA + name])
        return statistics

    def whole(self) -> Statistics:
        """Of all episodes: exact for numbers; for pictures the quantiles are means of those of the episodes."""
        statistics = {key: describe(np.concatenate(parts)) for key, parts in self._numbers.items()}
        return statistics | {key: _pooled(parts) for key, parts in self._pictures.items()}


def plain(statistics: Mapping[str, Mapping[str, np.ndarray]], quantiles: bool = True) -> dict[str, dict[str, Any]]:
    """As lists for JSON and parquet."""
    return {
        key: {name: value.tolist() for name, value in values.items() if quantiles or name not in QUANTILES}
        for key, values in statistics.items()
    }


def _pooled(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    counts = np.array([part["count"][0] for part in parts], np.float64)
    weights = (counts / counts.sum()).reshape(-1, 1, 1, 1)

    def weighted(values: np.ndarray) -> np.ndarray:
        return (weights * values).sum(axis=0)

    stacked = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    mean = weighted(stacked["mean"])
    variance = weighted(stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)
    pooled = {"min": stacked["min"].min(0), "max": stacked["max"].max(0), "mean": mean, "std": np.sqrt(variance)}
    pooled["count"] = np.array([int(counts.sum())])
    return pooled | {name: weighted(stacked[name]) for name in QUANTILES}
