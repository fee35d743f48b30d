"""What both ways of commanding MoveIt Servo share: its services and status, which differ between Humble and later."""

import os
import time
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node

from openvla_core.config import setting
from openvla_core.errors import ConfigError
from openvla_core.types import Problem
from openvla_ros import topics
from openvla_ros.backends import RobotSettings, interface_packages
from openvla_ros.backends.command_topic import ABSENT_S, CHECK_S
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
        self._command_type = command_type
        self._steps: list[Preparation] = []
        self._status: Any = None
        self._code = 0
        self._looked_s = float("-inf")
        self._unknown_since_s = time.monotonic()
        self.api = own.api
        if own.api == "jazzy" or (own.api == "auto" and os.environ.get("ROS_DISTRO") != "humble"):
            interface_packages.load("moveit_msgs.srv.ServoCommandType")
        if own.api != "auto":
            self._connect()
        else:
            self._find()

    def ready(self) -> bool:
        """True once Servo has agreed to take our commands; asks it when it has not."""
        self._find()
        return self.api != "auto" and prepared(self._steps)

    def problem(self) -> Problem | None:
        """BACKEND_ABSENT, BACKEND_STARTING and BACKEND_REFUSED about its services; SERVO_HALT from its status."""
        self._find()
        if self.api == "auto":
            if time.monotonic() - self._unknown_since_s <= ABSENT_S:
                return None
            sentence = f"{self._name} offers neither switch_command_type nor start_servo. Start MoveIt Servo."
            return Problem("BACKEND_ABSENT", sentence)
        halt = HALTS[self.api].get(self._code)
        stands = Problem("SERVO_HALT", f"MoveIt Servo stands still: {halt}.") if halt else None
        return first_problem(self._steps) or stands

    def _find(self) -> None:
        now_s = time.monotonic()
        if self.api != "auto" or now_s - self._looked_s < CHECK_S:
            return
        self._looked_s = now_s
        names = {name for name, _ in self._node.get_service_names_and_types()}
        for api, service in (("jazzy", "switch_command_type"), ("humble", "start_servo")):
            if f"{self._name}/{service}" in names:
                self.api = api
                self._connect()
                return

    def _connect(self) -> None:
        if self.api == "humble":
            start = topics.Trigger.Request()
            self._steps = [
                Preparation(self._node, topics.Trigger, f"{self._name}/start_servo", start, _trigger_refusal)
            ]
            self._watch(topics.Int8, "data")
            return
        kind = interface_packages.load("moveit_msgs.srv.ServoCommandType")
        switch = kind.Request(command_type=getattr(kind.Request, self._command_type))
        unpause = topics.SetBool.Request(data=False)
        self._steps = [
            Preparation(self._node, kind, f"{self._name}/switch_command_type", switch, _switch_refusal),
            Preparation(self._node, topics.SetBool, f"{self._name}/pause_servo", unpause, _trigger_refusal),
        ]
        self._watch(interface_packages.load("moveit_msgs.msg.ServoStatus"), "code")

    def _watch(self, kind: type, field: str) -> None:
        def on_status(message) -> None:
            self._code = getattr(message, field)

        self._status = self._node.create_subscription(kind, f"{self._name}/status", on_status, topics.SENSOR)

    def close(self) -> None:
        """Takes its clients and the status off the node."""
        for step in self._steps:
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
