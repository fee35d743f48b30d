"""A topic that carries commands: published by us alone, and heard by the robot."""

import time
from typing import Any

from rclpy.node import Node

from openvla_core.types import Problem
from openvla_ros import topics

ABSENT_S = 1.0  # discovery on a busy machine takes this long
CHECK_S = 0.1  # asking the graph costs more than a tick may


class CommandTopic:
    """Publishes commands of one kind. The publisher is announced with the first command."""

    def __init__(self, node: Node, kind: type, name: str, qos=topics.COMMAND) -> None:
        self._node = node
        self._kind = kind
        self._qos = qos
        self.name = node.resolve_topic_name(name)
        self._publisher: Any = None
        self._problem: Problem | None = None
        self._was_heard = False
        self._heard_s = time.monotonic()
        self._checked_s = float("-inf")

    def publish(self, message) -> None:
        """Sends the message to whoever listens."""
        self.announce()
        self._publisher.publish(message)

    def announce(self) -> bool:
        """Makes the publisher; True once somebody hears it. For messages that are sent once and must arrive."""
        if self._publisher is None:
            self._publisher = self._node.create_publisher(self._kind, self.name, self._qos)
        return self._publisher.get_subscription_count() > 0

    def problem(self) -> Problem | None:
        """BACKEND_MULTI when somebody else publishes here too; BACKEND_ABSENT when nobody has listened for a second."""
        now_s = time.monotonic()
        if now_s - self._checked_s >= CHECK_S:
            self._checked_s = now_s
            self._problem = self._check(now_s)
        return self._problem

    def _check(self, now_s: float) -> Problem | None:
        if self._is_heard():
            self._heard_s = now_s
            self._was_heard = self._was_heard or self._publisher is not None
        others = self._node.count_publishers(self.name) - (self._publisher is not None)
        if others > 0:
            sentence = f"{others} other publisher(s) on {self.name}. Stop them: only one may move the robot."
            return Problem("BACKEND_MULTI", sentence, latched=True)
        if now_s - self._heard_s > ABSENT_S:
            # A robot that goes away while it is being moved needs a look before it moves again.
            return Problem("BACKEND_ABSENT", self._absent_sentence(), latched=self._was_heard)
        return None

    def _is_heard(self) -> bool:
        if self._publisher is None:
            return self._node.count_subscribers(self.name) > 0
        return self._publisher.get_subscription_count() > 0

    def _absent_sentence(self) -> str:
        kind = f"{self._kind.__module__.split('.')[0]}/{self._kind.__name__}"
        if self._node.count_subscribers(self.name):
            return f"the listener on {self.name} does not take {kind}, reliable and volatile; check its type and QoS."
        return f"nobody listens to {self.name} ({kind}). Start the robot's driver or controller, or correct the name."

    def reset(self) -> None:
        """Forgets that a listener has gone away."""
        self._was_heard = False

    def close(self) -> None:
        """Takes the publisher off the node."""
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
            self._publisher = None
