"""What both ways of commanding MoveIt Servo share: its services and status, which differ between Humble and later."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node

from openvla_core.config import setting
from openvla_core.errors import ConfigError
from openvla_core.types import Problem
from openvla_ros import topics
from openvla_ros.backends import RobotSettings, interface_packages
from openvla_ros.backends.command_topic import ABSENT_S
from openvla_ros.backends.franka_gripper import GRIPPERS
from openvla_ros.backends.preparation import Preparation, first_problem, prepared

# Status codes with which Servo stands still; the numbers differ between Humble and later.
HALTS = {
    "humble": {-1: "invalid command", 2: "singularity", 4: "collision", 5: "joint limit"},
    "jazzy": {-1: "invalid command", 2: "singularity", 5: "collision", 6: "joint limit"},
}


@dataclass(frozen=True, kw_only=True)
class ServoSettings:
    """Parameters servo_twist.* and servo_pose.*"""

    node: str = setting("/servo_node", "Name of the Servo node")
    api: str = setting(
        "auto", "Servo of Humble (start_servo) or of Jazzy and later (switch_command_type); auto looks which it offers",
        choices=("auto", "humble", "jazzy"),
    )  # fmt: skip
    linear_scale: float = setting(
        0.4, "scale.linear of Servo, beyond which Jazzy and later cut speeds", unit="m/s", minimum=0.01, maximum=10.0
    )
    rotational_scale: float = setting(
        0.8, "scale.rotational of Servo, beyond which Jazzy and later cut speeds", unit="rad/s", minimum=0.01,
        maximum=20.0,
    )  # fmt: skip
    gripper: str = setting("franka", "How the gripper is commanded", choices=GRIPPERS)
    robot_state: str = setting("", "Topic of franka_msgs/FrankaRobotState whose robot_mode is watched; empty: none")


class Servo:
    """Finds out which Servo it is, switches it to the kind of command we send, and watches its status."""

    def __init__(self, node: Node, own: ServoSettings, command_type: str) -> None:
        """command_type: TWIST or POSE, as in ServoCommandType. Raises ConfigError when moveit_msgs is missing."""
        self._node = node
        self._name = own.node.rstrip("/")
        self._made_s = time.monotonic()
        self._status: Any = None
        self._code = 0
        self.api = own.api
        self._steps: dict[str, list[Preparation]] = {}
        # On Humble moveit_msgs has no ServoCommandType, and nobody needs it.
        if own.api == "jazzy" or (own.api == "auto" and os.environ.get("ROS_DISTRO") != "humble"):
            self._steps["jazzy"] = self._jazzy_steps(command_type)
        if own.api != "jazzy":
            self._steps["humble"] = [
                self._step(topics.Trigger, "start_servo", topics.Trigger.Request(), _trigger_refusal)
            ]
        if own.api != "auto":
            self._watch()

    def _jazzy_steps(self, command_type: str) -> list[Preparation]:
        kind = interface_packages.load("moveit_msgs.srv.ServoCommandType")
        switch = kind.Request(command_type=getattr(kind.Request, command_type))
        go_on = topics.SetBool.Request(data=False)
        return [
            self._step(kind, "switch_command_type", switch, _switch_refusal),
            self._step(topics.SetBool, "pause_servo", go_on, _trigger_refusal),
        ]

    def _step(self, kind: Any, name: str, request: Any, refusal: Callable[[Any], str | None]) -> Preparation:
        return Preparation(self._node, kind, f"{self._name}/{name}", request, refusal)

    def ready(self) -> bool:
        """True once Servo has agreed to take our commands; asks it when it has not."""
        return self._is_known() and prepared(self._steps[self.api])

    def problem(self) -> Problem | None:
        """BACKEND_ABSENT, BACKEND_STARTING and BACKEND_REFUSED about its services; SERVO_HALT from its status."""
        if not self._is_known():
            if time.monotonic() - self._made_s <= ABSENT_S:
                return None
            sentence = f"{self._name} offers neither switch_command_type nor start_servo. Start MoveIt Servo."
            return Problem("BACKEND_ABSENT", sentence)
        halt = HALTS[self.api].get(self._code)
        stands = Problem("SERVO_HALT", f"MoveIt Servo stands still: {halt}.") if halt else None
        return first_problem(self._steps[self.api]) or stands

    def _is_known(self) -> bool:
        """Whether it is known which Servo this is: the one whose service is there."""
        for api, steps in self._steps.items():
            if self.api == "auto" and steps[0].is_there():
                self.api = api
                self._watch()
        return self.api != "auto"

    def _watch(self) -> None:
        kind, field = (topics.Int8, "data")
        if self.api == "jazzy":
            kind, field = interface_packages.load("moveit_msgs.msg.ServoStatus"), "code"

        def on_status(message) -> None:
            self._code = getattr(message, field)

        self._status = self._node.create_subscription(kind, f"{self._name}/status", on_status, topics.SENSOR)

    def close(self) -> None:
        """Takes its clients and the status off the node."""
        for steps in self._steps.values():
            for step in steps:
                step.close()
        if self._status is not None:
            self._node.destroy_subscription(self._status)


def _trigger_refusal(answer: Any) -> str | None:
    return None if answer.success else answer.message or "no reason given."


def _switch_refusal(answer: Any) -> str | None:
    return None if answer.success else "it does not take this type of command."


def warn_of_clamps(node: Node, settings: RobotSettings, own: ServoSettings) -> None:
    """Says once which of our speed limits Servo of Jazzy and later would cut without a word."""
    for what, ours, theirs, unit, name in (
        ("max_speed", settings.max_speed, own.linear_scale, "m/s", "linear_scale"),
        ("max_angular_speed", settings.max_angular_speed, own.rotational_scale, "rad/s", "rotational_scale"),
    ):
        if ours > theirs and own.api != "humble":
            node.get_logger().warning(
                f"MoveIt Servo of Jazzy and later cuts speeds at {theirs:g} {unit} ({name}); {what} allows {ours:g} "
                f"{unit}. Lower {what}, or raise the scale in Servo's settings and {name} here."
            )


def check_pose_api(own: ServoSettings) -> None:
    """Raises ConfigError for Humble, whose Servo takes no poses."""
    if own.api == "humble" or (own.api == "auto" and os.environ.get("ROS_DISTRO") == "humble"):
        raise ConfigError("MoveIt Servo of Humble takes no poses. Set backend to servo_twist.")
