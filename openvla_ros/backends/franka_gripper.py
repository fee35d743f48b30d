"""Grippers that are moved by actions: the Franka hand natively, or any server of control_msgs/GripperCommand.

These servers cannot be interrupted, so a goal is sent only when the wish changes from open to closed or back, never
at the rate of the arm, and only while an action is carried out: nothing is let go in a hold. Nothing here waits:
futures are looked at on every tick.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rclpy.action import ActionClient
from rclpy.node import Node

from openvla_core.config import setting
from openvla_core.errors import ConfigError
from openvla_core.types import Problem, SafeAction
from openvla_ros.backends import interface_packages
from openvla_ros.parameters import declare_settings

TRIES = 2
SUCCEEDED = 4  # action_msgs/GoalStatus
MOVED_SHARE = 0.9  # closing that ends below this share of the open gap, but not at zero, has closed on something


@dataclass(frozen=True, kw_only=True)
class FrankaGripperSettings:
    """Parameters franka_gripper.*: the action servers of the Franka hand."""

    name: str = setting("/franka_gripper", "Name of the gripper node, before /move and /grasp")
    open_width: float = setting(
        0.079, "Gap when open; the hand refuses more than it measured at homing, often a little below 0.08", unit="m",
        minimum=0.0, maximum=0.08,
    )  # fmt: skip
    speed: float = setting(0.1, "Speed of the fingers", unit="m/s", minimum=0.01, maximum=0.1)
    force: float = setting(30.0, "Force that holds an object", unit="N", minimum=1.0, maximum=70.0)
    epsilon: float = setting(
        0.08, "How far the object may be from the closed width and still count as grasped", unit="m", minimum=0.0,
        maximum=0.08,
    )  # fmt: skip
    timeout_s: float = setting(2.0, "Longest motion of the fingers", unit="s", minimum=0.1, maximum=10.0)


@dataclass(frozen=True, kw_only=True)
class GripperCommandSettings:
    """Parameters gripper_command.*: a server of control_msgs/action/GripperCommand."""

    action: str = setting("/franka_gripper/gripper_action", "Name of the action")
    open_position: float = setting(
        0.0395, "Position of each finger when open: for the Franka hand half of the gap, 0 to 0.04", unit="m",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    closed_position: float = setting(0.0, "Position of each finger when closed", unit="m", minimum=0.0, maximum=1.0)
    max_effort: float = setting(30.0, "Strongest grip", unit="N", minimum=0.0, maximum=200.0)
    timeout_s: float = setting(2.0, "Longest motion of the fingers", unit="s", minimum=0.1, maximum=10.0)


class Gripper(Protocol):
    """Opens and closes; nothing blocks."""

    def command(self, command: SafeAction) -> None:
        """Takes the wish, 0.5 and above is open, None leaves the gripper alone. Call on every tick, also in a hold."""

    def problem(self) -> Problem | None:
        """GRIPPER_FAULT after two failures, until reset; None otherwise."""

    def reset(self) -> None:
        """Forgets the failure: the next wish is sent."""

    def close(self) -> None:
        """Takes everything off the node."""


class NoGripper:
    """Leaves the gripper alone."""

    def command(self, command: SafeAction) -> None:
        """Does nothing."""

    def problem(self) -> Problem | None:
        """Never any."""
        return None

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True)
class Move:
    """One direction: the client of its action, its goal, and whether a result (status, result) counts as done."""

    client: ActionClient
    goal: Any
    is_done: Callable[[int, Any], bool]


class ActionGripper:
    """Sends a goal per change of the wish, tries a second time, then reports GRIPPER_FAULT.

    Failures in a row count whatever was wished, so a dead gripper is told also when the policy keeps changing its mind.
    """

    def __init__(self, opening: Move, closing: Move, timeout_s: float) -> None:
        self._moves = {True: opening, False: closing}
        self._timeout_s = timeout_s
        self._goal: bool | None = None  # where the fingers are sent or have been; None when that is not known
        self._attempt: _Attempt | None = None
        self._direction: bool | None = None  # of the newest attempt
        self._failures = 0  # in a row
        self._problem: Problem | None = None

    def command(self, command: SafeAction) -> None:
        """Looks at how the last goal is getting on, then takes the wish, if an action is being carried out."""
        if command.restarted or command.gripper is None:
            self._goal = None  # somebody may have moved the fingers by hand
        wish = command.gripper >= 0.5 if command.active and command.gripper is not None else None
        if self._attempt is not None:
            self._follow_up(self._attempt, wish)
        # A motion in progress cannot be interrupted: the newest wish waits for its end.
        if self._attempt is None and self._problem is None and wish not in (None, self._goal):
            self._begin(bool(wish))

    def _begin(self, opens: bool, since_s: float | None = None) -> None:
        """since_s: since when a server is waited for."""
        self._goal = self._direction = opens
        self._attempt = _Attempt(self._moves[opens], self._timeout_s, since_s)
        self._attempt.step(may_send=True)

    def _follow_up(self, attempt: "_Attempt", wish: bool | None) -> None:
        if not attempt.is_sent and wish not in (None, self._direction):
            self._begin(bool(wish), attempt.since_s)  # no longer wished, and nobody knows of it yet
            return
        failure = attempt.step(may_send=wish == self._direction)
        if attempt.done:
            self._attempt, self._failures = None, 0
        elif failure:
            self._attempt = self._goal = None
            self._failures += 1
            is_wished = wish in (None, self._direction)
            if self._failures >= (TRIES if is_wished else 2 * TRIES):
                self._problem = self._fault(failure)

    def _fault(self, failure: str) -> Problem:
        direction = "open" if self._direction else "close"
        sentence = (
            f"the gripper did not {direction}: {failure}; {self._failures} tries in a row failed. Check it, then reset."
        )
        return Problem("GRIPPER_FAULT", sentence)

    def problem(self) -> Problem | None:
        """GRIPPER_FAULT after the second failure, until reset."""
        return self._problem

    def reset(self) -> None:
        """Forgets the failure and what was sent: where the fingers are is not known, so the next wish is sent."""
        self._problem = self._goal = self._attempt = self._direction = None
        self._failures = 0

    def close(self) -> None:
        """Takes the action clients off the node."""
        for client in {id(move.client): move.client for move in self._moves.values()}.values():
            client.destroy()


class _Attempt:
    """One goal on its way: to a server that may be absent, refuse, fail or never answer."""

    def __init__(self, move: Move, timeout_s: float, since_s: float | None = None) -> None:
        self.move = move
        self.done = False
        self.since_s = time.monotonic() if since_s is None else since_s  # of waiting: for a server, then for its answer
        self._timeout_s = timeout_s
        self._reply: Any = None
        self._handle: Any = None
        self._result: Any = None

    @property
    def is_sent(self) -> bool:
        """Whether the goal has left."""
        return self._reply is not None

    def step(self, may_send: bool) -> str | None:
        """Goes on as far as possible; says what failed, None while under way and when done.

        may_send: a goal that has not left yet, as its server was absent, may leave now.
        """
        if self._reply is None and may_send and self.move.client.server_is_ready():
            self._reply = self.move.client.send_goal_async(self.move.goal)
            self.since_s = time.monotonic()
        if self._result is None and self._reply is not None and self._reply.done():
            self._handle = self._reply.result()
            if not self._handle.accepted:
                return "the goal was rejected"
            self._result = self._handle.get_result_async()
        if self._result is not None and self._result.done():
            answer = self._result.result()
            self.done = self.move.is_done(answer.status, answer.result)
            return None if self.done else "the motion was aborted"
        if time.monotonic() - self.since_s > self._timeout_s:
            if self._result is not None:
                self._handle.cancel_goal_async()
            return "no answer" if self._reply is not None else "no action server"
        return None


def _franka(node: Node) -> ActionGripper:
    settings = declare_settings(node, FrankaGripperSettings, prefix="franka_gripper.")
    move_kind = interface_packages.load("franka_msgs.action.Move")
    grasp_kind = interface_packages.load("franka_msgs.action.Grasp")
    grasp = grasp_kind.Goal(width=0.0, speed=settings.speed, force=settings.force)
    grasp.epsilon.inner = grasp.epsilon.outer = settings.epsilon
    move = move_kind.Goal(width=settings.open_width, speed=settings.speed)

    def is_done(status: int, result: Any) -> bool:
        return status == SUCCEEDED and result.success

    return ActionGripper(
        Move(ActionClient(node, move_kind, f"{settings.name}/move"), move, is_done),
        Move(ActionClient(node, grasp_kind, f"{settings.name}/grasp"), grasp, is_done),
        settings.timeout_s,
    )


def _gripper_command(node: Node) -> ActionGripper:
    settings = declare_settings(node, GripperCommandSettings, prefix="gripper_command.")
    kind = interface_packages.load("control_msgs.action.GripperCommand")
    client = ActionClient(node, kind, settings.action)

    def goal(position: float) -> Any:
        wanted = kind.Goal()
        wanted.command.position, wanted.command.max_effort = position, settings.max_effort
        return wanted

    def is_open(status: int, result: Any) -> bool:
        return status == SUCCEEDED and result.reached_goal

    def is_closed(status: int, result: Any) -> bool:
        # The Franka hand calls closing on anything thicker than 5 mm a failure, though it then holds the thing.
        # The result tells the whole gap, not half of it.
        holds = 0.0 < result.position < MOVED_SHARE * 2.0 * settings.open_position
        return (status == SUCCEEDED and result.reached_goal) or result.stalled or holds

    return ActionGripper(
        Move(client, goal(settings.open_position), is_open),
        Move(client, goal(settings.closed_position), is_closed),
        settings.timeout_s,
    )


_MAKERS: dict[str, Callable[[Node], Gripper]] = {
    "none": lambda node: NoGripper(),
    "franka": _franka,
    "gripper_command": _gripper_command,
}
GRIPPERS = tuple(_MAKERS)


def make_gripper(kind: str, node: Node) -> Gripper:
    """The gripper of that kind; raises ConfigError for an unknown one and when its message package is missing."""
    if kind not in _MAKERS:
        raise ConfigError(f"gripper is {kind!r}; choose one of {', '.join(GRIPPERS)}.")
    return _MAKERS[kind](node)
