"""Turns a wavering gripper opening into few, clear toggles."""

import math
from collections.abc import Hashable

from openvla_core.safety_settings import SafetySettings


class GripperGate:
    """Toggles only beyond threshold +- hysteresis, when enough actions in a row agree, and not too soon again.

    One action that disagrees with its neighbours would drop an object; two in a row are a decision. At 5 to 12.5 Hz
    the second costs 0.08 to 0.2 s, less than fingers take to open or close.
    """

    def __init__(self, settings: SafetySettings, threshold: float = 0.5) -> None:
        self._open_above = threshold + settings.gripper_hysteresis
        self._close_below = threshold - settings.gripper_hysteresis
        self._interval_s = settings.gripper_interval_s
        self._decisions = settings.gripper_decisions
        self.reset()

    def reset(self) -> None:
        """Forgets the command: until the next clear wish the gripper is left alone."""
        self.command: float | None = None  # 0 closed, 1 open, None not commanded yet
        self._toggled_s = -math.inf
        self._last_action: Hashable = None
        self.forget_votes()

    def forget_votes(self) -> None:
        """Keeps the command and forgets the wishes that have not become one: they belong to what was interrupted."""
        self._wish: float | None = None
        self._votes = 0

    def decide(self, opening: float, now_s: float, action: Hashable = None) -> float | None:
        """The command for a wished opening; anything that is not a clear wish keeps the last command.

        Args:
            opening: 0 closed to 1 open.
            now_s: monotonic seconds.
            action: tells the actions apart, so that one action, asked for at every tick, is one decision. None makes
                every call a decision of its own.
        """
        wish = 1.0 if opening >= self._open_above else 0.0 if opening <= self._close_below else None
        if wish != self._wish:
            self._wish, self._votes = wish, 0
        if self._votes == 0 or action is None or action != self._last_action:
            self._votes += 1
        self._last_action = action
        due = now_s - self._toggled_s >= self._interval_s
        if wish is not None and wish != self.command and self._votes >= self._decisions and due:
            self.command = wish
            self._toggled_s = now_s
        return self.command
