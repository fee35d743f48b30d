"""Who is served next: the earliest deadline first, and no robot is overtaken twice by the same other one."""

from dataclasses import dataclass
from typing import Generic, TypeVar

JobT = TypeVar("JobT")


@dataclass(frozen=True)
class Request(Generic[JobT]):
    """What a robot asks for. Times are seconds of one steady clock.

    deadline_s: not begun later than this. asked_s: when this job came; since_s: when the first one that it replaced
    came. turn: how many batches had been formed when the robot began to wait.
    """

    robot: str
    job: JobT
    deadline_s: float
    asked_s: float
    since_s: float
    turn: int


class WaitingLine(Generic[JobT]):
    """At most one request per robot, the newest, and the order in which they are served.

    The earliest deadline goes first, but a robot that was served since another began to wait goes behind that one. So
    while one robot waits, each of the others is served before it at most once, and with R robots and batches of N it is
    in one of the next ceil(R / N) batches, whatever the deadlines of the others are.

    Args:
        most: the largest batch, N.
    """

    def __init__(self, most: int) -> None:
        assert most >= 1
        self.most = most
        self.batches = 0
        self._waiting: dict[str, Request[JobT]] = {}
        self._turns: dict[str, int] = {}  # of robots not served since; kept when a request runs out of time
        self._served: dict[str, int] = {}  # number of the last batch with this robot, from 1 on

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, robot: str) -> bool:
        return robot in self._waiting

    @property
    def since_s(self) -> float:
        """When the robot that waits longest began to wait; only while one waits."""
        return min(request.since_s for request in self._waiting.values())

    @property
    def deadline_s(self) -> float:
        """The earliest deadline; only while somebody waits."""
        return min(request.deadline_s for request in self._waiting.values())

    def ask(self, robot: str, job: JobT, deadline_s: float, now_s: float) -> bool:
        """Adds a request, or puts it where the waiting one of this robot is; True when it replaced one."""
        turn = self._turns.setdefault(robot, self.batches)
        before = self._waiting.get(robot)
        since_s = now_s if before is None else before.since_s
        self._waiting[robot] = Request(robot, job, deadline_s, now_s, since_s, turn)
        return before is not None

    def withdraw(self, robot: str) -> None:
        """Forgets the waiting request of a robot, and its place."""
        self._waiting.pop(robot, None)
        self._turns.pop(robot, None)

    def forget(self, robot: str) -> None:
        """Forgets everything about a robot."""
        self.withdraw(robot)
        self._served.pop(robot, None)

    def take(self, now_s: float) -> tuple[list[Request[JobT]], list[Request[JobT]]]:
        """The next batch, and the requests whose deadline has passed; both have left the line.

        A robot whose request ran out of time keeps its place for its next one.
        """
        late = [request for request in self._waiting.values() if request.deadline_s < now_s]
        for request in late:
            del self._waiting[request.robot]
        batch: list[Request[JobT]] = []
        while self._waiting and len(batch) < self.most:
            batch.append(self._waiting.pop(self._next().robot))
        if batch:
            self.batches += 1
        for request in batch:
            self._served[request.robot] = self.batches
            del self._turns[request.robot]
        return batch, late

    def _next(self) -> Request[JobT]:
        longest = min(request.turn for request in self._waiting.values())
        # Never empty: whoever has waited longest was not served since.
        allowed = [r for r in self._waiting.values() if self._served.get(r.robot, 0) <= longest]
        return min(allowed, key=lambda request: (request.deadline_s, request.turn))
