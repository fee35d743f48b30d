"""Which action chunks may be considered at all: right card, right frame, right shape, in order, from a recent image."""

from collections import deque
from typing import Protocol

import numpy as np

from openvla_core.conventions import ACTION_DIM, ActionConvention

FUTURE_NS = 50_000_000  # clocks of one machine agree better than this


class Chunk(Protocol):
    """What is read from an action chunk; actions (N, D) float64 in the units of the convention."""

    @property
    def stamp_ns(self) -> int: ...
    @property
    def frame(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def convention(self) -> str: ...
    @property
    def rate_hz(self) -> float: ...
    @property
    def actions(self) -> np.ndarray: ...


class ActionIntake:
    """Checks chunks one after the other; it remembers sessions and sequence numbers."""

    def __init__(self, convention: ActionConvention, base_frame: str, max_observation_age_s: float) -> None:
        self._convention = convention
        self._base_frame = base_frame
        self._max_age_s = max_observation_age_s
        self._session = ""
        self._sequence = -1
        self._old_sessions: deque[str] = deque(maxlen=64)

    def problem(self, chunk: Chunk, ros_now_ns: int) -> tuple[str, str] | None:
        """Why the chunk is refused, as (code, sentence); None when its numbers may be looked at."""
        return self._foreign(chunk) or self._out_of_order(chunk) or self._untimely(chunk, ros_now_ns)

    def _foreign(self, chunk: Chunk) -> tuple[str, str] | None:
        card = self._convention
        if chunk.convention != card.name:
            return "CONVENTION_MISMATCH", (
                f"the action follows convention {chunk.convention!r}, this controller {card.name!r}; "
                "start both with the same card"
            )
        if chunk.frame not in ("", card.frame, self._base_frame):
            return "FRAME_MISMATCH", f"the action is in frame {chunk.frame!r}, expected {self._base_frame!r}"
        shape = np.shape(chunk.actions)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != ACTION_DIM:
            return "ACT_SHAPE", f"the action has shape {shape}, expected (steps, {ACTION_DIM})"
        return None

    def _out_of_order(self, chunk: Chunk) -> tuple[str, str] | None:
        if chunk.session_id != self._session:
            if chunk.session_id in self._old_sessions:
                return "SESSION_OVER", "the action comes from a policy session that another one has replaced"
            self._old_sessions.append(self._session)
            self._session, self._sequence = chunk.session_id, -1
        if chunk.sequence <= self._sequence:
            return "SEQ_BACKWARDS", "the action is numbered like an earlier one of the same session"
        self._sequence = chunk.sequence
        return None

    def _untimely(self, chunk: Chunk, ros_now_ns: int) -> tuple[str, str] | None:
        age_ns = ros_now_ns - chunk.stamp_ns
        if age_ns > self._max_age_s * 1e9:
            return "OBS_STALE", (
                f"the image behind the action is older than {self._max_age_s:g} s; "
                "check the camera's clock and the policy's rate"
            )
        if age_ns < -FUTURE_NS:
            return "OBS_FUTURE", "the image behind the action is stamped in the future; check the camera's clock"
        return None
