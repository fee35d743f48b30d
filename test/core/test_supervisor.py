"""When the arm may move: the supervisor with an arm that follows its commands exactly, on a clock of our own."""

import dataclasses
import math

import numpy as np
import pytest
from supervisor_bench import CARD, FORWARD, HOME, SETTINGS, TICK, Bench, Chunk

from openvla_core.errors import ConventionError
from openvla_core.supervisor import State, Supervisor, action_timeout_s


def test_the_first_command_is_the_measured_pose():
    bench = Bench()
    first = next(command for command in bench.sent if command is not None)
    assert np.array_equal(first.safe.pose.position, HOME.position)
    assert first.safe.gripper is None


def test_an_action_moves_the_arm_by_its_translation():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.3)
    assert np.allclose(bench.arm.position - HOME.position, [0.03, 0.0, 0.0], atol=1e-4)


def test_a_step_starts_where_the_arm_was_when_the_image_was_taken():
    """The arm moved on while the model was thinking; adding the step to its present pose would count that twice."""
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.2)
    moved_meanwhile = bench.arm.position - HOME.position
    bench.act(age_s=0.2)
    bench.run(0.3)
    assert np.linalg.norm(moved_meanwhile) > 0.02
    assert np.allclose(bench.arm.position - HOME.position, [0.03, 0.0, 0.0], atol=1e-4)


def test_with_a_commanded_reference_steps_add_up():
    bench = Bench(card=dataclasses.replace(CARD, reference="commanded"))
    for _ in range(4):
        bench.act(age_s=0.05)
        bench.run(0.2)
    bench.run(0.1)
    assert np.allclose(bench.arm.position - HOME.position, [0.12, 0.0, 0.0], atol=1e-3)


def test_each_accepted_action_is_reported_once():
    bench = Bench()
    for _ in range(3):
        bench.act(age_s=0.0)
        bench.run(0.2)
    started = [command.started for command in bench.sent if command is not None and command.started is not None]
    assert [action.sequence for action in started] == [0, 1, 2]
    assert np.allclose(started[0].translation, [0.03, 0.0, 0.0])
    assert started[0].reasons == ()


def test_a_shortened_action_says_why():
    bench = Bench()
    bench.act((0.08, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), age_s=0.0)
    bench.run(0.1)
    started = next(command.started for command in bench.sent if command is not None and command.started is not None)
    assert np.isclose(np.linalg.norm(started.translation), SETTINGS.max_translation)
    assert started.reasons and bench.supervisor.progress.clip_rate == 1.0


@pytest.mark.parametrize("rate_hz", [2.0, 5.0, 20.0])
def test_silence_of_the_policy_ends_in_a_hold_after_the_time_out(rate_hz):
    bench = Bench()
    bench.act(age_s=0.0, rate_hz=rate_hz)
    timeout_s = action_timeout_s(rate_hz)
    bench.run(timeout_s - TICK)
    assert bench.verdict.state == State.ACTIVE
    bench.run(2 * TICK)
    assert (bench.verdict.state, bench.verdict.code) == (State.HOLD, "ACTION_STALE")
    bench.run(0.2)
    assert bench.travel(1.0) == 0.0


def test_time_out_is_one_and_a_half_periods_between_a_tenth_and_four_tenths_of_a_second():
    assert [action_timeout_s(rate) for rate in (2.0, 5.0, 10.0, 50.0)] == pytest.approx([0.4, 0.3, 0.15, 0.1])


def test_an_action_is_not_carried_out_beyond_the_age_of_its_image():
    """A camera that stopped must end in a hold 0.5 s later even when the last inference took most of that."""
    bench = Bench()
    bench.act(age_s=0.4)
    assert bench.verdict.state == State.ACTIVE
    bench.run(0.12)
    assert (bench.verdict.state, bench.verdict.code) == (State.HOLD, "OBS_STALE")


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_latches_a_fault_and_moves_nothing(index, value):
    bench = Bench()
    row = list(FORWARD)
    row[index] = value
    bench.act(row)
    assert (bench.verdict.state, bench.verdict.code) == (State.FAULT, "ACT_NONFINITE")
    bench.act(FORWARD)
    assert bench.travel(0.5) == 0.0
    assert all(command.safe.gripper is None for command in bench.sent if command is not None)


def test_reset_clears_a_fault_and_starts_from_the_measured_pose():
    bench = Bench()
    bench.act([math.nan] * 7)
    bench.arm_follows = False
    bench.push([0.02, 0.01, 0.0])
    bench.run(0.1)
    assert np.array_equal(bench.sent[-1].safe.pose.position, HOME.position)
    assert bench.supervisor.reset(bench.now_s)[0]
    measured = bench.arm.position.copy()
    bench.run(TICK)
    assert np.array_equal(bench.sent[-1].safe.pose.position, measured)
    bench.act(age_s=0.0)
    assert bench.verdict.state == State.ACTIVE


