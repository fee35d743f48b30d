"""Which action chunks may be considered at all: right card, right form, in order, of the task, from a recent image."""

from collections import deque
from typing import Protocol

import numpy as np

from openvla_core.conventions import ACTION_DIM, ActionConvention
from openvla_core.types import Problem

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
    def instruction(self) -> str: ...
    @property
    def convention(self) -> str: ...
    @property
    def rate_hz(self) -> float: ...
    @property
    def actions(self) -> np.ndarray: ...


class ActionIntake:
    """Checks chunks one after the other; it remembers sessions, sequence numbers and the instruction in force."""

    def __init__(self, convention: ActionConvention, base_frame: str, max_observation_age_s: float) -> None:
        self._convention = convention
        self._base_frame = base_frame
        self._max_age_s = max_observation_age_s
        self._session = ""
        self._sequence = -1
        self._old_sessions: deque[str] = deque(maxlen=64)
        self._instruction: str | None = None  # None: the policy has not said

    def on_instruction(self, instruction: str) -> bool:
        """Notes the instruction the policy now follows, "" for none; True when actions of another one are now over."""
        changed = self._instruction is not None and instruction != self._instruction
        self._instruction = instruction
        return changed

    def problem(self, chunk: Chunk, ros_now_ns: int, in_progress: bool) -> Problem | None:
        """Why the chunk is refused; None when its numbers may be used.

        Args:
            in_progress: whether an earlier action is being carried out at this moment.
        """
        return (
            self._foreign(chunk)
            or malformed_rows(chunk)
            or self._out_of_order(chunk, in_progress)
            or self._untimely(chunk, ros_now_ns)
            or self._of_another_task(chunk)
        )

    def _foreign(self, chunk: Chunk) -> Problem | None:
        card = self._convention
        if chunk.convention != card.name:
            return Problem(
                "CONVENTION_MISMATCH",
                f"the action follows convention {chunk.convention!r}, this controller {card.name!r}; "
                "start both with the same card",
            )
        if chunk.frame not in ("", card.frame, self._base_frame):
            return Problem("FRAME_MISMATCH", f"the action is in frame {chunk.frame!r}, expected {self._base_frame!r}")
        return None

    def _out_of_order(self, chunk: Chunk, in_progress: bool) -> Problem | None:
        if chunk.session_id != self._session:
            if chunk.session_id in self._old_sessions:
                return Problem("SESSION_OVER", "the action comes from a policy session that another one has replaced")
            if in_progress:
                # A policy that restarts is silent for longer than an action lasts: this is a second one.
                sentence = "another policy began to publish actions while one was being followed; stop all but one"
                return Problem("SESSION_CHANGED", sentence, latched=True)
            self._old_sessions.append(self._session)
            self._session, self._sequence = chunk.session_id, -1
            if self._instruction != chunk.instruction:
                self._instruction = None  # said by the session before this one
        if chunk.sequence <= self._sequence:
            return Problem("SEQ_BACKWARDS", "the action is numbered like an earlier one of the same session")
        self._sequence = chunk.sequence
        return None

    def _untimely(self, chunk: Chunk, ros_now_ns: int) -> Problem | None:
        age_ns = ros_now_ns - chunk.stamp_ns
        if age_ns > self._max_age_s * 1e9:
            return Problem(
                "OBS_STALE",
                f"the image behind the action is older than {self._max_age_s:g} s; "
                "check the camera's clock and the policy's rate",
            )
        if age_ns < -FUTURE_NS:
            sentence = "the image behind the action is stamped in the future; check the camera's clock"
            return Problem("OBS_FUTURE", sentence)
        return None

    def _of_another_task(self, chunk: Chunk) -> Problem | None:
        if self._instruction is None or chunk.instruction == self._instruction:
            return None
        return Problem("TASK_OVER", "the action follows an instruction that is no longer in force")


def malformed_rows(chunk: Chunk) -> Problem | None:
    """Why the numbers of a chunk cannot be an action: wrong shape, not numbers, NaN or infinity. All latched."""
    try:
        rows = np.asarray(chunk.actions, dtype=np.float64)
    except (TypeError, ValueError):
        return Problem("ACT_SHAPE", f"action {chunk.sequence} does not consist of numbers", latched=True)
    if rows.ndim != 2 or len(rows) < 1 or rows.shape[1] != ACTION_DIM:
        sentence = f"action {chunk.sequence} has shape {rows.shape}, expected (steps, {ACTION_DIM})"
        return Problem("ACT_SHAPE", sentence, latched=True)
    if not np.isfinite(rows).all():
        sentence = f"action {chunk.sequence} holds NaN or infinity; nothing of it was executed"
        return Problem("ACT_NONFINITE", sentence, latched=True)
    return None
