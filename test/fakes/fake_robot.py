"""What all pretend robots share: state at a steady rate, and faults that a parameter switches on and off.

The parameter `fault` is one of FAULTS and may be set while the robot runs, also from outside with `ros2 param set`:

    late         state arrives LATE_S after it was true
    silent       no state at all; an action gets no result
    rejecting    services say no, goals are rejected, commands are not carried out
    teleporting  every 20th state is 0.3 m (or 0.3 rad) away
    nan          state holds NaN
    reflex       the robot stops by itself and says so where its interface can
    blocked      commands are ignored, the state stays as it is
    absent       nobody listens to the command topics
"""

import math
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from rclpy.node import Node

from openvla_core.types import Pose
from openvla_ros import node_support
from openvla_ros.node_support import steady_timer

FAULTS = ("", "late", "silent", "rejecting", "teleporting", "nan", "reflex", "blocked", "absent")
LATE_S = 0.3
TELEPORT = 0.3  # metres or radians
# As the controller: a process that listens and stops must not freeze the robot.
run = partial(node_support.run, shared_memory=False)

__all__ = ["FAULTS", "LATE_S", "TELEPORT", "FakeRobot", "run"]


class FakeRobot(Node):
    """A node whose commands and state pass through the fault that is switched on."""

    def __init__(self, name: str, state_rate_hz: float, **options) -> None:
        super().__init__(name, **options)
        self.fault = self.declare_parameter("fault", "").value
        self.state_rate_hz = float(self.declare_parameter("state_rate_hz", state_rate_hz).value)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._delayed: deque = deque()
        self._listeners: list[tuple] = []
        self._subscriptions_on: list = []
        self._states = 0
        self._apply_fault(self.fault)
        steady_timer(self, 1.0 / self.state_rate_hz, self._on_state_timer)

    # Faults -----------------------------------------------------------------------------------------------------

    def _on_parameters(self, parameters):
        from rcl_interfaces.msg import SetParametersResult

        for parameter in parameters:
            if parameter.name == "fault":
                if parameter.value not in FAULTS:
                    return SetParametersResult(successful=False, reason=f"fault is one of {FAULTS}")
                self._apply_fault(parameter.value)
        return SetParametersResult(successful=True)

    def _apply_fault(self, fault: str) -> None:
        assert fault in FAULTS, fault
        self.fault = fault
        if fault == "absent":
            for subscription in self._subscriptions_on:
                self.destroy_subscription(subscription)
            self._subscriptions_on = []
        elif not self._subscriptions_on:
            self._subscriptions_on = [self.create_subscription(*listener) for listener in self._listeners]

    @property
    def obeys(self) -> bool:
        """Whether commands are carried out."""
        return self.fault not in ("blocked", "reflex", "rejecting")

    # Commands and state -----------------------------------------------------------------------------------------

    def listen(self, kind, name: str, callback: Callable, qos) -> None:
        """Subscribes to commands; the fault "absent" takes the subscription away."""
        self._listeners.append((kind, name, callback, qos))
        if self.fault != "absent":
            self._subscriptions_on.append(self.create_subscription(kind, name, callback, qos))

    def now_ns(self) -> int:
        """The ROS time."""
        return self.get_clock().now().nanoseconds

    def publish_state(self) -> None:
        """Publishes what the robot measures; every robot has its own, and gives it to `emit`."""
        raise NotImplementedError

    def _on_state_timer(self) -> None:
        self._states += 1
        if self.fault != "silent":
            self.publish_state()
        while self._delayed and (self.fault != "late" or self._delayed[0][0] <= self.now_ns()):
            _, publisher, message = self._delayed.popleft()
            publisher.publish(message)

    def emit(self, publisher, message) -> None:
        """Publishes a state, later when the fault is "late"."""
        if self.fault == "late":
            self._delayed.append((self.now_ns() + int(LATE_S * 1e9), publisher, message))
        else:
            publisher.publish(message)

    def shown(self, values: np.ndarray) -> np.ndarray:
        """The measured numbers (n,), as the fault lets them be seen."""
        if self.fault == "nan":
            return np.full_like(values, math.nan)
        if self.fault == "teleporting" and self._states % 20 == 0:
            return values + TELEPORT * np.eye(len(values))[0]
        return values

    def shown_pose(self, pose: Pose) -> Pose:
        """The measured pose, as the fault lets it be seen."""
        return Pose(self.shown(pose.position), pose.quaternion)


def declared_pose(node: Node, position: list[float], quaternion: list[float]) -> Pose:
    """The pose of the parameters start_position and start_quaternion (x, y, z, w)."""
    return Pose(
        np.array(node.declare_parameter("start_position", position).value),
        np.array(node.declare_parameter("start_quaternion", quaternion).value),
    )
