"""Checks the stream of gripper commands: within 0 to 1, not toggled too soon, not moved in a hold."""

import math
from collections import deque
from collections.abc import Callable

from fault_injection.numbering import Numbers
from fault_injection.states import States

TOGGLE_S = 0.3
SENDING_S = 0.05  # from a decision to the message about it


class GripperCheck:
    """Judges in the order in which it was told; `report(what, example)` is called for every violation."""

    def __init__(self, states: States, report: Callable[[str, str], None]) -> None:
        self._states = states
        self._report = report
        self._waiting: deque[tuple[float, float, int | None] | None] = deque()  # None: of another process from here on
        self._numbers = Numbers()
        self._now: tuple[float, float] | None = None  # not toggled since, opening
        self._heard_s = -math.inf

    def add(self, at_s: float, value: float, number: int | None) -> None:
        """One command: when it was sent, the opening, its number among those of its publisher."""
        self._waiting.append((at_s, value, number))

    def forget(self) -> None:
        """The next command is the first of another process, which knows nothing of the toggles before."""
        self._waiting.append(None)

    def judge(self, until_s: float) -> None:
        """Judges what was sent until then."""
        while self._waiting and (self._waiting[0] is None or not self._waiting[0][0] > until_s):
            command = self._waiting.popleft()
            if command is None:
                self._now, self._heard_s = None, -math.inf
                self._numbers.restart()
            else:
                self._judge(*command)

    def _judge(self, at_s: float, value: float, number: int | None) -> None:
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            self._report("gripper beyond 0 to 1", str(value))
            return
        # What was not heard from its first command on may have toggled at any time since something was heard last.
        toggled_s = self._heard_s if self._numbers.missed(number) else at_s
        self._numbers.note(number)
        self._heard_s = at_s
        before = self._now
        if before is not None and before[1] == value:
            return
        self._now = (toggled_s, value)
        if before is None:
            return
        if at_s - before[0] < TOGGLE_S - SENDING_S:
            self._report("gripper toggled too soon", f"{at_s - before[0]:.3f} s")
        held_since_s = self._states.held_since(at_s - 0.1)
        if held_since_s is not None and self._states.held_since(at_s + 0.1) == held_since_s:
            self._report("gripper moved in a hold", f"to {value:g}")
