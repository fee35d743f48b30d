"""The emergency stop: pressed by topic, by service or by the loss of its source; latched until a reset."""

import math

from openvla_core.verdict import State, Verdict

PRESSED = Verdict(State.ESTOP, "ESTOP", "Emergency stop. Release it, call reset, then start.")
LOST = Verdict(
    State.ESTOP,
    "ESTOP_LOST",
    "Emergency stop: its source has gone, which counts as pressed. Bring it back (or release it by the service estop), "
    "call reset, then start.",
)

SOURCES = Verdict(
    State.ESTOP,
    "ESTOP_SOURCES",
    "Emergency stop: more than one source publishes it. What one says cannot be told from what another says, so this "
    "counts as pressed. Leave one, call reset, then start.",
)


class EmergencyStop:
    """Whether it is pressed, and whether it was since the last reset. Times are monotonic seconds.

    Args:
        required: a source must repeat that it is not pressed; without one, or after timeout_s of silence, it counts as
            pressed. Otherwise a source may speak once, and only its leaving the graph counts as pressed. There may
            be one source: a second one could release what the first one pressed.
    """

    def __init__(self, required: bool, timeout_s: float) -> None:
        self._required = required
        self._timeout_s = timeout_s
        self._sources = 0
        self._heard_s = -math.inf
        self._topic_pressed = False
        self._service_pressed = False
        self._lost = False
        self._latched: Verdict | None = None

    def on_topic(self, pressed: bool, now_s: float) -> None:
        """What a source says."""
        self._topic_pressed = pressed
        self._heard_s = now_s
        if pressed:
            self._latched = PRESSED
        else:
            self._lost = False

    def on_service(self, pressed: bool) -> None:
        """What a person says through the service; a release also stands in for a source that has gone for good."""
        self._service_pressed = pressed
        if pressed:
            self._latched = PRESSED
        elif not self._sources:
            self._topic_pressed = self._lost = False

    def on_sources(self, count: int) -> None:
        """How many sources the graph knows; one that leaves counts as pressed, and so does more than one."""
        if count < self._sources:
            self._lose()  # it may have been the one that was pressed
        self._sources = count
        if count > 1:
            self._latched = self._latched or SOURCES

    def verdict(self, now_s: float) -> Verdict | None:
        """The emergency stop in force; None when it is neither pressed nor latched."""
        if self._required and now_s - self._heard_s > self._timeout_s:
            if self._heard_s == -math.inf:
                return LOST  # nothing was allowed yet, so there is nothing to latch
            self._lose()
        return self._latched

    def is_pressed(self, now_s: float) -> bool:
        """Whether it is pressed at this moment, whatever was latched before."""
        silent = self._required and now_s - self._heard_s > self._timeout_s
        return self._topic_pressed or self._service_pressed or self._lost or silent or self._sources > 1

    def clear(self) -> None:
        """Forgets that it was pressed; for a reset, once it is released."""
        self._latched = None

    def _lose(self) -> None:
        self._lost = True
        self._latched = self._latched or LOST
