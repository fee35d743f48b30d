"""Two robots on one real, untrained tiny OpenVLA: each has what it would have alone."""

import threading

import numpy as np
import pytest
from policy_bench import KNOWN, OTHER, Listener
from rclpy.lifecycle import TransitionCallbackReturn

from openvla_core.errors import ConfigError, ImageError
from openvla_ros import conversions, topics
from openvla_ros.node_support import EXIT_CONFIG, EXIT_FAULT
from openvla_ros.policy_fleet import PolicyFleet, robot_names
from openvla_ros.shared_model import batch_sizes, filled_up
from openvla_ros.topics import State

SENTENCES = {"left": KNOWN, "right": OTHER}


class Robot(Listener):
    """What one robot of the fleet sees, says and hears."""

    def __init__(self, world, node, name: str) -> None:
        self.world, self.node, self.name, self.who = world, node, name, f"{name}: "
        listen, peer = world.listen, world.peer
        chunk_topic = f"{name}/{topics.POLICY_ACTION_CHUNK}"
        self.chunks = listen(topics.ActionChunk, chunk_topic, topics.COMMAND, conversions.to_chunk)
        self.statuses = listen(topics.Status, f"{name}/policy_node/status", topics.LATCHED, conversions.to_status)
        self.instructions = peer.create_publisher(topics.String, f"{name}/{topics.INSTRUCTION}", topics.COMMAND)
        self.images = peer.create_publisher(topics.Image, f"{name}/{topics.CAMERA_IMAGE}", topics.SENSOR)
        self.random = np.random.default_rng(len(name))
        self.shown: dict[int, np.ndarray] = {}
        peer.create_timer(0.05, self.show)

    def show(self) -> None:
        """One frame of this robot's camera."""
        stamp_ns = self.world.peer.get_clock().now().nanoseconds
        rgb = self.random.integers(0, 256, (112, 112, 3), dtype=np.uint8)
        self.shown[stamp_ns] = rgb
        self.images.publish(conversions.image_message(rgb, stamp_ns, f"{self.name}_camera"))


class Fleet:
    """The process under test, in this one."""

    def __init__(self, world, checkpoint, *parameters: str, robots: str = "left,right") -> None:
        given = (f"checkpoint:={checkpoint}", "max_observation_age_s:=5.0", "rate_hz:=20.0", *parameters)
        options = [part for text in (f"robots:={robots}", *given) for part in ("-p", text)]
        self.world = world
        self.node = world.add(PolicyFleet(["--ros-args", *options]))
        for each in self.node.nodes_beside:
            world.executor.add_node(each)
        self.robots = {name: Robot(world, member, name) for name, member in self.node.members.items()}

    def ready(self) -> "Fleet":
        for robot in self.robots.values():
            robot.ready()
        return self

    @property
    def policy(self):
        return self.robots["left"].node.model.policy

    def gate(self) -> "Gate":
        return Gate(self.policy)

    def follow(self) -> None:
        """Every robot has its own sentence and acts."""
        for name, robot in self.robots.items():
            robot.say(SENTENCES[name])
        for robot in self.robots.values():
            robot.wait_for_chunks(1)


class Gate:
    """Holds every batch until it is opened, and remembers the sentences of each."""

    def __init__(self, policy) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []
        predict_batch = policy.predict_batch

        def gated(questions):
            self.batches.append([sentence for _, sentence in questions])
            self.entered.set()
            assert self.opened.wait(60)
            return predict_batch(questions)

        policy.predict_batch = gated


@pytest.fixture
def fleet(world, tiny_checkpoint):
    return Fleet(world, tiny_checkpoint).ready()


def alone(fleet, robot, chunk):
    """What the policy makes of a chunk's frame by itself."""
    return fleet.policy.predict(robot.shown[chunk.stamp_ns], chunk.instruction)


def test_two_robots_get_their_own_actions_and_each_is_what_it_would_be_alone(fleet):
    robots = fleet.robots
    assert robots["left"].node.model.policy is robots["right"].node.model.policy, "one model"
    fleet.follow()
    chunks = {name: robot.wait_for_chunks(3) for name, robot in robots.items()}
    for robot in robots.values():  # nobody computes while the answers are looked at: a policy is for one thread
        robot.say("")
        robot.wait_for_code("INSTRUCTION_REFUSED")
        fleet.world.wait_for(lambda robot=robot: robot.node.model.idle, "the end of the last answer")
    for name, robot in robots.items():
        assert {chunk.instruction for chunk in chunks[name]} == {SENTENCES[name]}
        for chunk in chunks[name]:
            prediction = alone(fleet, robot, chunk)
            assert np.array_equal(chunk.token_ids[0], prediction.tokens.ids)
            assert np.array_equal(chunk.actions[0], prediction.action)
    sessions = {name: {chunk.session_id for chunk in of} for name, of in chunks.items()}
    assert sessions["left"].isdisjoint(sessions["right"]) and all(len(ids) == 1 for ids in sessions.values())


