"""Keys from a pseudo terminal become actions that the controller's card understands, and calls of the recorder."""

import os
import pty
import termios
from pathlib import Path

import numpy as np
import pytest

from openvla_core.conventions import load_convention
from openvla_core.errors import ConfigError
from openvla_core.jogging import STEP_M
from openvla_core.types import Pose
from openvla_ros import conversions, teleop, topics
from openvla_ros.keyboard import Keyboard, parse_keys
from openvla_ros.teleop import HELP, MOVES, Teleop

CARDS = Path(__file__).resolve().parents[2] / "config" / "conventions"
HOME = Pose(np.array([0.4, 0.0, 0.3]), np.array([1.0, 0.0, 0.0, 0.0]))


@pytest.fixture
def terminal():
    """The two ends of a pseudo terminal: where the person types, and what the program reads."""
    person, program = pty.openpty()
    yield person, program
    os.close(person)
    os.close(program)


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"w", ["w"]),
        (b"wwa", ["w", "w", "a"]),
        (b"\x1b[A\x1b[D", ["up", "left"]),
        (b"\x1b", ["escape"]),
        (b"\x1b[5~w", ["w"]),
        (b"\r \x7f", ["enter", "space", "backspace"]),
        (b"\x01\xc3\xa4w", ["\ufffd", "\ufffd", "w"]),
        (b"\x1b[", []),
        (b"", []),
    ],
)
def test_what_a_terminal_sends_becomes_keys(data, keys):
    assert [key for key in parse_keys(data) if key != "\ufffd"] == [key for key in keys if key != "\ufffd"]


def test_keys_arrive_without_enter_and_the_terminal_is_put_back(terminal):
    person, program = terminal
    before = termios.tcgetattr(program)
    with Keyboard(program) as keyboard:
        assert keyboard.read() == []
        os.write(person, b"w\x1b[A")
        assert keyboard.read() == ["w", "up"]
    assert termios.tcgetattr(program) == before


def test_without_a_terminal_it_says_what_to_do(tmp_path):
    with (tmp_path / "file").open("w") as file, pytest.raises(ConfigError, match="ros2 run openvla_ros teleop"):
        Keyboard(file.fileno())


def test_every_key_has_its_line_in_the_help():
    words = HELP.split()
    assert {key for key in MOVES if len(key) == 1} <= set(words)
    assert {"space", "+", "-", "n", "g", "enter", "1", "0", "x", "escape"} <= set(words)


class Steering:
    """A person at a terminal and a robot that stays where it is."""

    def __init__(self, world, terminal, card: str, instruction: str = "push the cube") -> None:
        from rclpy.parameter import Parameter

        self.world = world
        self.person = terminal[0]
        self.keyboard = Keyboard(terminal[1]).__enter__()
        self.said: list[str] = []
        self.card = load_convention(CARDS / f"{card}.yaml")
        values = {"convention": str(CARDS / f"{card}.yaml"), "instruction": instruction, "rate_hz": 20.0}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        arguments = ["--ros-args", "-r", "__node:=policy_node"]
        self.chunks = world.listen(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, topics.COMMAND, conversions.to_chunk)
        self.poses = world.peer.create_publisher(topics.PoseStamped, topics.CURRENT_POSE, topics.COMMAND)
        world.peer.create_timer(0.02, self.publish_pose)
        self.node = world.add(
            Teleop(self.keyboard.read, self.said.append, parameter_overrides=overrides, cli_args=arguments)
        )

    def publish_pose(self) -> None:
        now_ns = self.world.peer.get_clock().now().nanoseconds
        self.poses.publish(conversions.pose_message(HOME, now_ns, "base"))

    def press(self, keys: bytes) -> None:
        os.write(self.person, keys)

    def next_action(self, condition):
        """The newest action once it fulfils the condition."""

        def newest():
            if not self.chunks:
                return None
            action = self.card.action(self.chunks[-1].actions[0], HOME)
            return action if condition(action) else None

        return self.world.wait_for(newest, "the action")


