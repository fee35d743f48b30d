"""Messages and our types carry the same facts: converting there and back loses nothing."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from openvla_core.errors import ActionError
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.conversions import Applied, Chunk, Scene, StatusReport
from openvla_ros.topics import State

NS = st.integers(0, 2**31 * 10**9 - 1)
NUMBER = st.floats(-1e6, 1e6)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


def assert_same(first, second) -> None:
    """Two dataclasses with equal fields, arrays and dictionaries of arrays included."""
    for field in dataclasses.fields(first):
        np.testing.assert_equal(getattr(second, field.name), getattr(first, field.name), field.name)


@given(NS)
def test_time_comes_back_to_the_nanosecond(stamp_ns):
    assert conversions.to_ns(conversions.to_time(stamp_ns)) == stamp_ns


@given(
    steps=st.integers(1, 4),
    dim=st.integers(1, 8),
    stamp_ns=NS,
    sequence=st.integers(0, 2**64 - 1),
    text=TEXT,
    seconds=st.floats(0, 100),
    data=st.data(),
)
def test_a_chunk_comes_back(steps, dim, stamp_ns, sequence, text, seconds, data):
    chunk = Chunk(
        stamp_ns=stamp_ns,
        frame="base",
        session_id="a1",
        sequence=sequence,
        instruction=text,
        convention="card",
        rate_hz=5.0,
        actions=data.draw(arrays(np.float64, (steps, dim), elements=NUMBER)),
        token_ids=data.draw(arrays(np.int64, (steps, dim), elements=st.integers(0, 32_000))),
        token_probabilities=data.draw(arrays(np.float64, (steps, dim), elements=st.sampled_from([0.0, 0.25, 1.0]))),
        inference_s=seconds,
    )
    back = conversions.to_chunk(conversions.chunk_message(chunk))
    assert_same(dataclasses.replace(chunk, inference_s=0.0), dataclasses.replace(back, inference_s=0.0))
    assert back.inference_s == pytest.approx(seconds, abs=1e-8)


@pytest.mark.parametrize(("dim", "count"), [(7, 6), (7, 0), (0, 7), (0, 0), (7, 13)])
def test_a_chunk_whose_numbers_form_no_steps_is_refused(dim, count):
    message = topics.ActionChunk(action_dim=dim, actions=[0.0] * count)
    with pytest.raises(ActionError, match="multiple"):
        conversions.to_chunk(message)


def test_a_chunk_without_tokens_is_still_a_chunk():
    chunk = conversions.to_chunk(topics.ActionChunk(action_dim=7, actions=[0.5] * 14))
    assert chunk.actions.shape == chunk.token_ids.shape == chunk.token_probabilities.shape == (2, 7)


def test_non_finite_actions_reach_the_controllers_check():
    chunk = conversions.to_chunk(topics.ActionChunk(action_dim=2, actions=[float("nan"), float("inf")]))
    assert not np.isfinite(chunk.actions).any()


@given(stamp_ns=NS, image_ns=NS, numbers=arrays(np.float64, 7, elements=NUMBER), reasons=st.lists(TEXT, max_size=3))
def test_an_applied_action_comes_back(stamp_ns, image_ns, numbers, reasons):
    applied = Applied(stamp_ns, "panda_link0", "a1", 3, image_ns, numbers[:3], numbers[3:6], numbers[6], tuple(reasons))
    message = conversions.applied_message(applied)
    assert_same(applied, conversions.to_applied(message))
    assert message.clipped == bool(reasons)
    assert message.photon_to_command_s == pytest.approx((stamp_ns - image_ns) * 1e-9)


@given(state=st.sampled_from(State), code=TEXT, sentence=TEXT, stamp_ns=NS)
def test_a_status_comes_back(state, code, sentence, stamp_ns):
    report = StatusReport(state, code, sentence, "pick", 5.0, 20.0, 30.5, 0.25, stamp_ns)
    message = conversions.status_message(report)
    assert conversions.to_status(message) == report
    assert message.state_name == state.name


def test_states_have_the_numbers_of_the_message():
    for state in State:
        assert getattr(topics.Status, state.name) == state.value


@given(arrays(np.float64, (3, 3), elements=NUMBER), NS)
def test_a_scene_comes_back(positions, stamp_ns):
    objects = dict(zip(["red cube", "green cube", "blue cube"], positions, strict=True))
    tcp = Pose(np.array([0.5, 0.0, 0.2]), np.array([1.0, 0.0, 0.0, 0.0]))
    scene = Scene(stamp_ns, "panda_link0", 7, objects, tcp, 0.5)
    back = conversions.to_scene(conversions.scene_message(scene))
    assert_same(dataclasses.replace(scene, tcp=None), dataclasses.replace(back, tcp=None))
    assert_same(scene.tcp, back.tcp)


def test_a_pose_keeps_its_frame_and_time():
    pose = Pose(np.array([0.1, -0.2, 0.3]), np.array([0.0, 0.6, 0.0, 0.8]))
    message = conversions.pose_message(pose, 1_500_000_001, "panda_link0")
    assert_same(pose, conversions.to_pose(message))
    assert (conversions.stamp_ns(message), conversions.frame_of(message)) == (1_500_000_001, "panda_link0")


@pytest.mark.parametrize("quaternion", [[0, 0, 0, 0], [0, 0, 0, 0.9], [np.nan, 0, 0, 1], [np.inf, 0, 0, 1]])
def test_a_pose_that_is_no_rotation_is_refused(quaternion):
    message = conversions.pose_message(Pose(np.zeros(3), np.array(quaternion)), 0, "base")
    with pytest.raises(ActionError, match="quaternion"):
        conversions.to_pose(message)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_position_that_is_not_finite_is_refused(value):
    message = conversions.pose_message(Pose(np.array([0, value, 0]), np.array([0.0, 0, 0, 1])), 0, "base")
    with pytest.raises(ActionError, match="finite"):
        conversions.to_pose(message)


@given(arrays(np.float64, 6, elements=NUMBER), NS)
def test_a_twist_carries_metres_and_radians_per_second_along_the_axes_of_its_frame(numbers, stamp_ns):
    message = conversions.twist_message(numbers[:3], numbers[3:], stamp_ns, "fr3_link0")
    linear, angular = message.twist.linear, message.twist.angular
    assert [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z] == numbers.tolist()
    assert (conversions.stamp_ns(message), conversions.frame_of(message)) == (stamp_ns, "fr3_link0")


def test_a_trajectory_is_one_point_that_starts_at_once():
    message = conversions.trajectory_message(["a", "b"], np.array([0.5, -0.25]), 1_040_000_000)
    (point,) = message.points
    assert message.joint_names == ["a", "b"] and list(point.positions) == [0.5, -0.25]
    assert conversions.stamp_ns(message) == 0 and conversions.to_ns(point.time_from_start) == 1_040_000_000
    assert not point.velocities and not point.accelerations, "an end velocity would be refused by default"


def test_joint_positions_are_taken_by_name():
    message = conversions.joint_state_message(["b", "finger", "a"], np.array([1.0, 0.02, 2.0]), np.zeros(3), 0)
    assert np.array_equal(conversions.to_joint_positions(message, ["a", "b"]), [2.0, 1.0])
    assert conversions.to_joint_positions(message, ["a", "c"]) is None
    message.position[0] = np.nan
    assert conversions.to_joint_positions(message, ["a", "b"]) is None
    assert np.array_equal(conversions.to_joint_positions(message, ["a"]), [2.0])


def test_an_image_comes_back_and_its_message_is_complete():
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    message = conversions.image_message(rgb[:, ::-1], 12, "camera")
    assert (message.height, message.width, message.step, message.encoding) == (5, 7, 21, "rgb8")
    assert np.array_equal(conversions.to_rgb(message), rgb[:, ::-1])


def test_a_received_picture_is_not_copied():
    message = conversions.image_message(np.zeros((5, 7, 3), np.uint8), 12, "camera")
    rgb = conversions.to_rgb(message)
    assert np.shares_memory(rgb, np.frombuffer(message.data, np.uint8))
    assert not np.shares_memory(rgb, conversions.to_rgb(conversions.image_message(rgb, 12, "camera")))


def test_cv_bridge_agrees_where_it_is_installed():
    bridge = pytest.importorskip("cv_bridge").CvBridge()
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for encoding in ("rgb8", "bgr8", "mono8", "bayer_rggb8"):
        stored = rgb[..., 0].copy() if encoding in ("mono8", "bayer_rggb8") else rgb
        message = bridge.cv2_to_imgmsg(stored, encoding)
        assert np.array_equal(conversions.to_rgb(message), bridge.imgmsg_to_cv2(message, "rgb8"))


def test_diagnostics_levels_follow_the_state():
    levels = {
        state: conversions.diagnostics_message("node", StatusReport(state, "X", "y"), {"a": "b"}).status[0].level
        for state in State
    }
    assert levels[State.ACTIVE] == levels[State.STANDBY] == topics.DiagnosticStatus.OK
    assert levels[State.HOLD] == topics.DiagnosticStatus.WARN
    assert levels[State.FAULT] == levels[State.ESTOP] == topics.DiagnosticStatus.ERROR