def test_what_waits_gives_way_to_a_newer_frame(fleet):
    left, right = fleet.robots.values()
    gate = fleet.gate()
    left.say(KNOWN)
    fleet.world.wait_for(gate.entered.is_set, "a batch")
    assert gate.batches == [[KNOWN]]
    right.say(OTHER)
    fleet.world.wait_for(lambda: right.node.model.waiting, "a request in the line")
    first = max(right.shown)
    fleet.world.wait_for(lambda: int(fleet.node.details()["replaced"]) >= 3, "newer frames")
    assert not left.node.model.idle and not left.node.model.waiting, "its own frame is looked at already"
    gate.opened.set()
    assert right.wait_for_chunks(1)[0].stamp_ns > first
    left.wait_for_chunks(1)


def test_robots_that_ask_together_are_answered_in_one_batch(world, tiny_checkpoint):
    """With a window to gather; without one, two robots soon take turns."""
    fleet = Fleet(world, tiny_checkpoint, "gather_s:=0.5").ready()
    fleet.follow()
    world.wait_for(lambda: int(fleet.node.details().get("batches_of_2", 0)) >= 3, "batches of two")
    assert fleet.node.details()["robots"] == "2"
    for name, robot in fleet.robots.items():
        assert {chunk.instruction for chunk in robot.wait_for_chunks(1)} == {SENTENCES[name]}


def test_stopping_one_robot_leaves_the_other_running(fleet):
    left, right = fleet.robots.values()
    fleet.follow()
    assert conversions.replied(fleet.world.call(topics.Trigger, "left/policy_node/stop"))[0]
    right.wait_for_chunks(3)
    assert left.statuses[-1].code == "READY" and right.node.is_following()

    # All of its lifecycle, while the other one acts.
    assert left.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert left.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    policy = right.node.model.policy
    right.wait_for_chunks(3)
    assert left.node.model is None and fleet.node.exit_code == 0
    assert left.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert left.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert left.node.model.policy is policy, "nothing is loaded a second time"
    left.say(KNOWN)
    left.wait_for_chunks(1)
    right.wait_for_chunks(1)


def test_the_model_goes_with_the_last_robot_and_may_then_be_another(fleet, world):
    for robot in fleet.robots.values():
        assert robot.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert robot.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert fleet.node.details() == {"robots": "0"}
    left, right = (robot.node for robot in fleet.robots.values())
    from rclpy.parameter import Parameter

    assert left.set_parameters([Parameter("decoding", value="reference")])[0].successful
    assert left.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert left.model.policy.decoder.decoding == "reference"
    assert right.trigger_configure() != TransitionCallbackReturn.SUCCESS
    assert "decoding is 'constrained', but 'reference' for the others" in right.board.report.sentence


def test_a_frame_that_breaks_the_model_ends_only_its_robots_policy_until_it_is_activated_anew(fleet):
    left, right = fleet.robots.values()
    predict_batch = fleet.policy.predict_batch
    broken = [True]

    def sometimes(questions):
        if broken and any(sentence == KNOWN for _, sentence in questions):
            raise RuntimeError("this one and no other")
        return predict_batch(questions)

    fleet.policy.training_instructions = (OTHER, KNOWN)  # the question of the check is a good one
    fleet.policy.predict_batch = sometimes
    right.say(OTHER)
    right.wait_for_chunks(1)
    left.say(KNOWN)
    status = left.wait_for_code("FAULT")
    assert "the other robots go on" in status.sentence
    right.wait_for_chunks(3)
    assert left.node.exit_code == EXIT_FAULT and fleet.node.exit_code == 0
    broken.clear()
    assert left.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert left.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    left.say(KNOWN)
    left.wait_for_chunks(1)


def test_a_model_that_answers_nobody_ends_the_process(fleet):
    def dead(questions):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    fleet.policy.predict_batch = dead
    fleet.robots["left"].say(KNOWN)
    fleet.world.wait_for(lambda: fleet.node.exit_code, "the end")
    assert fleet.node.exit_code == EXIT_FAULT and fleet.robots["right"].node.exit_code == 0


