"""Episodes that train and episodes that only validate, decided for each by its name and the seed alone.

A recording stays on its side when others are added or removed, and in whatever format it is read.
"""

from dataclasses import dataclass

import numpy as np

from openvla_core.datasets.splits import TRAIN, split_of
from openvla_core.datasets.streaming.sources import Step, StepSource
from openvla_core.errors import DatasetError

SPLIT_VERSION = 2  # 1 went by the number of the episode


@dataclass(frozen=True)
class HeldOut:
    """The two parts of one data set, with how many episodes are in each."""

    training: StepSource
    validation: StepSource
    training_episodes: int
    validation_episodes: int


class EpisodesOf:
    """Chosen episodes of a source, whose steps lie together, as a source of its own with the same name."""

    def __init__(self, source: StepSource, starts: np.ndarray, ends: np.ndarray) -> None:
        """starts, ends (E,) int64: the first step of each chosen episode and the one after its last, ascending."""
        self.name, self._source, self._starts = source.name, source, starts
        self._ends = np.cumsum(ends - starts)
        edges = np.searchsorted(ends, source.block_ends, side="right")
        # Of the episode that reaches beyond the end of a shard, what lies before it.
        whole = np.concatenate([[0], self._ends])[edges]
        reached = np.append(starts, np.iinfo(np.int64).max)[edges]
        self._block_ends = whole + np.maximum(source.block_ends - reached, 0)

    @property
    def block_ends(self) -> np.ndarray:
        return self._block_ends

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Step:
        episode = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[episode - 1]) if episode else 0
        return self._source[int(self._starts[episode]) + index - before]


def held_out(source: StepSource, share: float, seed: int) -> HeldOut:
    """Splits by episode, see above.

    Looks up where every episode ends unless share is 0, some reads per episode. Raises DatasetError when all validate.
    """
    if not share:
        nothing = np.zeros(0, dtype=np.int64)
        return HeldOut(source, EpisodesOf(source, nothing, nothing), 0, 0)
    starts, names = episode_starts(source)
    ends = np.append(starts[1:], len(source))
    trains = np.array([split_of(name, share, seed) == TRAIN for name in names])
    if not trains.any():
        raise DatasetError(f"{source.name}: all {len(starts)} episodes would validate; lower validation_share.")
    parts = [EpisodesOf(source, starts[chosen], ends[chosen]) for chosen in (trains, ~trains)]
    return HeldOut(parts[0], parts[1], int(trains.sum()), int((~trains).sum()))


def episode_starts(source: StepSource) -> tuple[np.ndarray, list[str]]:
    """The first step of every episode (E,) int64, and the episodes' names, their numbers where nobody told names."""
    starts: list[int] = []
    names: list[str] = []
    at, steps = 0, len(source)
    while at < steps:
        first = source[at]
        starts.append(at)
        names.append(first.episode_name or str(first.episode))
        at = _end_of(source, at, steps, first.episode)
    return np.array(starts, dtype=np.int64), names


def _end_of(source: StepSource, first: int, steps: int, number: int) -> int:
    """Where the episode that begins at `first` ends: strides that double, then halves."""
    stride = 16
    while first + stride < steps and source[first + stride].episode == number:
        first, stride = first + stride, 2 * stride
    last = min(first + stride, steps)  # the episode has ended here; it still lasts at `first`
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if source[middle].episode == number else (first, middle)
    return last
