"""The simulation's scripted expert in the policy's place: the same topics, the true state instead of a picture."""

import sys
from dataclasses import dataclass

import numpy as np
from rclpy.node import Node

from openvla_core.config import setting
from openvla_core.conventions import load_convention
from openvla_core.sim.expert import expert_action
from openvla_core.sim.tasks import PHRASINGS, Task, parse_instruction
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.action_source import ActionSource
from openvla_ros.conversions import Scene
from openvla_ros.node_support import run
from openvla_ros.parameters import declare_settings
from openvla_ros.status_board import StatusBoard
from openvla_ros.timing import RateWindow, steady_timer
from openvla_ros.topics import State


@dataclass(frozen=True, kw_only=True)
class ExpertSettings:
    """Parameters of the expert."""

    convention: str = setting("", "Path of the action convention card; the controller must follow the same one")
    rate_hz: float = setting(
        0.0, "Actions per second; 0 takes the rate of the card", unit="Hz", minimum=0.0, maximum=50.0
    )


class ExpertNode(Node):
    """Does what the instruction says, as a demonstrator would, until another instruction comes or ~/stop is called."""

    def __init__(self, **node_arguments) -> None:
        super().__init__("expert_node", **node_arguments)
        self.settings = declare_settings(self, ExpertSettings)
        card = load_convention(self.settings.convention)
        self.rate_hz = self.settings.rate_hz or card.rate_hz
        self.task: Task | None = None
        self.due = False
        self.acted = RateWindow()
        self.source = ActionSource(self, card, self.rate_hz)
        self.board = StatusBoard(self, self.measure)
        self.create_subscription(topics.String, topics.INSTRUCTION, self.on_instruction, topics.COMMAND)
        self.create_subscription(topics.SceneState, "sim_node/scene_state", self.on_scene, topics.RECORD)
        self.create_service(topics.Trigger, topics.STOP, self.on_stop)
        steady_timer(self, 1.0 / self.rate_hz, self.on_due)
        self.board.set(State.STANDBY, "READY", "Ready: waiting for an instruction.")

    def on_instruction(self, message) -> None:
        text = conversions.to_text(message).strip()
        if text == self.source.instruction:
            return
        self.task = parse_instruction(text)
        self.source.follow(text if self.task else "")
        if self.task is None:
            known = "; ".join(wordings[0].format(color="red") for wordings in PHRASINGS.values())
            self.board.set(
                State.STANDBY, "INSTRUCTION_REFUSED", f"The expert cannot do {text[:80]!r}. It knows: {known}."
            )
        else:
            self.board.set(State.ACTIVE, "OK", f"Following {text!r} at {self.rate_hz:g} Hz.")

    def on_due(self) -> None:
        self.due = True

    def on_scene(self, message) -> None:
        if self.task is not None and self.due:
            self.due = False
            self.act(conversions.to_scene(message))

    def act(self, scene: Scene) -> None:
        """Publishes what the expert does in this state."""
        assert self.task is not None
        tool = scene.tcp
        action = expert_action(self.task, tool.position, scene.gripper_opening, scene.objects[self.task.object_name])
        end = Pose(tool.position + action[:3], tool.quaternion)
        self.source.act(tool, end, float(np.clip(action[6], 0.0, 1.0)), scene.stamp_ns)
        self.acted.add()

    def on_stop(self, request, response):
        self.task = None
        self.source.follow("")
        self.board.set(State.STANDBY, "READY", "Stopped: waiting for an instruction.")
        return conversions.reply(response, True, "The expert has stopped.")

    def measure(self) -> dict:
        return {"instruction": self.source.instruction, "rate_hz": self.acted.rate_hz()}


def main(args: list[str] | None = None) -> int:
    """Entry point of the process."""
    return run(ExpertNode, args)


if __name__ == "__main__":
    sys.exit(main())