def test_a_batch_that_hangs_is_a_fault_of_every_robot_that_waits_and_then_the_end(fleet):
    gate = fleet.gate()
    for name, robot in fleet.robots.items():
        robot.node.model._hang_s = 0.3
        robot.say(SENTENCES[name])
    for robot in fleet.robots.values():
        assert robot.wait_for_code("MODEL_HANG").state == State.FAULT
    assert fleet.node.exit_code == 0
    fleet.robots["left"].node.model._hopeless_s = 0.6
    fleet.world.wait_for(lambda: fleet.node.exit_code == EXIT_FAULT, "the end")
    gate.opened.set()


def test_an_image_that_waited_for_too_long_is_never_acted_on(fleet):
    left, right = fleet.robots.values()
    gate = fleet.gate()
    left.say(KNOWN)
    fleet.world.wait_for(gate.entered.is_set, "a batch")
    submit = fleet.node.model._batcher.submit
    fleet.node.model._batcher.submit = lambda robot, job, deadline_s, behind: submit(robot, job, 0.0, behind)
    right.say(OTHER)
    fleet.world.wait_for(lambda: right.node.model.waiting, "a request in the line")
    gate.opened.set()
    status = right.wait_for_code("MODEL_LATE")
    assert status.state == State.HOLD and "fewer robots" in status.sentence
    assert not right.chunks and right.node.exit_code == 0
    fleet.node.model._batcher.submit = submit
    right.wait_for_chunks(1)
    assert right.wait_for_code("OK")


def test_a_picture_that_is_none_costs_only_its_robot_an_action(fleet):
    left, right = fleet.robots.values()
    predict_batch = fleet.policy.predict_batch

    def refuses(questions):
        answers = predict_batch(questions)
        return [ImageError("no picture") if q[1] == KNOWN else a for q, a in zip(questions, answers, strict=True)]

    fleet.policy.predict_batch = refuses
    left.say(KNOWN)
    right.say(OTHER)
    assert "no picture" in left.wait_for_code("CAM_IMAGE").sentence
    right.wait_for_chunks(2)
    assert not left.chunks


def test_robots_that_want_different_models_are_refused_before_anything_is_loaded(world, tiny_checkpoint, tmp_path):
    path = tmp_path / "robots.yaml"
    path.write_text("/right/policy_node:\n  ros__parameters:\n    temperature: 0.5\n    rate_hz: 3.0\n")
    given = ["--ros-args", "-p", "robots:=left,right", "-p", f"checkpoint:={tiny_checkpoint}"]
    with pytest.raises(ConfigError, match=r"right: temperature is 0.5, but 0.0 for left.* the same temperature,"):
        PolicyFleet([*given, "--params-file", str(path)])


def test_a_wrong_value_names_its_robot(world, tmp_path):
    path = tmp_path / "robots.yaml"
    path.write_text("/right/policy_node:\n  ros__parameters:\n    rate_hz: 300.0\n")
    with pytest.raises(ConfigError, match="right: rate_hz is 300"):
        PolicyFleet(["--ros-args", "-p", "robots:=left,right", "--params-file", str(path)])


def test_a_checkpoint_that_cannot_be_used_ends_the_process_as_a_wrong_setting(world, tmp_path):
    fleet = Fleet(world, tmp_path / "none")
    world.wait_for(lambda: fleet.node.exit_code, "the end")
    assert fleet.node.exit_code == EXIT_CONFIG


@pytest.mark.parametrize(
    ("text", "part"), [("", "empty"), (" , ", "empty"), ("a,b,a", "'a' twice"), ("1st", "'1st'"), ("a b", "'a b'")]
)
def test_names_that_cannot_be_namespaces_are_refused(text, part):
    with pytest.raises(ConfigError, match=part):
        robot_names(text)


def test_names_may_have_blanks_and_slashes():
    assert robot_names(" left, cell/right ,/third/") == ["left", "cell/right", "/third"]


def test_on_cuda_batches_have_few_sizes():
    assert batch_sizes(8, on_cuda=True) == (1, 2, 4, 8)
    assert batch_sizes(6, on_cuda=True) == (1, 2, 4, 6)
    assert batch_sizes(1, on_cuda=True) == (1,)
    assert filled_up("abc", (1, 2, 4, 6)) == ["a", "b", "c", "c"]
    assert filled_up("abcde", (1, 2, 4, 6)) == ["a", "b", "c", "d", "e", "e"]
    assert filled_up("abc", batch_sizes(8, on_cuda=False)) == ["a", "b", "c"]
