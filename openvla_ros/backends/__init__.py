"""The ways to send a command to a robot, one file each. A backend takes a SafeAction and nothing else."""

import importlib
from typing import Protocol

from rclpy.node import Node

from openvla_core.errors import ConfigError
from openvla_core.types import SafeAction

# Imported when chosen, so that a machine needs only the interface packages of its own robot.
MODULES = {"sim": "openvla_ros.backends.sim"}
NAMES = tuple(MODULES)


class Backend(Protocol):
    """Sends commands to one kind of robot interface."""

    def send(self, command: SafeAction, stamp_ns: int) -> None:
        """Sends a pose in the base frame and a gripper opening; stamp_ns is the present ROS time."""


def make_backend(name: str, node: Node, base_frame: str) -> Backend:
    """The backend of that name, with its publishers on the node. Raises ConfigError for an unknown name."""
    if name not in MODULES:
        raise ConfigError(f"backend is {name!r}; choose one of {', '.join(NAMES)}.")
    return importlib.import_module(MODULES[name]).make(node, base_frame)