def test_reset_without_a_fresh_pose_is_refused():
    bench = Bench()
    bench.arm_talks = False
    bench.run(0.5)
    done, sentence = bench.supervisor.reset(bench.now_s)
    assert not done and "pose" in sentence


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"convention": "bridge_orig"}, "CONVENTION_MISMATCH"),
        ({"frame": "camera"}, "FRAME_MISMATCH"),
        ({"actions": np.zeros((1, 6))}, "ACT_SHAPE"),
        ({"actions": np.zeros((1, 8))}, "ACT_SHAPE"),
        ({"actions": np.zeros((0, 7))}, "ACT_SHAPE"),
        ({"age_s": 0.6}, "OBS_STALE"),
        ({"age_s": -1.0}, "OBS_FUTURE"),
        ({"row": (0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)}, "ACT_TOO_LARGE"),
        ({"row": (0.0, 0.0, 0.0, 0.0, 6.29, 0.0, 1.0)}, "ACT_TOO_LARGE"),
        ({"row": (0.0, 1e308, 1e308, 1e308, 1e308, 1e308, 1.0)}, "ACT_TOO_LARGE"),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused_with_its_reason(changes, code):
    bench = Bench()
    bench.act(**changes)
    assert bench.verdict.code == code
    assert bench.verdict.state in (State.HOLD, State.FAULT)
    assert bench.travel(0.3) == 0.0


def test_a_good_action_after_a_refused_one_moves_the_arm():
    bench = Bench()
    bench.act(age_s=0.6)
    bench.act(age_s=0.0)
    assert bench.verdict.state == State.ACTIVE


def test_sequence_numbers_never_go_back_within_a_session():
    bench = Bench()
    bench.act(sequence=5)
    bench.run(1.0)
    bench.act(sequence=5)
    assert bench.verdict.code == "SEQ_BACKWARDS"
    bench.act(sequence=0, session_id="second", age_s=0.0)
    assert bench.verdict.state == State.ACTIVE
    bench.run(1.0)
    bench.act(sequence=6, session_id="first")
    assert bench.verdict.code == "SESSION_OVER"


def test_a_silent_robot_holds_and_is_not_taken_up_again_by_itself():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.arm_talks = False
    bench.run(0.12)
    assert (bench.verdict.state, bench.verdict.code) == (State.HOLD, "POSE_STALE")
    bench.arm_talks = True
    bench.run(0.04)
    assert bench.verdict.state == State.HOLD


@pytest.mark.parametrize("frame", ["", "world"])
def test_a_pose_in_another_frame_does_not_count(frame):
    supervisor = Supervisor(SETTINGS, CARD)
    supervisor.start(0.0)
    supervisor.on_pose(HOME, 1, frame, 0.0)
    assert supervisor.tick(0.0) is None
    assert supervisor.verdict(0.0).code == "POSE_STALE"


def test_a_second_publisher_before_any_action_holds_until_it_is_gone():
    bench = Bench()
    bench.supervisor.on_publishers(2, bench.now_s)
    assert (bench.verdict.state, bench.verdict.code) == (State.HOLD, "MULTI_PUB")
    bench.act(age_s=0.0)
    assert bench.travel(0.3) == 0.0
    bench.supervisor.on_publishers(1, bench.now_s)
    bench.act(age_s=0.0)
    assert bench.verdict.state == State.ACTIVE


def test_the_emergency_stop_needs_release_reset_and_start():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.06)
    bench.supervisor.estop.on_topic(True, bench.now_s)
    bench.run(0.3)
    assert bench.verdict.state == State.ESTOP
    assert not bench.supervisor.reset(bench.now_s)[0]
    bench.supervisor.estop.on_topic(False, bench.now_s)
    assert bench.verdict.state == State.ESTOP
    assert not bench.supervisor.start(bench.now_s)[0]
    assert bench.supervisor.reset(bench.now_s)[0]
    assert bench.verdict.state == State.STANDBY
    bench.act(age_s=0.0)
    assert bench.travel(0.3) == 0.0
    bench.supervisor.start(bench.now_s)
    bench.run(TICK)
    bench.act(age_s=0.0)
    assert bench.verdict.state == State.ACTIVE


def test_stop_brakes_and_then_sends_nothing():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.1)
    bench.supervisor.stop()
    bench.run(0.4)
    assert bench.verdict.state == State.STANDBY
    assert bench.sent[-1] is None


def test_pause_holds_until_start():
    bench = Bench()
    bench.supervisor.pause()
    bench.act(age_s=0.0)
    assert bench.verdict.code == "PAUSED" and bench.travel(0.3) == 0.0
    assert bench.sent[-1] is not None
    bench.supervisor.start(bench.now_s)
    bench.act(age_s=0.0)
    assert bench.verdict.state == State.ACTIVE


