"""What mode a Franka robot says it is in: after a reflex or with its button pressed it does not follow commands."""

import time

from rclpy.node import Node

from openvla_core.types import Problem
from openvla_ros import topics
from openvla_ros.backends import interface_packages

STALE_S = 1.0


class RobotMode:
    """Watches robot_mode on a topic of franka_msgs/FrankaRobotState; watches nothing when the topic is empty."""

    def __init__(self, node: Node, topic: str) -> None:
        self._node = node
        self._mode: int | None = None
        self._heard_s = time.monotonic()
        self._subscription = None
        if topic:
            self._kind = interface_packages.load("franka_msgs.msg.FrankaRobotState")
            self._subscription = node.create_subscription(self._kind, topic, self._on_state, topics.SENSOR)

    def _on_state(self, message) -> None:
        self._mode, self._heard_s = message.robot_mode, time.monotonic()

    def problem(self) -> Problem | None:
        """ROBOT_REFLEX or ROBOT_STOPPED, both latched: a person has to look before the arm moves again.

        ROBOT_STATE_STALE when a topic was named and has been silent for a second: then nobody knows the mode.
        """
        if self._subscription is None:
            return None
        if self._mode == self._kind.ROBOT_MODE_REFLEX:
            sentence = "the robot stopped itself in a reflex. Look at it, call its error_recovery action, then reset."
            return Problem("ROBOT_REFLEX", sentence, latched=True)
        if self._mode == self._kind.ROBOT_MODE_USER_STOPPED:
            return Problem(
                "ROBOT_STOPPED", "the robot's own stop button is pressed. Release it, then reset.", latched=True
            )
        if time.monotonic() - self._heard_s > STALE_S:
            sentence = f"no robot_mode on {self._subscription.topic_name} within {STALE_S:g} s; check the broadcaster."
            return Problem("ROBOT_STATE_STALE", sentence)
        return None

    def close(self) -> None:
        """Stops watching."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
