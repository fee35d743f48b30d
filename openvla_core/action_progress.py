"""The action being carried out: until when, what is reported of it, and what to say when it is over."""

import math
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from openvla_core.action_intake import Chunk
from openvla_core.chunk_goals import ChunkGoals
from openvla_core.verdict import Verdict, hold

OUTSIDE_S = 3.0  # a policy that wants out of the workspace for this long is lost


@dataclass(frozen=True)
class Accepted:
    """An action that was taken: translation (3,) metres, rotation vector (3,) radians, after the limits, base axes."""

    session_id: str
    sequence: int
    image_stamp_ns: int
    translation: np.ndarray
    rotation: np.ndarray
    gripper: float
    reasons: tuple[str, ...]


def accepted_of(chunk: Chunk, goals: ChunkGoals) -> Accepted:
    """What is reported of a chunk that became these goals."""
    return Accepted(
        session_id=chunk.session_id,
        sequence=chunk.sequence,
        image_stamp_ns=chunk.stamp_ns,
        translation=goals.translation,
        rotation=goals.rotation,
        gripper=goals.goals[0].gripper or 0.0,
        reasons=goals.reasons,
    )


def action_timeout_s(rate_hz: float) -> float:
    """How long one action may be carried out while no newer one comes, seconds: 1.5 periods, 0.10 to 0.40."""
    return min(max(1.5 / rate_hz, 0.10), 0.40)


class ActionProgress:
    """What became of the actions so far. Times are monotonic seconds."""

    def __init__(self, max_observation_age_s: float) -> None:
        self._max_age_s = max_observation_age_s
        self._expires_s = -math.inf
        self._accepted: Accepted | None = None  # taken, but no command made from it yet
        self._outside_since_s = math.inf
        self._recently_clipped: deque[bool] = deque(maxlen=200)
        self.idle = hold("WAITING", "waiting for the first action.")
        self.accepted_count = 0
        self.clipped_count = 0
        self.refused_codes: Counter[str] = Counter()

    @property
    def clip_rate(self) -> float:
        """Share of the last 200 actions that a limit changed, 0 to 1."""
        return sum(self._recently_clipped) / max(len(self._recently_clipped), 1)

    @property
    def refused_count(self) -> int:
        """Actions that were not taken."""
        return self.refused_codes.total()

    def in_progress(self, now_s: float) -> bool:
        """Whether an action is to be carried out now."""
        return now_s < self._expires_s

    def accept(self, accepted: Accepted, rate_hz: float, steps: int, image_age_s: float, now_s: float) -> None:
        """Carries out an action until the next is overdue or its image is too old, whichever comes first."""
        self._accepted = accepted
        self.accepted_count += 1
        self.clipped_count += bool(accepted.reasons)
        self._recently_clipped.append(bool(accepted.reasons))
        overdue_s = (steps - 1) / rate_hz + action_timeout_s(rate_hz)
        too_old_s = self._max_age_s - max(image_age_s, 0.0)
        self._expires_s = now_s + min(overdue_s, too_old_s)
        if overdue_s <= too_old_s:
            self.idle = hold("ACTION_STALE", f"no new action within {overdue_s:.2f} s of the last one.")
        else:
            self.idle = hold("OBS_STALE", f"no action from an image younger than {self._max_age_s:g} s.")

    def refuse(self, code: str, sentence: str) -> None:
        """Counts an action that was not taken; the sentence is shown once nothing is in progress."""
        self.refused_codes[code] += 1
        self.idle = hold(code, f"{sentence}.")

    def stays_outside(self, goals: ChunkGoals, now_s: float) -> bool:
        """Whether every action of the last 3 s asked for a place outside the workspace box, this one included."""
        if not goals.outside:
            self._outside_since_s = math.inf
            return False
        self._outside_since_s = min(self._outside_since_s, now_s)
        return now_s - self._outside_since_s >= OUTSIDE_S

    def take_started(self) -> Accepted | None:
        """The action whose first command is made now, once; None for all its further commands."""
        started, self._accepted = self._accepted, None
        return started

    def interrupt(self, because: Verdict | None = None) -> None:
        """What was interrupted is never taken up again: only a new action moves the arm."""
        self._expires_s = -math.inf
        self._accepted = None
        if because is not None:
            self._outside_since_s = math.inf
            self.idle = because
