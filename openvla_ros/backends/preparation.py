"""A service of the robot that has to agree before the first command, asked again and again without blocking."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node

from openvla_core.types import Problem

ABSENT_S = 1.0
ANSWER_S = 3.0  # a service that has not answered by then is asked again
RETRY_S = 1.0


class Preparation:
    """One request. It is sent when `step` is called, which is with the first command, and again after a restart."""

    def __init__(
        self, node: Node, kind: Any, name: str, request: Any, refusal: Callable[[Any], str | None] = lambda answer: None
    ) -> None:
        """refusal: tells from the answer why the robot does not agree; None when it does."""
        self._node = node
        self._client = node.create_client(kind, name)
        self._request = request
        self._refusal = refusal
        self._name = self._client.service_name
        self._future: Any = None
        self._asked_s = float("-inf")
        self._present_s = time.monotonic()
        self._sentence = ""
        self.done = False

    def step(self) -> bool:
        """Asks when it is time to; True once the robot has agreed."""
        now_s = time.monotonic()
        self.look(now_s)
        if self._future is not None and self._future.done():
            self._take_answer()
        waits = self._future is not None and now_s - self._asked_s < ANSWER_S
        if not self.done and not waits and now_s - self._asked_s >= RETRY_S and self._client.service_is_ready():
            self._asked_s = now_s
            self._future = self._client.call_async(self._request)
        return self.done

    def is_there(self) -> bool:
        """Whether somebody offers the service."""
        return self._client.service_is_ready()

    def problem(self) -> Problem | None:
        """BACKEND_ABSENT without the service, BACKEND_REFUSED when it says no, BACKEND_STARTING while it is asked."""
        now_s = time.monotonic()
        self.look(now_s)
        if now_s - self._present_s > ABSENT_S:
            return Problem(
                "BACKEND_ABSENT", f"there is no service {self._name}. Start the robot's driver or controller."
            )
        # Once asked, the answer is waited for even when no further command comes.
        if self._asked_s == float("-inf") or self.step():
            return None
        if self._sentence:
            return Problem("BACKEND_REFUSED", f"{self._name} refuses: {self._sentence}")
        return Problem("BACKEND_STARTING", f"waiting for the answer of {self._name}.")

    def look(self, now_s: float) -> None:
        """Notes whether the service is there; now_s is time.monotonic()."""
        if self._client.service_is_ready():
            self._present_s = now_s
        elif self.done:
            # When it comes back, it has forgotten what it agreed to.
            self.done, self._future, self._asked_s = False, None, float("-inf")

    def _take_answer(self) -> None:
        answer, self._future = self._future.result(), None
        reason = self._refusal(answer)
        self.done, self._sentence = reason is None, reason or ""

    def close(self) -> None:
        """Takes the client off the node."""
        self._node.destroy_client(self._client)


def prepared(steps: Sequence[Preparation]) -> bool:
    """Asks one after the other; True once all have agreed."""
    now_s = time.monotonic()
    for step in steps:
        step.look(now_s)
    return all(step.step() for step in steps)


def first_problem(steps: Sequence[Preparation]) -> Problem | None:
    """The problem of the first step that has one."""
    return next((problem for step in steps if (problem := step.problem())), None)
