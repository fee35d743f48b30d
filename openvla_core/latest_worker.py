"""One worker thread with a one-slot mailbox: it always works on the newest job and never builds a queue."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

JobT = TypeVar("JobT")
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Outcome(Generic[JobT, ValueT]):
    """What became of one job: its value or the error it raised, and how long it took in seconds."""

    job: JobT
    value: ValueT | None
    error: BaseException | None
    seconds: float


class LatestWorker(Generic[JobT, ValueT]):
    """Runs `work(job)` in its own thread, on the newest job only.

    Args:
        work: called in the worker thread; what it raises is delivered, not lost.
        deliver: called in the worker thread with each outcome; it should hand over and return at once.
    """

    def __init__(
        self, work: Callable[[JobT], ValueT], deliver: Callable[[Outcome[JobT, ValueT]], None], name: str = "worker"
    ) -> None:
        self._work = work
        self._deliver = deliver
        self._wake = threading.Condition()
        self._slot: list[JobT] = []
        self._working = False
        self._closed = False
        self._since_s: float | None = None  # when the oldest job without an outcome was offered
        # A daemon: a device call that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """True when no job is waiting or in progress."""
        with self._wake:
            return not self._slot and not self._working

    @property
    def waiting(self) -> bool:
        """True while a job has not been begun."""
        with self._wake:
            return bool(self._slot)

    @property
    def stuck_s(self) -> float:
        """For how long a job has been waiting or in progress, seconds; 0 when there is none."""
        with self._wake:
            return 0.0 if self._since_s is None else time.monotonic() - self._since_s

    def offer(self, job: JobT) -> None:
        """Hands over a job; one that still waits is replaced."""
        with self._wake:
            self._slot = [job]
            if self._since_s is None:
                self._since_s = time.monotonic()
            self._wake.notify()

    def drop_waiting(self) -> None:
        """Forgets the waiting job; one in progress still delivers its outcome."""
        with self._wake:
            self._slot = []
            if not self._working:
                self._since_s = None

    def close(self, timeout_s: float = 5.0) -> bool:
        """Ends the thread after the job in progress; False when that did not end in time."""
        with self._wake:
            self._closed = True
            self._slot = []
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._slot or self._closed)
                if self._closed:
                    return
                job = self._slot.pop()
                self._working = True
            started = time.monotonic()
            try:
                value, error = self._work(job), None
            except BaseException as caught:  # noqa: BLE001 - whoever collects the outcome decides what it means
                value, error = None, caught
            outcome = Outcome(job, value, error, time.monotonic() - started)
            with self._wake:
                self._working = False
                self._since_s = time.monotonic() if self._slot else None
            self._deliver(outcome)
