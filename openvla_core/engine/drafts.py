"""Guesses of the answer that cost nothing to make and nothing when they are wrong."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Rows of every pass of an engine with drafts, with a guess or without: kernels that are chosen by the number of rows
# then compute the same bits either way.
WIDTH = 8


class Proposer(Protocol):
    """Guesses the next answer from those before it."""

    def propose(self, count: int) -> Tensor | None:
        """(count,) int64 ids, or None for no guess."""

    def observe(self, ids: Tensor) -> None:
        """Told every answer (count,) int64 that the model gave."""


class PreviousAction:
    """The answer before: an arm that stands still, or moves on as it moves, gives much of it again."""

    def __init__(self) -> None:
        self._ids: Tensor | None = None

    def propose(self, count: int) -> Tensor | None:
        """The last answer, when it had `count` tokens."""
        return self._ids if self._ids is not None and len(self._ids) == count else None

    def observe(self, ids: Tensor) -> None:
        """Keeps the answer."""
        self._ids = ids


@dataclass
class DraftFigures:
    """What came of the drafts so far; `accepted` of `proposed` guesses were right and saved a pass each."""

    actions: int = 0
    passes: int = 0
    proposed: int = 0
    accepted: int = 0

    def add(self, passes: int, proposed: int, accepted: int) -> None:
        """Counts one answer."""
        self.actions += 1
        self.passes += passes
        self.proposed += proposed
        self.accepted += accepted


def accepted_prefix(guessed: list[int], chosen: list[int]) -> int:
    """How many of the first guesses are what the model chose."""
    right = 0
    for guess, choice in zip(guessed, chosen, strict=False):
        if guess != choice:
            break
        right += 1
    return right


def fed_rows(token: Tensor, guesses: list[int], vocabulary: int, filling: int) -> Tensor:
    """(1, WIDTH) ids of a pass: the last token known (1,), the guesses after it, and filling.

    A guess outside the vocabulary is replaced; it cannot be right.
    """
    rows = [guess if 0 <= guess < vocabulary else filling for guess in guesses]
    rows += [filling] * (WIDTH - 1 - len(rows))
    return torch.cat([token, torch.tensor(rows).to(token.device, non_blocking=True)])[None]
