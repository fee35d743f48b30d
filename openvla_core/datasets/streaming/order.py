"""Which step of which data set is sample number 0, 1, 2, ... of training: computed from the number alone.

An epoch is cut into rounds. Every round holds each data set in its share, to within one step, in shuffled order, so the
mixture is never far from its weights. A data set's steps come in passes: each exactly once before any comes again.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from openvla_core.datasets.oxe.mixture import Mixture
from openvla_core.datasets.streaming.shuffle import mixed, permuted
from openvla_core.errors import DatasetError

ROUND = 16_384  # samples; the table of rounds for an epoch of 60 million takes 1 MB


class StepOrder:
    """Shuffles the steps of one data set, all at once or a window of shards at a time.

    Within a window of `window` shards, chosen anew in every pass, any step may come next, and only these shards are
    being read: what a shuffle buffer is for, without holding anything. 0 shuffles the whole data set.
    """

    def __init__(self, block_ends: np.ndarray, key: int, window: int = 0) -> None:
        ends = np.asarray(block_ends, dtype=np.int64)
        if not len(ends) or ends[-1] < 1 or (np.diff(ends, prepend=0) < 0).any() or window < 0:
            raise DatasetError(
                f"a data set needs steps, and a window of 0 or more shards; got {len(ends)} shards, {window}."
            )
        self._starts, self._sizes = ends - np.diff(ends, prepend=0), np.diff(ends, prepend=0)
        self._steps, self._key, self._window = int(ends[-1]), key, window
        self._shard_ends = lru_cache(maxsize=4)(self._shuffled_shards)

    def __call__(self, place: int) -> int:
        """The step at place 0, 1, 2, ...; after the last step of a pass the next pass begins, in another order."""
        number, place = divmod(place, self._steps)
        key = mixed(self._key, number)
        if not self._window:
            return permuted(place, self._steps, key)
        shards, ends = self._shard_ends(key)
        first = int(np.searchsorted(ends, place, side="right")) // self._window * self._window
        start = int(ends[first - 1]) if first else 0
        stop = int(ends[min(first + self._window, len(ends)) - 1])
        place = start + permuted(place - start, stop - start, mixed(key, first))
        shard = int(np.searchsorted(ends, place, side="right"))
        return int(self._starts[shards[shard]]) + place - (int(ends[shard - 1]) if shard else 0)

    def _shuffled_shards(self, key: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in the order of this pass, and where each ends in it."""
        count = len(self._sizes)
        shards = np.array([permuted(place, count, key) for place in range(count)], dtype=np.int64)
        return shards, np.cumsum(self._sizes[shards])


class MixedOrder:
    """Sample number -> data set and step, for ever; a function of the mixture, the seed and the number."""

    def __init__(
        self,
        mixture: Mixture,
        seed: int = 0,
        block_ends: Sequence[np.ndarray] | None = None,
        window: int = 0,
        round_length: int = ROUND,
    ) -> None:
        """block_ends, window: see StepOrder; needed per data set when window is not 0."""
        if block_ends is None:
            block_ends = [np.array([size]) for size in mixture.sizes]
        self.epoch_length = mixture.epoch_length
        self._counts = mixture.counts()
        self._before = rounds(self._counts, round_length)
        self._round_length, self._seed = round_length, mixed(seed)
        self._orders = [StepOrder(ends, mixed(seed, i), window) for i, ends in enumerate(block_ends)]

    def __call__(self, number: int) -> tuple[int, int]:
        """The data set, by its place in the mixture, and the step within it."""
        epoch, place = divmod(number, self.epoch_length)
        round_number, place = divmod(place, self._round_length)
        before, after = self._before[round_number], self._before[round_number + 1]
        ends = np.cumsum(after - before)
        place = permuted(place, int(ends[-1]), mixed(self._seed, epoch, round_number))
        chosen = int(np.searchsorted(ends, place, side="right"))
        drawn = int(before[chosen]) + place - (int(ends[chosen - 1]) if chosen else 0)
        return chosen, self._orders[chosen](epoch * int(self._counts[chosen]) + drawn)


def rounds(counts: np.ndarray, length: int) -> np.ndarray:
    """How many samples of each data set (N,) come before each round: (rounds + 1, N) int64, from zeros to `counts`.

    Whatever a data set is behind its share is made up for in the next round.
    """
    total = int(counts.sum())
    ends = [*range(length, total, length), total]
    before = [np.zeros_like(counts)]
    for end in ends:
        due = np.clip(counts * (end / total) - before[-1], 0.0, counts - before[-1])
        whole = np.floor(due).astype(np.int64)
        missing = end - int(before[-1].sum()) - int(whole.sum())
        behind = np.argsort(whole - due, kind="stable")
        if missing >= 0:
            whole[behind[(whole < counts - before[-1])[behind]][:missing]] += 1
        else:  # others had been rounded up before, and are ahead of their share now
            whole[behind[::-1][(whole > 0)[behind[::-1]]][:-missing]] -= 1
        before.append(before[-1] + whole)
    table = np.stack(before)
    assert (table[-1] == counts).all() and (table.sum(axis=1) == [0, *ends]).all()
    return table
