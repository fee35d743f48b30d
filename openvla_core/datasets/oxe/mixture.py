"""How often each data set is drawn from, and how long an epoch over all of them is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openvla_core.errors import DatasetError


@dataclass(frozen=True)
class Mixture:
    """Data sets and their weights. sizes: steps (not episodes) in each; a weight of 2 draws every step twice as often.

    A data set of weight exactly 1 is a primary one: an epoch is as long as it takes to see each of these once.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.names or not len(self.names) == len(self.sizes) == len(self.weights):
            raise DatasetError(
                f"a mixture needs one size and one weight per data set; got {len(self.names)} names, "
                f"{len(self.sizes)} sizes, {len(self.weights)} weights."
            )
        if len(set(self.names)) < len(self.names):
            raise DatasetError(f"a data set is named twice in the mixture: {', '.join(self.names)}.")
        wrong = [
            f"{name} ({size} steps, weight {weight})"
            for name, size, weight in zip(self.names, self.sizes, self.weights, strict=True)
            if size < 1 or not (0 < weight < float("inf"))
        ]
        if wrong:
            raise DatasetError(f"leave these out of the mixture or give them steps and a weight: {', '.join(wrong)}.")

    @property
    def probabilities(self) -> np.ndarray:
        """(N,) float64, in which share each data set is drawn: weight times size, over their sum."""
        shares = np.array(self.weights, dtype=np.float64) * np.array(self.sizes, dtype=np.float64)
        return shares / shares.sum()

    @property
    def epoch_length(self) -> int:
        """Steps until every primary data set has been seen once; without a primary one, until every data set has."""
        rounds = np.array(self.sizes, dtype=np.float64) / self.probabilities
        primary = np.array(self.weights) == 1.0
        return int((rounds[primary] if primary.any() else rounds).max())

    def counts(self) -> np.ndarray:
        """(N,) int64: how many of an epoch's steps come from each data set; they add up to the epoch's length."""
        return apportion(self.probabilities, self.epoch_length)


def apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Splits `total` into whole numbers as close to the shares (N,) as can be; the largest remainders round up."""
    exact = np.asarray(shares, dtype=np.float64) * total
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(counts.sum())
    order = np.argsort(counts - exact, kind="stable")
    counts[order[:missing]] += 1
    return counts


def mixture_of(names: Sequence[str], sizes: Sequence[int], weights: Sequence[float]) -> Mixture:
    """A Mixture from any sequences of numbers."""
    return Mixture(tuple(names), tuple(int(size) for size in sizes), tuple(float(weight) for weight in weights))
