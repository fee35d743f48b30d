"""Many robots, one model: what they ask for at about the same time is answered in one pass.

Pure Python and one thread; what a batch is made of and how it is computed is the caller's business.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from openvla_core.errors import ConfigError, DeadlineError, OpenVLAError
from openvla_core.latest_worker import Outcome
from openvla_core.waiting_line import Request, WaitingLine

JobT = TypeVar("JobT")
ValueT = TypeVar("ValueT")

logger = logging.getLogger(__name__)


@dataclass
class _Member:
    """One robot. unanswered_s: since when something it asked for has no answer; None when nothing is open."""

    deliver: Callable[[Outcome], None]
    unanswered_s: float | None = None
    running: bool = False
    gone: bool = False


class DynamicBatcher(Generic[JobT, ValueT]):
    """Answers the requests of many robots with one thread, as many at a time as are waiting.

    Of each robot only the newest waiting request counts. Who goes first, and that nobody starves, is `WaitingLine`'s.
    A batch that raises is repeated one by one, so that one bad request costs the others time but no answer. The seconds
    of an outcome count from the moment its job was submitted.

    Args:
        run: jobs -> one value or OpenVLAError per job, in their order; called in the worker thread.
        most: the largest batch.
        gather_s: how long an idle model waits for more requests, counted from the first one; 0 begins at once.
        check: called in the worker thread after a request failed alone with anything but an OpenVLAError. When it
            raises, the model is broken for everybody: `broken` holds what it raised.
        clock: seconds that only grow; deadlines are given in it.
    """

    def __init__(
        self,
        run: Callable[[Sequence[JobT]], Sequence[ValueT | OpenVLAError]],
        most: int = 8,
        gather_s: float = 0.0,
        check: Callable[[], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._gather_s = gather_s
        self._check = check
        self._clock = clock
        self._wake = threading.Condition()
        self._line: WaitingLine[JobT] = WaitingLine(most)
        self._members: dict[str, _Member] = {}
        self._moved_s = clock()  # when a batch last began or an answer was last found
        self._closed = False
        self._sizes: Counter[int] = Counter()
        self._counts: Counter[str] = Counter()
        self.broken: BaseException | None = None
        # A daemon: a device call that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    # What robots call, from any thread ------------------------------------------------------------------------------

    def join(self, robot: str, deliver: Callable[[Outcome], None]) -> None:
        """Lets a robot ask. `deliver` is called in the worker thread with each of its outcomes and returns at once.

        Raises ConfigError when a robot of this name is there already.
        """
        with self._wake:
            if robot in self._members:
                raise ConfigError(f"a robot {robot!r} shares this model already. Give every robot a name of its own.")
            self._members[robot] = _Member(deliver)

    def leave(self, robot: str) -> None:
        """Forgets a robot and what it asked for; nothing is delivered to it any more."""
        with self._wake:
            member = self._members.pop(robot, None)
            if member is not None:
                member.gone = True
            self._line.forget(robot)

    def submit(self, robot: str, job: JobT, deadline_s: float = math.inf, behind: bool = True) -> bool:
        """Asks for an answer to `job`, in place of what this robot asked before and nobody has begun.

        A request that has not been begun by deadline_s is answered with a DeadlineError and costs no computation.

        Args:
            behind: False asks for nothing while an answer for this robot is being computed.

        Returns:
            Whether the request was taken. KeyError when the robot has not joined.
        """
        with self._wake:
            member = self._members[robot]
            if member.running and not behind:
                return False
            now_s = self._clock()
            if self._line.ask(robot, job, deadline_s, now_s):
                self._counts["replaced"] += 1
            if member.unanswered_s is None:
                member.unanswered_s = now_s
            self._wake.notify()
            return True

    def drop(self, robot: str) -> None:
        """Forgets what a robot waits for; an answer being computed is still delivered."""
        with self._wake:
            self._line.withdraw(robot)
            member = self._members.get(robot)
            if member is not None and not member.running:
                member.unanswered_s = None

    def is_waiting(self, robot: str) -> bool:
        """True while a request of this robot has not been begun."""
        with self._wake:
            return robot in self._line

    def is_running(self, robot: str) -> bool:
        """True while an answer for this robot is being computed."""
        with self._wake:
            return robot in self._members and self._members[robot].running

    def stuck_s(self, robot: str) -> float:
        """For how long nothing at all has moved while this robot waits for an answer, seconds; 0 when it does not."""
        with self._wake:
            member = self._members.get(robot)
            if member is None or member.unanswered_s is None:
                return 0.0
            return self._clock() - max(member.unanswered_s, self._moved_s)

    def figures(self) -> dict[str, int]:
        """Counts since the start: batches by size, answers, and requests that were replaced, too late or retried."""
        with self._wake:
            sizes = {f"batches_of_{size}": self._sizes[size] for size in sorted(self._sizes)}
            counts = {name: self._counts[name] for name in ("answered", "replaced", "late", "retried")}
            return {**counts, **sizes}

    def close(self, timeout_s: float = 5.0) -> bool:
        """Ends the thread after the request in progress, without serving who waits; False when it did not end."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The worker thread ----------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: len(self._line) or self._closed)
                self._gather()
                if self._closed:
                    return
                batch, late = self._line.take(self._clock())
                members = {request.robot: self._members[request.robot] for request in (*batch, *late)}
                for request in batch:
                    members[request.robot].running = True
                if batch:
                    self._moved_s = self._clock()
                    self._sizes[len(batch)] += 1
            for request in late:
                self._refuse(request, members[request.robot])
            if batch:
                self._serve(batch, members)

    def _gather(self) -> None:
        """Waits, while the window is open, for requests that may come along."""
        while len(self._line) and len(self._line) < min(self._line.most, len(self._members)) and not self._closed:
            left_s = min(self._line.since_s + self._gather_s, self._line.deadline_s) - self._clock()
            if left_s <= 0.0 or not self._wake.wait(left_s):
                return

    def _serve(self, batch: list[Request[JobT]], members: dict[str, _Member]) -> None:
        try:
            answers = self._compute(batch)
        except BaseException as error:  # noqa: BLE001 - each is tried alone below, and delivered if it fails again
            logger.warning("a batch of %d failed (%s); each is tried alone", len(batch), type(error).__name__)
            self._serve_one_by_one(batch, members)
            return
        for request, answer in zip(batch, answers, strict=True):
            self._finish(request, members[request.robot], answer)

    def _serve_one_by_one(self, batch: list[Request[JobT]], members: dict[str, _Member]) -> None:
        unexpected = False
        for request in batch:
            member = members[request.robot]
            if member.gone or self._closed:
                continue
            if request.deadline_s < self._clock():
                self._refuse(request, member)
                continue
            with self._wake:
                self._counts["retried"] += 1
            answer: Any
            try:
                (answer,) = self._compute([request])
            except BaseException as error:  # noqa: BLE001 - whoever collects the outcome decides what it means
                answer, unexpected = error, unexpected or not isinstance(error, OpenVLAError)
            self._finish(request, member, answer)
        if unexpected and self._check is not None:
            try:
                self._check()
            except BaseException as error:  # noqa: BLE001 - kept for whoever owns the model
                self.broken = error

    def _compute(self, batch: list[Request[JobT]]) -> Sequence[Any]:
        answers = self._run([request.job for request in batch])
        if len(answers) != len(batch):
            raise RuntimeError(f"{len(batch)} requests led to {len(answers)} answers")
        return answers

    def _refuse(self, request: Request[JobT], member: _Member) -> None:
        late_s = self._clock() - request.deadline_s
        error = DeadlineError(
            f"the model came {late_s:.2f} s too late to this image: it is busy with the other robots. Use fewer robots "
            "for one model, a lower rate_hz, or a faster device."
        )
        with self._wake:
            self._counts["late"] += 1
        self._finish(request, member, error)

    def _finish(self, request: Request[JobT], member: _Member, answer: Any) -> None:
        """Hands over a value or an error, unless the robot is gone."""
        now_s = self._clock()
        failed = isinstance(answer, BaseException)
        outcome = Outcome(request.job, None if failed else answer, answer if failed else None, now_s - request.asked_s)
        with self._wake:
            self._moved_s = now_s
            member.running = False
            waits_again = not member.gone and request.robot in self._line
            member.unanswered_s = now_s if waits_again else None
            self._counts["answered"] += not failed
            if member.gone:
                return
        try:
            member.deliver(outcome)
        except Exception:  # one robot that cannot take its answer must not keep the others from theirs
            logger.exception("the answer for %s could not be delivered", request.robot)
