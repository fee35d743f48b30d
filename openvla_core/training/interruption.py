"""Ctrl-C, and SIGTERM by which a cluster takes a machine back: a training ends after a step, not within one."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Told to end. number: of the signal. step: the one whose checkpoint was written for that; None without one."""

    def __init__(self, number: int, step: int | None = None) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.step = number, step


class Interruption:
    """Within `with`, both signals raise Stopped at once; within `held()` they are only remembered.

    However often they come: Ctrl-C reaches every process of a torchrun, and torchrun then tells each once more.
    Changes nothing outside of the main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def came(self) -> bool:
        """Whether one of the signals has come to this process."""
        return self.number is not None

    @contextmanager
    def held(self) -> Iterator[None]:
        """The signals wait until whoever asks `came` has found an end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self.number = self.came(), number
        if not self._held:
            raise Stopped(number)
        if not again and is_first():
            # Not through sys.stderr, in whose middle a handler may run.
            os.write(2, f"\n{signal.Signals(number).name}: ends after this step.\n".encode())


def is_first() -> bool:
    """Whether this is the process of a torchrun that speaks for all, or a process of its own."""
    return os.environ.get("RANK", "0") == "0"
