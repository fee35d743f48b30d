"""What every mode returns, and how a mode is asked."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Answer:
    """One action. ids (D,) int64; action (D,) float64. passes: of the decoder after the prompt."""

    ids: np.ndarray
    action: np.ndarray
    passes: int
    proposed: int = 0
    accepted: int = 0


class Runner(Protocol):
    """A mode, ready to run."""

    @property
    def note(self) -> str:
        """What was used, for the report."""

    def __call__(self, image: np.ndarray) -> Answer:
        """image (480, 640, 3) uint8 RGB -> an action. What is timed."""

    def expect(self, number: int, ids: np.ndarray) -> None:
        """Told beforehand, and outside the clock, which image comes and what the answer (D,) to it is."""

    def stages(self, image: np.ndarray) -> dict[str, float]:
        """Seconds of each stage of one action, see `floors.STAGES`; decode is one pass. Empty where it is unknown."""
