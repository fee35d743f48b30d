"""Where the time goes on the way from a camera frame to the action it leads to."""

import time
from collections.abc import Mapping


class Journey:
    """The stretches of one way. Each begins where the one before it ended, so together they are the whole way.

    stretches: seconds by name, in the order in which they were passed. One at a time may be at work on a journey; it is
    handed from thread to thread together with what travels.
    """

    def __init__(self, first: str, seconds: float, now_s: float | None = None) -> None:
        """Begins with a stretch whose length is known: the time until now, measured by another clock."""
        self.stretches = {first: seconds}
        self._first_s = seconds
        self._began_s = self._reached_s = time.monotonic() if now_s is None else now_s

    @property
    def total_s(self) -> float:
        """The whole way so far, seconds."""
        return self._first_s + (self._reached_s - self._began_s)

    def reached(self, name: str, parts: Mapping[str, float] | None = None, now_s: float | None = None) -> None:
        """Ends a stretch now.

        Args:
            name: of the stretch.
            parts: stretches within it that were timed by themselves, seconds; `name` keeps what is left.
            now_s: time.monotonic(), unless it is now.
        """
        now_s = time.monotonic() if now_s is None else now_s
        parts = dict(parts or {})
        self.stretches |= {**parts, name: now_s - self._reached_s - sum(parts.values())}
        self._reached_s = now_s
