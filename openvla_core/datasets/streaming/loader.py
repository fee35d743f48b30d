"""Batches for training from a weighted mixture: shuffled, on many ranks and workers, resumable at any batch.

What batch number b holds depends on the mixture, the seed and b alone. So the loader's state is one number, nothing
that grows is kept, and workers or a restart change nothing. Ranks take neighbouring parts of each global batch: two
ranks with batches of 8 train on the samples that one rank would with batches of 16.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from openvla_core.datasets.oxe.mixture import Mixture, mixture_of
from openvla_core.datasets.streaming.order import MixedOrder
from openvla_core.datasets.streaming.shuffle import mixed
from openvla_core.datasets.streaming.sources import Step, StepSource
from openvla_core.datasets.streaming.worker_end import ending_event, stay
from openvla_core.errors import DatasetError

STATE_VERSION = 1


class StreamingLoader:
    """Gives batches without end; `epoch` tells how far it is. Save `state_dict()` with every checkpoint."""

    def __init__(
        self,
        sources: Sequence[StepSource],
        make_example: Callable[[Step, np.random.Generator], Any],
        collate: Callable[[list[Any]], Any],
        batch_size: int,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        prefetch: int = 4,
        window: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """
        Args:
            sources: the data sets, each with a name of its own.
            make_example: what becomes of one step, such as an ExampleBuilder; its generator is of this sample alone.
            collate: what becomes of the examples of a batch.
            batch_size: samples per batch, on each rank.
            weights: per data set; 1 for all by default. See Mixture.
            rank, world: of this process among those that train together.
            workers: processes that make examples; 0 makes them here. prefetch: batches each of them is ahead.
            window: shards per data set that are being read at a time, 0 for any; see StepOrder.
        """
        if batch_size < 1 or not 0 <= rank < world or workers < 0 or prefetch < 1:
            raise DatasetError(
                f"batch_size {batch_size}, rank {rank} of {world}, {workers} workers, prefetch {prefetch}: expected "
                "a batch of 1 or more, a rank below world, and no negative numbers."
            )
        self.mixture = _mixture(sources, weights)
        self._samples = _Samples(sources, self.mixture, make_example, seed, window)
        self._collate, self._batch_size = collate, batch_size
        self._rank, self._world, self._workers, self._prefetch = rank, world, workers, prefetch
        self._pin_memory = pin_memory
        self._ending = ending_event() if workers else None
        self._identity = {
            "version": STATE_VERSION,
            "seed": seed,
            "window": window,
            "names": list(self.mixture.names),
            "sizes": list(self.mixture.sizes),
            "weights": list(self.mixture.weights),
        }
        self._consumed = 0  # samples of all ranks, in batches that were handed out

    @property
    def epoch(self) -> float:
        """Epochs handed out so far, with their fraction."""
        return self._consumed / self.mixture.epoch_length

    @property
    def batches_per_epoch(self) -> int:
        """On each rank; the last one reaches into the next epoch."""
        return -(-self.mixture.epoch_length // (self._batch_size * self._world))

    def __iter__(self) -> Iterator[Any]:
        """Continues after the last batch that was handed out; what workers had prepared beyond it is made again."""
        for batch in self._batches():
            # Counted before the consumer sees it: a state saved while working on a batch continues after it.
            self._consumed += self._batch_size * self._world
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, as JSON values: the same on every rank, whatever the number of workers."""
        return {**self._identity, "samples": self._consumed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where the state was taken, from the next `iter()` on; batch size, ranks and workers may differ.

        Raises DatasetError when the state is of another mixture or seed, since its samples would be other ones.
        """
        differing = [key for key, value in self._identity.items() if state.get(key) != value]
        samples = state.get("samples")
        if differing or type(samples) is not int or samples < 0:
            raise DatasetError(
                f"the loader's state does not fit: {', '.join(differing) or f'samples is {samples!r}'} changed. Resume "
                "with the same data sets, weights and seed, or start again from a fresh loader."
            )
        self._consumed = samples

    def _batches(self) -> Iterator[Any]:
        options: dict[str, Any] = {}
        if self._workers:
            # Forked workers share the index with this process; they must not touch CUDA.
            options = {"prefetch_factor": self._prefetch, "multiprocessing_context": "fork"}
        return iter(
            DataLoader(
                self._samples,
                batch_sampler=_Numbers(self._consumed, self._batch_size, self._rank, self._world),
                collate_fn=self._collate,
                num_workers=self._workers,
                pin_memory=self._pin_memory,
                worker_init_fn=partial(_begin_worker, self._ending),
                generator=torch.Generator(),  # else starting workers would draw from the training's random numbers
                **options,
            )
        )


class _Numbers:
    """The numbers of this rank's samples, batch by batch, without end."""

    def __init__(self, start: int, batch_size: int, rank: int, world: int) -> None:
        self._start, self._batch_size, self._rank, self._world = start, batch_size, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        first = self._start + self._rank * self._batch_size
        while True:
            yield list(range(first, first + self._batch_size))
            first += self._batch_size * self._world


class _Samples(Dataset):
    """Sample number -> example."""

    def __init__(
        self,
        sources: Sequence[StepSource],
        mixture: Mixture,
        make_example: Callable[[Step, np.random.Generator], Any],
        seed: int,
        window: int,
    ) -> None:
        self._sources, self._make_example, self._seed = list(sources), make_example, seed
        self._order = MixedOrder(mixture, seed, [source.block_ends for source in sources], window)

    def __getitem__(self, number: int) -> Any:
        chosen, step = self._order(number)
        return self._make_example(self._sources[chosen][step], sample_rng(self._seed, number))


def sample_rng(seed: int, number: int) -> np.random.Generator:
    """The random numbers of one sample, whoever makes it and whenever."""
    return np.random.Generator(np.random.PCG64(mixed(seed, number)))


def padding_collate(pad_id: int) -> Callable[[list[Any]], dict[str, Any]]:
    """`examples.collate` for this padding id."""
    from openvla_core.datasets.examples import collate

    return partial(collate, pad_id=pad_id)


def _mixture(sources: Sequence[StepSource], weights: Mapping[str, float] | None) -> Mixture:
    names = [source.name for source in sources]
    if weights is not None and set(weights) != set(names):
        raise DatasetError(
            f"the data sets are {', '.join(sorted(names))}, the weights are for {', '.join(sorted(weights))}; give "
            "every data set its weight."
        )
    chosen = [1.0 if weights is None else weights[name] for name in names]
    # A data set that leaves steps out of training is drawn from as if it did not, as in the published training.
    sizes = [getattr(source, "transitions", len(source)) for source in sources]
    return mixture_of(names, sizes, chosen)


def _begin_worker(ending: Event | None, worker: int) -> None:
    """A worker is one core's work: OpenCV would start a thread for every core in each of them."""
    cv2.setNumThreads(0)
    if ending is not None:
        stay(ending)
