"""What the controller is doing and why, in a word for programs and a sentence for people."""

from dataclasses import dataclass
from enum import IntEnum


class State(IntEnum):
    """What the controller is doing; the same numbers as in Status.msg."""

    STANDBY = 0
    ACTIVE = 1
    HOLD = 2
    FAULT = 3
    ESTOP = 4


@dataclass(frozen=True)
class Verdict:
    """A state with a stable code for programs and a sentence for the person at the robot."""

    state: State
    code: str
    sentence: str


def hold(code: str, sentence: str) -> Verdict:
    """A hold that ends by itself when its reason is gone."""
    return Verdict(State.HOLD, code, f"Holding: {sentence}")
