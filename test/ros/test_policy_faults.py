"""What the policy does when its camera lies, its model fails or two people talk to it."""

import dataclasses

import numpy as np
import pytest
from policy_bench import KNOWN, OTHER, Gate, Policy

from openvla_ros import conversions, topics
from openvla_ros.topics import State


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


@pytest.fixture
def policy(world, tiny_checkpoint):
    return Policy(world, tiny_checkpoint).ready()


@pytest.fixture
def moving_joints(world):
    """A robot whose joints move."""
    publisher = world.peer.create_publisher(topics.JointState, topics.JOINT_STATES, topics.RECORD)
    joints = np.zeros(6)

    def publish() -> None:
        joints[0] += 0.002
        names = [f"joint{i}" for i in range(6)]
        now_ns = world.peer.get_clock().now().nanoseconds
        publisher.publish(conversions.joint_state_message(names, joints, np.zeros(6), now_ns))

    world.peer.create_timer(0.02, publish)


def test_a_picture_that_stands_still_while_the_robot_moves_is_not_believed(policy, camera, moving_joints):
    policy.say(KNOWN)
    policy.wait_for_chunks(1)
    camera.picture = np.full((112, 112, 3), 90, np.uint8)
    camera.picture[:50] = 200
    status = policy.wait_for_code("CAM_FROZEN")
    assert status.state == State.HOLD and "/camera/image_raw" in status.sentence
    count = policy.node.figures.counts["chunks"]
    policy.wait_for_frames(10)
    assert policy.node.figures.counts["chunks"] == count
    camera.picture = None
    policy.wait_for_code("OK")


def test_a_picture_may_stand_still_while_the_robot_does(policy, camera):
    camera.picture = np.full((112, 112, 3), 90, np.uint8)
    camera.picture[:50] = 200
    policy.say(KNOWN)
    policy.wait_for_frames(35)
    assert policy.statuses[-1].code == "OK"


def test_the_picture_of_another_camera_is_not_acted_on(world, tiny_checkpoint, camera):
    policy = Policy(world, tiny_checkpoint, camera_frame_id="wrist").ready()
    policy.say(KNOWN)
    status = policy.wait_for_code("CAM_FRAME")
    assert "'camera'" in status.sentence and "'wrist'" in status.sentence
    assert not policy.chunks


def test_a_black_picture_is_acted_on_with_a_warning(policy, camera):
    camera.picture = np.zeros((112, 112, 3), np.uint8)
    policy.say(KNOWN)
    status = policy.wait_for_code("CAM_QUALITY")
    assert status.state == State.ACTIVE and "black" in status.sentence


def test_two_instructors_stop_the_policy_until_one_is_gone(policy, camera):
    policy.say(KNOWN)
    policy.wait_for_chunks(1)
    second = policy.world.peer.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)
    status = policy.wait_for_code("MULTI_PUB")
    assert status.state == State.HOLD and "/instruction" in status.sentence
    count = policy.node.figures.counts["chunks"]
    policy.say(OTHER)
    policy.wait_for_frames(10)
    assert policy.node.figures.counts["chunks"] == count and policy.node.instruction == KNOWN
    policy.world.peer.destroy_publisher(second)
    policy.wait_for_code("OK")


def test_an_instruction_from_before_the_start_moves_nothing(world, tiny_checkpoint, camera):
    """A latched publisher repeats its last sentence to everyone who joins."""
    latched = world.peer.create_publisher(topics.String, topics.INSTRUCTION, topics.LATCHED)
    latched.publish(conversions.text_message(KNOWN))
    policy = Policy(world, tiny_checkpoint)
    policy.wait_for_code("READY")
    policy.wait_for_frames(15)
    assert not policy.chunks and policy.node.instruction == ""
    world.peer.destroy_publisher(latched)


def fails(times: int, error: Exception, predict):
    """`predict`, which fails the first times."""
    left = [times]

    def attempt(image, instruction):
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return predict(image, instruction)

    return attempt


def test_a_gpu_that_is_full_once_costs_nothing_but_time(policy, camera):
    model = policy.node.model.policy
    model.predict = fails(1, OutOfMemoryError("CUDA out of memory"), model.predict)
    policy.say(KNOWN)
    policy.wait_for_chunks(1)
    assert not [s for s in policy.statuses if s.state == State.FAULT]


def test_a_gpu_that_stays_full_is_a_fault_the_process_survives(policy, camera):
    model = policy.node.model.policy
    model.predict = fails(2, OutOfMemoryError("CUDA out of memory"), model.predict)
    policy.say(KNOWN)
    assert policy.wait_for_code("GPU_OOM").state == State.FAULT
    assert policy.node.exit_code == 0
    assert policy.trigger("start")[0] is False
    policy.say(KNOWN)
    policy.wait_for_frames(10)
    assert not policy.chunks
    assert policy.trigger("reset")[0]
    policy.wait_for_code("READY")
    policy.say(KNOWN)
    policy.wait_for_chunks(1)


@pytest.mark.parametrize("value", [1.001, float("nan")])
def test_an_action_that_no_token_means_is_a_fault(policy, camera, value):
    model = policy.node.model.policy
    predict = model.predict

    def impossible(image, instruction):
        prediction = predict(image, instruction)
        values = prediction.normalized.values.copy()
        values[2] = value
        return dataclasses.replace(prediction, normalized=dataclasses.replace(prediction.normalized, values=values))

    model.predict = impossible
    policy.say(KNOWN)
    assert policy.wait_for_code("ACT_IMPOSSIBLE").state == State.FAULT
    assert not policy.chunks


def test_a_model_that_hangs_is_a_fault_and_then_the_end_of_the_process(policy, camera):
    gate = Gate(policy.node)
    model = policy.node.model
    model._hang_s = 0.3
    policy.say(KNOWN)
    assert policy.wait_for_code("MODEL_HANG").state == State.FAULT
    assert policy.node.exit_code == 0 and policy.node.hang_s > 0
    model._hopeless_s = 0.6
    policy.world.wait_for(lambda: policy.node.exit_code == 1, "the end")
    gate.opened.set()
    assert not policy.chunks


def test_a_process_that_hangs_without_letting_go_of_python_is_ended(start, tmp_path, monkeypatch):
    program = tmp_path / "hanging.py"
    program.write_text(
        "import ctypes, time\n"
        "from rclpy.node import Node\n"
        "from openvla_ros.node_support import run, steady_timer\n"
        "class Hanging(Node):\n"
        "    hang_s = 1.0\n"
        "    def __init__(self):\n"
        "        super().__init__('hanging')\n"
        "        steady_timer(self, 0.05, lambda: ctypes.PyDLL(None).sleep(60))\n"
        "raise SystemExit(run(Hanging, []))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    process = start("hanging")
    assert process.wait(30) == 1
    assert "Timeout" in process.log.read_text()