def test_the_gripper_stays_as_it_is_while_holding():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.1)
    assert bench.sent[-1].safe.gripper == 1.0
    bench.run(0.6)
    bench.act((0, 0, 0, 0, 0, 0, 0.0), age_s=2.0)
    bench.run(0.3)
    assert bench.verdict.state == State.HOLD and bench.sent[-1].safe.gripper == 1.0
    bench.act((0, 0, 0, 0, 0, 0, 0.0), age_s=0.0)
    bench.run(0.1)
    assert bench.sent[-1].safe.gripper == 0.0


def test_one_action_carried_out_over_many_ticks_is_one_decision_about_the_gripper():
    bench = Bench(limits=dataclasses.replace(SETTINGS, gripper_decisions=2))
    bench.act(age_s=0.0)
    bench.run(0.2)
    assert bench.sent[-1].safe.gripper is None
    bench.act(age_s=0.0)
    bench.run(TICK)
    assert bench.sent[-1].safe.gripper == 1.0


def test_an_arm_that_does_not_follow_ends_in_a_hold_where_it_is():
    bench = Bench(card=dataclasses.replace(CARD, reference="commanded"))
    bench.arm_follows = False
    for _ in range(6):
        bench.act(age_s=0.0)
        bench.run(0.1)
    assert bench.verdict.code == "TRACKING"
    bench.run(0.3)
    assert np.array_equal(bench.sent[-1].safe.pose.position, HOME.position)


def test_a_card_for_another_tool_link_is_refused():
    with pytest.raises(ConventionError, match="panda_hand_tcp"):
        Supervisor(SETTINGS, dataclasses.replace(CARD, tool_link="ee_gripper_link"))


def test_only_as_many_steps_of_a_chunk_are_carried_out_as_allowed():
    rows = np.array([FORWARD] * 4)
    for steps, distance in ((1, 0.03), (3, 0.09)):
        bench = Bench(limits=dataclasses.replace(SETTINGS, max_steps=steps, max_observation_age_s=1.0))
        bench.act(rows, age_s=0.0)
        bench.run(1.5)
        assert np.linalg.norm(bench.arm.position - HOME.position) == pytest.approx(distance, abs=1e-4)


def test_an_image_from_before_the_first_known_pose_is_refused():
    """Guessing where the arm was would move it by the wrong amount."""
    supervisor = Supervisor(SETTINGS, CARD)
    supervisor.start(0.0)
    supervisor.on_pose(HOME, 10**9, "panda_link0", 0.0)
    supervisor.tick(0.0)
    supervisor.on_chunk(Chunk(10**9 - 10**8, 0, np.array([FORWARD])), 10**9, 0.0)
    assert supervisor.verdict(0.0).code == "POSE_UNKNOWN"


def test_a_message_without_the_form_of_a_chunk_is_refused():
    bench = Bench()
    bench.supervisor.on_malformed("action chunk 3 has 8 numbers for steps of 7.")
    assert bench.verdict.code == "ACT_SHAPE" and "8 numbers" in bench.verdict.sentence


def test_a_commanded_reference_never_runs_far_ahead_of_the_arm():
    """Goals of 0.05 m at 20 Hz ask for 1 m/s; the arm does 0.4 and must stop soon after the policy does."""
    bench = Bench(card=dataclasses.replace(CARD, reference="commanded"))
    for _ in range(10):
        bench.act((0.05, 0, 0, 0, 0, 0, 1.0), age_s=0.05, rate_hz=20.0)
        bench.run(0.06)
    assert bench.travel(1.0) <= 2 * SETTINGS.max_translation


def test_an_arm_moved_by_hand_in_the_emergency_stop_is_not_pulled_back():
    """The stream once went on with the pose from before the stop."""
    bench = Bench()
    bench.supervisor.estop.on_topic(True, bench.now_s)
    bench.run(0.5)
    bench.arm_follows = False
    bench.push([0.0, 0.1, 0.0])
    bench.run(TICK)
    bench.arm_follows = True
    assert bench.travel(0.2) <= SETTINGS.max_tracking_error


def test_a_started_arm_leaves_the_gripper_alone_until_an_action_says_otherwise():
    """A person may have opened it while nothing was sent."""
    bench = Bench()
    bench.act(row=(0.0,) * 6 + (0.0,), age_s=0.0)
    bench.run(0.3)
    assert bench.sent[-1].safe.gripper == 0.0
    bench.supervisor.stop()
    bench.run(0.5)
    assert bench.sent[-1] is None
    bench.supervisor.start(bench.now_s)
    bench.run(0.1)
    assert bench.sent[-1].safe.gripper is None


def test_a_message_cannot_stretch_its_own_time_out():
    bench = Bench()
    bench.act(rate_hz=0.01, age_s=0.0)
    bench.run(action_timeout_s(CARD.rate_hz) + 2 * TICK)
    assert bench.verdict.state == State.HOLD