@pytest.mark.parametrize("card", ["sim_tabletop", "bridge_orig", "libero"])
def test_keys_become_steps_in_the_convention_of_the_card(world, terminal, card):
    steering = Steering(world, terminal, card)
    steering.next_action(lambda action: action.gripper == 1.0)
    steering.press(b"we")
    action = steering.next_action(lambda action: np.linalg.norm(action.translation) > 1e-4)
    np.testing.assert_allclose(action.translation, [STEP_M, 0.0, STEP_M], atol=1e-9)
    steering.press(b" ")
    steering.next_action(lambda action: action.gripper == 0.0)


def test_without_keys_the_arm_is_told_to_stay(world, terminal):
    steering = Steering(world, terminal, "sim_tabletop")
    action = steering.next_action(lambda action: True)
    np.testing.assert_allclose(action.translation, 0.0, atol=1e-9)
    np.testing.assert_allclose(action.rotation, 0.0, atol=1e-9)


def test_nothing_is_sent_before_there_is_an_instruction(world, terminal):
    steering = Steering(world, terminal, "sim_tabletop", instruction="")
    world.wait_for(lambda: steering.node.board.report.code == "READY", "the node to be ready")
    assert not steering.chunks
    sentences = world.peer.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)
    world.wait_for(lambda: sentences.get_subscription_count(), "the listener")
    sentences.publish(conversions.text_message("push the red cube"))
    world.wait_for(lambda: steering.chunks, "an action")
    assert steering.chunks[-1].instruction == "push the red cube"


def test_recording_keys_call_the_recorder_and_say_its_answer(world, terminal):
    heard = []

    def serve(kind, name):
        def answer(request, response):
            heard.append((name, getattr(request, "data", None)))
            return conversions.reply(response, True, f"{name} done")

        world.peer.create_service(kind, f"recorder_node/{name}", answer)

    serve(topics.Trigger, "start_episode")
    serve(topics.SetBool, "end_episode")
    serve(topics.Trigger, "discard_episode")
    steering = Steering(world, terminal, "sim_tabletop")
    clients = [steering.node.start_episode, steering.node.end_episode, steering.node.discard_episode]
    world.wait_for(lambda: all(client.service_is_ready() for client in clients), "the services")
    for number, key in enumerate((b"\r", b"1", b"0", b"x"), start=1):
        steering.press(key)
        world.wait_for(lambda count=number: len(heard) == count, "the call")
    assert heard == [
        ("start_episode", None), ("end_episode", True), ("end_episode", False), ("discard_episode", None)
    ]  # fmt: skip
    world.wait_for(lambda: "discard_episode done" in steering.said, "the answer")


def test_a_recorder_that_is_not_there_is_told(world, terminal):
    steering = Steering(world, terminal, "sim_tabletop")
    steering.press(b"\r")
    world.wait_for(lambda: any("is not there" in line for line in steering.said), "the sentence")


def test_escape_ends_it(world, terminal):
    steering = Steering(world, terminal, "sim_tabletop")
    steering.press(b"\x1b")
    world.wait_for(lambda: steering.node.done, "the end")


def test_a_commanded_card_gets_steps_from_the_last_goal(world, terminal):
    steering = Steering(world, terminal, "metres_rotation_vector")
    steering.next_action(lambda action: True)
    steering.press(b"w")
    steering.next_action(lambda action: abs(action.translation[0] - STEP_M) < 1e-9)
    steering.next_action(lambda action: np.linalg.norm(action.translation) < 1e-9)


def test_it_runs_in_a_terminal_as_a_process(terminal, capsys, monkeypatch):
    monkeypatch.setattr(teleop, "run", lambda make, args: 0)
    monkeypatch.setattr("sys.stdin", os.fdopen(os.dup(terminal[1])))
    assert teleop.main([]) == 0
    assert "start an episode" in capsys.readouterr().out
