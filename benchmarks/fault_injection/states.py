"""When the controller was in motion and when in a hold, by the stamps of what it said."""

from collections import deque

FOLLOWS_AFTER_S = 0.5  # of motion: what is left of a stop is carried out first, with its stronger limits


class States:
    """The changes between ACTIVE and everything else, in the order of their stamps (seconds)."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, bool]] = deque(maxlen=500)  # stamp of a change, whether it is to ACTIVE

    def add(self, stamp_s: float, is_active: bool) -> None:
        """What the controller says it does from this moment on."""
        self._changes.append((stamp_s, is_active))

    def held_since(self, at_s: float) -> float | None:
        """When the hold began that is in force at a time; None in motion and before the first state."""
        since_s: float | None = None
        for stamp_s, is_active in self._changes:
            if stamp_s > at_s:
                break
            since_s = None if is_active else stamp_s if since_s is None else since_s
        return since_s

    def follows(self, stamp_s: float, until_s: float) -> bool:
        """Whether the controller has followed actions for long, and still does: then the lower limits hold."""
        in_force, begun = False, False
        for at_s, is_active in self._changes:
            if at_s > until_s:
                break
            begun = begun or (is_active and at_s <= stamp_s - FOLLOWS_AFTER_S)
            if at_s <= stamp_s - FOLLOWS_AFTER_S:
                in_force = is_active
            elif not is_active:
                return False
        return begun and in_force
