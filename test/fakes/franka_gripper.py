#!/usr/bin/env python3
"""A pretend franka_gripper node: the actions move, grasp and gripper_action, and joint states of the fingers.

Faults: "rejecting" rejects every goal, "blocked" aborts it, "silent" never ends it. Parameter `object_width`: what
lies between the fingers, metres.
"""

import sys

import numpy as np
from control_msgs.action import GripperCommand
from fake_robot import FakeRobot, run
from franka_msgs.action import Grasp, Move
from rclpy.action import ActionServer, GoalResponse

from openvla_ros import conversions, topics

MAX_WIDTH = 0.0796  # m, as measured at homing: a little below the nominal 0.08
DEFAULT_EPSILON = 0.005


class FakeFrankaGripper(FakeRobot):
    """Fingers that are where they are told at once."""

    def __init__(self, **options) -> None:
        super().__init__("franka_gripper", 30.0, **options)
        self.width = MAX_WIDTH
        self.object_width = self.declare_parameter("object_width", 0.0).value
        self._servers: list[ActionServer] = []
        self.goals: list[tuple] = []  # (action, goal), also of rejected ones
        self._states_out = self.create_publisher(topics.JointState, "~/joint_states", topics.COMMAND)
        for kind, name, execute in (
            (Move, "move", self.execute_move),
            (Grasp, "grasp", self.execute_grasp),
            (GripperCommand, "gripper_action", self.execute_command),
        ):
            server = ActionServer(
                self,
                kind,
                f"~/{name}",
                execute,
                goal_callback=self._goal_callback(name),
                handle_accepted_callback=self._on_accepted,
            )
            self._servers.append(server)

    def close(self) -> None:
        """Takes the actions off the graph."""
        for server in self._servers:
            server.destroy()

    def _goal_callback(self, name: str):
        def on_goal(goal) -> GoalResponse:
            self.goals.append((name, goal))
            return GoalResponse.REJECT if self.fault == "rejecting" else GoalResponse.ACCEPT

        return on_goal

    def _on_accepted(self, handle) -> None:
        if self.fault != "silent":
            handle.execute()

    def execute_move(self, handle):
        """Opens or closes without force."""
        return self._end(handle, Move.Result(), self._close_to(handle.request.width) == handle.request.width)

    def execute_grasp(self, handle):
        """Closes with force; done when something of about the wished width is held."""
        goal = handle.request
        width = self._close_to(goal.width)
        return self._end(handle, Grasp.Result(), width - goal.width <= goal.epsilon.outer)

    def execute_command(self, handle):
        """The way of MoveIt: a position per finger; the result tells the whole gap."""
        target = 2.0 * handle.request.command.position
        if not 0.0 <= target <= MAX_WIDTH:
            handle.abort()
            return GripperCommand.Result()
        opens = target >= self.width
        done = self._close_to(target) - target <= DEFAULT_EPSILON
        return self._end(handle, GripperCommand.Result(position=self.width, reached_goal=done), opens or done)

    def _close_to(self, width: float) -> float:
        if self.obeys:
            self.width = min(max(width, self.object_width), MAX_WIDTH)
        return self.width

    def _end(self, handle, result, done: bool):
        done = done and self.obeys
        if hasattr(result, "success"):
            result.success = done
        if done:
            handle.succeed()
        else:
            handle.abort()
        return result

    def publish_state(self) -> None:
        """Half of the gap per finger."""
        fingers = self.shown(np.array([self.width / 2.0] * 2))
        names = [f"fr3_finger_joint{i}" for i in (1, 2)]
        self.emit(self._states_out, conversions.joint_state_message(names, fingers, np.zeros(2), self.now_ns()))


if __name__ == "__main__":
    sys.exit(run(FakeFrankaGripper))
