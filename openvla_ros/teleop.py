"""Steers the arm by keys, through the controller and all its limits, and begins and ends recordings.

It takes the policy's place: run it as the node policy_node, with no policy running.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter

from openvla_core.config import setting
from openvla_core.conventions import load_convention
from openvla_core.errors import ActionError, ConventionError
from openvla_core.jogging import JogGoal
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.action_source import ActionSource
from openvla_ros.keyboard import Keyboard
from openvla_ros.node_support import run
from openvla_ros.parameters import declare_settings
from openvla_ros.status_board import StatusBoard
from openvla_ros.timing import steady_timer
from openvla_ros.topics import State

HELP = """\
  w s  forward, back     i k  tilt (pitch)    space  gripper     enter  start an episode
  a d  left, right       j l  turn (yaw)      + -    speed       1      end it: success
  e q  up, down          u o  roll            n      new scene   0      end it: failure
  escape  quit           g    go: the arm follows (real robots)  x      discard it
"""
MOVES = {
    "w": ("x", 1), "s": ("x", -1), "a": ("y", 1), "d": ("y", -1), "e": ("z", 1), "q": ("z", -1),
    "up": ("x", 1), "down": ("x", -1), "left": ("y", 1), "right": ("y", -1),
    "u": ("roll", 1), "o": ("roll", -1), "i": ("pitch", 1), "k": ("pitch", -1), "j": ("yaw", 1), "l": ("yaw", -1),
}  # fmt: skip
KEYS_S = 0.02
STALE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class TeleopSettings:
    """Parameters of teleop."""

    convention: str = setting("", "Path of the action convention card; empty asks the controller for its own")
    rate_hz: float = setting(10.0, "Actions per second", unit="Hz", minimum=1.0, maximum=50.0)
    instruction: str = setting("", "What the robot is made to do; empty waits for the topic instruction")


class Teleop(Node):
    """Publishes one action per period: from where the arm is to where the keys have moved the goal.

    Args:
        read_keys: returns the keys pressed since it was last called. say: shows the person one line.
    """

    def __init__(self, read_keys: Callable[[], list[str]], say: Callable[[str], None], **node_arguments) -> None:
        super().__init__("teleop", **node_arguments)
        self.settings = declare_settings(self, TeleopSettings)
        self.done = False
        self.goal = JogGoal()
        self.source: ActionSource | None = None
        self.last_end: Pose | None = None
        self.measured: tuple[Pose, int, float] | None = None  # pose, its stamp (ns), when it came (monotonic s)
        self.waiting_for_card = False
        self._read_keys = read_keys
        self._say = say
        self.board = StatusBoard(self, self.measure)
        self.create_subscription(topics.PoseStamped, topics.CURRENT_POSE, self.on_pose, topics.SENSOR)
        self.create_subscription(topics.String, topics.INSTRUCTION, self.on_instruction, topics.COMMAND)
        client = self.create_client
        self.get_card = client(topics.GetParameters, "controller_node/get_parameters")
        self.start_episode = client(topics.Trigger, "recorder_node/start_episode")
        self.end_episode = client(topics.SetBool, "recorder_node/end_episode")
        self.discard_episode = client(topics.Trigger, "recorder_node/discard_episode")
        self.stop_controller = client(topics.Trigger, "controller_node/stop")
        self.reset_controller = client(topics.Trigger, "controller_node/reset")
        self.start_controller = client(topics.Trigger, "controller_node/start")
        self.set_scene = client(topics.SetParameters, "sim_node/set_parameters")
        self.reset_scene = client(topics.Trigger, "sim_node/reset")
        self.create_service(topics.Trigger, topics.STOP, self.on_stop)
        if self.settings.convention:
            self.use_card(self.settings.convention)
        steady_timer(self, KEYS_S, self.on_keys)
        steady_timer(self, 1.0 / self.settings.rate_hz, self.on_act)
        self.board.set(State.STANDBY, "STARTING", "Waiting for the controller and the robot.")

    # What the person does -------------------------------------------------------------------------------------------

    def on_keys(self) -> None:
        for key in self._read_keys():
            self.on_key(key)

    def on_key(self, key: str) -> None:
        """Does what one key stands for; a key that stands for nothing is ignored."""
        if key in MOVES:
            self.goal.step(*MOVES[key])
        elif key == "space":
            self.goal.toggle_gripper()
            self._say("gripper opens" if self.goal.opening else "gripper closes")
        elif key in ("+", "=", "-"):
            self.goal.change_speed(-1 if key == "-" else 1)
            self._say(f"speed {self.goal.speed:g}")
        elif key == "enter":
            self.call(self.start_episode)
        elif key in ("1", "0"):
            self.call(self.end_episode, topics.SetBool.Request(data=key == "1"))
        elif key == "x":
            self.call(self.discard_episode)
        elif key == "n":
            self.new_scene()
        elif key == "g":
            self.call(self.start_controller)
        elif key == "escape":
            self.done = True

    def call(self, client, request=None, then: Callable[[], None] = lambda: None) -> None:
        """Calls a service and says what it answered; `then` follows when it agreed."""
        if not client.service_is_ready():
            self._say(f"{client.srv_name} is not there; is its node running?")
            return

        def answer(future) -> None:
            agreed, sentence = True, ""
            if hasattr(future.result(), "success"):
                agreed, sentence = conversions.replied(future.result())
            if sentence:
                self._say(sentence)
            if agreed:
                then()

        client.call_async(request or client.srv_type.Request()).add_done_callback(answer)

    def new_scene(self) -> None:
        """Lays out another scene in the simulation; the controller is silent meanwhile and then follows again."""
        seed = int.from_bytes(os.urandom(3), "little")
        parameter = Parameter("scene_seed", value=seed).to_parameter_msg()

        def start() -> None:
            self.goal.forget()
            self.goal.opening = 1.0
            self.last_end = None
            self.call(self.start_controller)

        def reset_controller() -> None:
            self.call(self.reset_controller, then=start)

        def reset_scene() -> None:
            self.call(self.reset_scene, then=reset_controller)

        def set_scene() -> None:
            self.call(self.set_scene, topics.SetParameters.Request(parameters=[parameter]), then=reset_scene)

        self.call(self.stop_controller, then=set_scene)

    # What the graph says --------------------------------------------------------------------------------------------

    def on_pose(self, message) -> None:
        try:
            self.measured = (conversions.to_pose(message), conversions.stamp_ns(message), time.monotonic())
        except ActionError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)

    def on_instruction(self, message) -> None:
        if self.source is not None:
            self.source.follow(conversions.to_text(message).strip())

    def on_stop(self, request, response):
        self.goal.forget()
        if self.source is not None:
            self.source.follow("")
        return conversions.reply(response, True, "Stopped: waiting for an instruction.")

    def use_card(self, path: str) -> None:
        """Publishes actions of this convention from now on. Raises ConventionError."""
        self.source = ActionSource(self, load_convention(path), self.settings.rate_hz)
        self.source.follow(self.settings.instruction)

    def ask_for_card(self) -> None:
        """Asks the controller for the card it follows, once."""
        if self.waiting_for_card or not self.get_card.service_is_ready():
            return
        self.waiting_for_card = True

        def answer(future) -> None:
            try:
                self.use_card(conversions.parameter_values(future.result())[0])
            except (ConventionError, IndexError, TypeError) as error:
                sentence = f"The controller's card cannot be read ({error}); set the parameter convention."
                self.board.set(State.FAULT, "CONVENTION_REFUSED", sentence)
                self._say(sentence)

        request = topics.GetParameters.Request(names=["convention"])
        self.get_card.call_async(request).add_done_callback(answer)

    # Actions --------------------------------------------------------------------------------------------------------

    def on_act(self) -> None:
        if self.source is None:
            self.ask_for_card()
        elif not self.source.instruction:
            self.board.set(State.STANDBY, "READY", "Waiting for an instruction: say what the robot is to do.")
        elif self.measured is None or time.monotonic() - self.measured[2] > STALE_S:
            topic = self.resolve_topic_name(topics.CURRENT_POSE)
            self.board.set(State.HOLD, "POSE_STALE", f"No pose on {topic} for {STALE_S:g} s.")
        else:
            pose, stamp_ns, _ = self.measured
            self.act(self.source, pose, stamp_ns)
            self.board.set(State.ACTIVE, "OK", f"Steering by keys: {self.source.instruction!r}.")

    def act(self, source: ActionSource, measured: Pose, stamp_ns: int) -> None:
        """Publishes the step to the goal from where the card's steps begin."""
        end = self.goal.near(measured)
        commanded = source.card.reference == "commanded" and self.last_end is not None
        source.act(self.last_end if commanded else measured, end, self.goal.opening, stamp_ns)  # type: ignore[arg-type]
        self.last_end = end

    def measure(self) -> dict[str, Any]:
        return {"instruction": self.source.instruction if self.source else "", "rate_hz": self.settings.rate_hz}


def say(line: str) -> None:
    """Shows one line; the terminal is not in its ordinary mode."""
    sys.stdout.write(f"\r{line}\n")
    sys.stdout.flush()


def main(args: Sequence[str] | None = None) -> int:
    """Entry point: takes the keys of this terminal until escape or Ctrl-C."""
    with Keyboard() as keyboard:
        say(HELP)
        return run(lambda: Teleop(keyboard.read, say), args)


if __name__ == "__main__":
    sys.exit(main())
