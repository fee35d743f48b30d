"""A subscription that is read when its reader has time: a flood of messages then costs no more than its queue is long.

An executor wakes up for every message, which takes longer than reading it. A driver that publishes 1,000 poses per
second would leave a loop of 50 commands per second little time of its own.
"""

import time
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile


class NeverExecuted(CallbackGroup):
    """Keeps its subscriptions out of every executor."""

    def can_execute(self, entity: Any) -> bool:
        """No."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """No."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Never called."""


class TakenMessages:
    """What has come on a topic since the last look, as far as its queue reaches back."""

    def __init__(self, node: Node, kind: type, topic: str, qos: QoSProfile) -> None:
        self._node = node
        self._longest = qos.depth
        self._group = NeverExecuted()  # rclpy itself keeps only a weak reference
        self._subscription = node.create_subscription(
            kind, topic, lambda message: None, qos, callback_group=self._group
        )
        self._looked_s = time.monotonic()

    def take(self) -> list[tuple[Any, float]]:
        """The messages, oldest first, each with the monotonic time at which it arrived."""
        before_s, self._looked_s = self._looked_s, time.monotonic()
        looked_ns = time.time_ns()  # once: read anew for every message, the later of two could seem to be the earlier
        taken: list[tuple[Any, float]] = []
        while len(taken) < self._longest:
            with self._subscription.handle:
                found = self._subscription.handle.take_message(self._subscription.msg_type, False)
            if found is None:
                break
            message, details = found
            taken.append((message, self._arrived_s(details, before_s, looked_ns)))
        return taken

    def _arrived_s(self, details: Any, before_s: float, looked_ns: int) -> float:
        """It came after the last look, whatever the wall clock of the middleware says."""
        received_ns = details.get("received_timestamp", 0) if isinstance(details, dict) else 0
        ago_s = (looked_ns - received_ns) * 1e-9 if received_ns else 0.0
        return min(max(self._looked_s - ago_s, before_s), self._looked_s)

    def close(self) -> None:
        """Lets go of the topic."""
        self._node.destroy_subscription(self._subscription)
