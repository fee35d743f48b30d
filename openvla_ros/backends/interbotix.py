"""Interbotix X-Series arms such as WidowX 250s: joint angles on every tick, the gripper when it changes.

The motors follow a profile of their own. As shipped it takes 2 s per command; with the first command it is set to one
control period, as otherwise the arm would lag seconds behind. The driver cuts the torque of each motor for a moment
while it does so.
"""

from dataclasses import dataclass
from typing import Any

from rclpy.node import Node

from openvla_core.config import setting
from openvla_core.types import Problem, SafeAction
from openvla_ros.backends import RobotSettings, interface_packages
from openvla_ros.backends.command_topic import CommandTopic
from openvla_ros.backends.joint_solver import JointSolver
from openvla_ros.backends.preparation import Preparation, first_problem, prepared
from openvla_ros.parameters import declare_settings

GRIPPER_MODES = ("linear_position", "pwm", "none")
GRIPPER_PROFILE_MS = 300


@dataclass(frozen=True, kw_only=True)
class InterbotixSettings:
    """Parameters interbotix.*"""

    robot_name: str = setting("wx250s", "Name the driver was started with; the namespace of its topics")
    set_profile: bool = setting(
        True, "Set the motors' profile to the control period before the first command. Support the arm: each motor is "
        "without torque for a moment. False leaves the modes as the driver's file sets them"
    )  # fmt: skip
    max_joint_speed: float = setting(1.2, "Fastest joint", unit="rad/s", minimum=0.05, maximum=3.14)
    gripper: str = setting(
        "linear_position", "How the gripper is commanded: to a width, by a constant pwm, or not at all",
        choices=GRIPPER_MODES,
    )  # fmt: skip
    finger_closed: float = setting(
        0.015, "Distance of each finger from the middle when closed", unit="m", minimum=0.015, maximum=0.037
    )
    finger_open: float = setting(
        0.037, "Distance of each finger from the middle when open", unit="m", minimum=0.015, maximum=0.037
    )
    pwm: float = setting(
        250.0, "Strength of the gripper motor in pwm mode, opening positive", minimum=100.0, maximum=350.0
    )


class InterbotixBackend:
    """commands/joint_group for the arm and commands/joint_single for the gripper."""

    def __init__(self, node: Node, settings: RobotSettings, own: InterbotixSettings) -> None:
        self._group_kind = interface_packages.load("interbotix_xs_msgs.msg.JointGroupCommand")
        self._single_kind = interface_packages.load("interbotix_xs_msgs.msg.JointSingleCommand")
        self._own = own
        root = f"/{own.robot_name.strip('/')}"
        self._modes = _mode_requests(node, root, settings.rate_hz, own) if own.set_profile else []
        self._solver = JointSolver(node, settings.arm, f"{root}/joint_states", own.max_joint_speed, settings.rate_hz)
        self._group = CommandTopic(node, self._group_kind, f"{root}/commands/joint_group")
        self._single = CommandTopic(node, self._single_kind, f"{root}/commands/joint_single")
        self._gripper_is_open: bool | None = None

    def send(self, command: SafeAction, stamp_ns: int) -> None:
        """Publishes the joint angles of the pose once the motors have their profile; nothing when there are none."""
        if command.restarted or command.gripper is None:
            self._gripper_is_open = None  # somebody may have moved the fingers by hand
        if not prepared(self._modes):
            self._solver.forget()
            return
        joints = self._solver.solve(command, stamp_ns)
        if joints is not None:
            self._group.publish(self._group_kind(name="arm", cmd=[float(value) for value in joints]))
        # In a hold nothing new is asked of the gripper: it would drop what it carries.
        if command.active and command.gripper is not None and self._own.gripper != "none":
            self._send_gripper(command.gripper >= 0.5)

    def _send_gripper(self, wants_open: bool) -> None:
        # The motor's own controller keeps the last command, so one is enough, if it arrives.
        if self._single.announce() and wants_open != self._gripper_is_open:
            self._gripper_is_open = wants_open
            self._single.publish(self._single_kind(name="gripper", cmd=gripper_value(wants_open, self._own)))

    def problem(self) -> Problem | None:
        """The motors' profile, the command topics, then the joint angles."""
        gripper = self._single.problem() if self._own.gripper != "none" else None
        return first_problem(self._modes) or self._group.problem() or gripper or self._solver.problem()

    def reset(self) -> None:
        """Starts again from the measured angles; the next wish for the gripper is sent."""
        for part in (self._solver, self._group, self._single):
            part.reset()
        self._gripper_is_open = None

    def close(self) -> None:
        """Takes everything off the node."""
        for mode in self._modes:
            mode.close()
        for part in (self._group, self._single, self._solver):
            part.close()


def gripper_value(is_open: bool, own: InterbotixSettings) -> float:
    """The command of the gripper motor: the gap between both fingers in metres, or its pwm."""
    if own.gripper == "pwm":
        return own.pwm if is_open else -own.pwm
    return 2.0 * (own.finger_open if is_open else own.finger_closed)


def _mode_requests(node: Node, root: str, rate_hz: float, own: InterbotixSettings) -> list[Preparation]:
    kind = interface_packages.load("interbotix_xs_msgs.srv.OperatingModes")
    period_ms = round(1000.0 / rate_hz)

    def request(cmd_type: str, name: str, mode: str, duration_ms: int) -> Any:
        return kind.Request(
            cmd_type=cmd_type,
            name=name,
            mode=mode,
            profile_type="time",
            profile_velocity=duration_ms,
            profile_acceleration=duration_ms // 2,
        )

    wanted = [request("group", "arm", "position", period_ms)]
    if own.gripper != "none":
        wanted.append(request("single", "gripper", own.gripper, GRIPPER_PROFILE_MS))
    return [Preparation(node, kind, f"{root}/set_operating_modes", each) for each in wanted]


def make(node: Node, settings: RobotSettings) -> InterbotixBackend:
    """The backend; raises ConfigError without interbotix_xs_msgs, and that or KinematicsError without a known arm."""
    return InterbotixBackend(node, settings, declare_settings(node, InterbotixSettings, prefix="interbotix."))
