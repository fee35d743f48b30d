"""The ways to send a command to a robot, one file each. A backend takes a SafeAction and nothing else.

A backend announces its command topics and changes the mode of the robot with its first command, not when it is made: a
dry run next to another program that moves the robot must not disturb it.
"""

import importlib
from typing import Protocol

from rclpy.node import Node

from openvla_core.errors import ConfigError
from openvla_core.types import Problem, SafeAction

# Imported when chosen, so that a machine needs only the interface packages of its own robot.
MODULES = {
    "sim": "openvla_ros.backends.sim",
    "crisp": "openvla_ros.backends.crisp",
    "servo_twist": "openvla_ros.backends.servo_twist",
    "servo_pose": "openvla_ros.backends.servo_pose",
    "joint_trajectory": "openvla_ros.backends.joint_trajectory",
    "interbotix": "openvla_ros.backends.interbotix",
}
NAMES = tuple(MODULES)

__all__ = ["MODULES", "NAMES", "Backend", "Problem", "RobotSettings", "make_backend"]


class RobotSettings(Protocol):
    """What a backend needs to know of the controller's settings; its own are parameters named <backend>.<field>."""

    @property
    def base_frame(self) -> str:
        """Frame of every command."""

    @property
    def rate_hz(self) -> float:
        """Commands per second."""

    @property
    def max_speed(self) -> float:
        """Fastest tool motion that will be sent, m/s."""

    @property
    def max_angular_speed(self) -> float:
        """Fastest tool rotation that will be sent, rad/s."""

    @property
    def arm(self) -> str:
        """Name of the arm for `load_arm`; read by the backends that command joints."""


class Backend(Protocol):
    """Sends commands to one kind of robot interface. No method blocks, none raises on what the robot does."""

    def send(self, command: SafeAction, stamp_ns: int) -> None:
        """Sends one command, on every tick; stamp_ns is the present ROS time."""

    def problem(self) -> Problem | None:
        """What is wrong now, the most serious first; None when commands reach the robot. Read on every tick."""

    def reset(self) -> None:
        """Forgets failures that are over; the controller calls it when a person resets."""

    def close(self) -> None:
        """Takes the topics and services of this backend off the node."""


def make_backend(name: str, node: Node, settings: RobotSettings) -> Backend:
    """The backend of that name; its settings become parameters of the node.

    Raises ConfigError for an unknown name, a setting outside its range or an interface package that is not installed.
    """
    if name not in MODULES:
        raise ConfigError(f"backend is {name!r}; choose one of {', '.join(NAMES)}.")
    return importlib.import_module(MODULES[name]).make(node, settings)
