"""Open files that stay within one process, although workers of a loader are forked from another."""

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Handle = TypeVar("Handle")

# Handles of the process this one was forked from: kept, since closing some of them (a database, a video decoder) writes
# to the file, or waits for threads that live only there.
_inherited: list[Any] = []


class PerProcess(Generic[Handle]):
    """Something open: opened when it is first asked for, and once more by every process that was forked meanwhile.

    Two processes that share one open file share its place in it, so that each would read what the other jumped to.
    Pickled, it is closed.
    """

    def __init__(self, opened: Callable[[], Handle], close: Callable[[Handle], Any]) -> None:
        """opened: must not refer to the owner of this, which could not be freed without it."""
        self._opened, self._close = opened, close
        self._held: tuple[int, Handle] | None = None

    def __call__(self) -> Handle:
        if self._held is None or self._held[0] != os.getpid():
            self.close()
            self._held = (os.getpid(), self._opened())
        return self._held[1]

    def close(self) -> None:
        """Closes what this process opened; the next call opens it again."""
        if self._held is not None:
            (owner, handle), self._held = self._held, None
            if owner == os.getpid():
                self._close(handle)
            else:
                _inherited.append(handle)

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}
