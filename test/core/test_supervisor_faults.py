"""Every fault ends in its state and with its code, and nothing moves because of it."""

import dataclasses

import numpy as np
import pytest
from supervisor_bench import CARD, FORWARD, HOME, SETTINGS, TICK, Bench

from openvla_core.supervisor import State
from openvla_core.types import Pose, Problem


def state_and_code(bench: Bench) -> tuple[State, str]:
    return bench.verdict.state, bench.verdict.code


@pytest.mark.parametrize(
    "rows", [np.zeros((1, 6)), np.zeros((1, 8)), np.zeros((0, 7)), np.zeros(7), "move", [["a"] * 7], None, [[None] * 7]]
)
def test_an_action_of_the_wrong_form_is_a_fault(rows):
    bench = Bench()
    bench.act(actions=rows)
    assert state_and_code(bench)[0] == State.FAULT
    assert bench.verdict.code in ("ACT_SHAPE", "ACT_NONFINITE")
    assert bench.travel(0.3) == 0.0


def test_a_second_publisher_amid_an_action_is_a_fault():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.1)
    bench.supervisor.on_publishers(2, bench.now_s)
    assert state_and_code(bench) == (State.FAULT, "MULTI_PUB")
    bench.supervisor.on_publishers(1, bench.now_s)
    assert bench.verdict.state == State.FAULT


def test_another_session_amid_an_action_is_a_fault_and_after_it_a_restart():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.1)
    bench.act(age_s=0.0, session_id="second", sequence=0)
    assert state_and_code(bench) == (State.FAULT, "SESSION_CHANGED")
    bench.run(0.5)
    bench.supervisor.reset(bench.now_s)
    bench.run(TICK)
    bench.act(age_s=0.0, session_id="second", sequence=0)
    assert bench.verdict.state == State.ACTIVE


def test_a_repeated_or_reordered_action_does_not_end_the_one_in_progress():
    bench = Bench()
    bench.act(age_s=0.0, sequence=7)
    for sequence in (7, 3):
        bench.act((0, -0.05, 0, 0, 0, 0, 1.0), age_s=0.0, sequence=sequence)
    bench.run(0.28)
    assert bench.verdict.state == State.ACTIVE
    assert bench.arm.position[1] == 0.0


# The pose ---------------------------------------------------------------------------------------------------------


def test_a_silent_pose_holds_within_a_tenth_of_a_second_and_a_tick():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.06)
    bench.arm_talks = False
    bench.run(0.1 + TICK)
    assert state_and_code(bench) == (State.HOLD, "POSE_STALE")


@pytest.mark.parametrize("by_m", [0.05, 0.2, 1.0])
def test_a_pose_that_jumps_is_a_fault_and_the_commands_do_not_follow_it(by_m):
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.5)
    held = bench.sent[-1].safe.pose.position
    bench.arm_follows = False
    bench.arm = Pose(bench.arm.position + [0.0, by_m, 0.0], bench.arm.quaternion)
    bench.run(0.6)
    assert state_and_code(bench) == (State.FAULT, "POSE_JUMP")
    assert f"{by_m * 1e3:.0f} mm" in bench.verdict.sentence
    assert np.array_equal(bench.sent[-1].safe.pose.position, held)


def test_the_fastest_allowed_motion_is_no_jump():
    bench = Bench()
    bench.arm_follows = False
    bench.push([0.0, 0.3, 0.0], speed=1.9 * SETTINGS.max_speed)
    assert bench.verdict.state == State.HOLD


@pytest.mark.parametrize("bad", [Pose(np.full(3, np.nan), HOME.quaternion), Pose(HOME.position, np.zeros(4))])
def test_three_poses_in_a_row_that_are_none_are_a_fault(bad):
    bench = Bench()
    supervisor = bench.supervisor
    for times in (2, 3):
        for _ in range(times):
            supervisor.on_pose(bad, bench.ros_ns + 1, "panda_link0", bench.now_s)
        assert (bench.verdict.state == State.FAULT) == (times == 3)
        bench.run(TICK)
    assert state_and_code(bench) == (State.FAULT, "POSE_INVALID")


def test_an_arm_that_was_moved_while_it_was_silent_is_taken_up_where_it_is():
    bench = Bench()
    bench.arm_talks = False
    bench.arm_follows = False
    bench.run(1.0)
    bench.arm = Pose(HOME.position + [0.0, 0.1, 0.0], HOME.quaternion)
    bench.arm_talks = True
    bench.run(TICK)
    assert np.array_equal(bench.sent[-1].safe.pose.position, bench.arm.position), "at once, not after 0.3 s"
    assert state_and_code(bench)[0] == State.HOLD


# Reset ------------------------------------------------------------------------------------------------------------


def test_a_reset_is_refused_while_the_arm_moves():
    """It once made the commanded pose jump back to where the arm had been."""
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.1)
    done, sentence = bench.supervisor.reset(bench.now_s)
    assert not done and "stands still" in sentence


def test_after_a_reset_nothing_is_taken_from_a_pose_measured_in_motion():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.06)
    bench.arm_talks = False
    bench.run(0.2)  # the last pose is older than the stand-still
    bench.arm_talks = True
    bench.supervisor.on_pose(bench.arm, bench.ros_ns + 1, "panda_link0", bench.now_s)
    assert bench.supervisor.reset(bench.now_s)[0]
    assert bench.travel(0.3) < 1e-9


# Clocks and pauses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_s", [3600.0, -900.0, 1.0, -1.0])
def test_a_clock_that_was_set_holds_until_an_action_of_the_new_time(by_s):
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.06)
    bench.ahead_s += by_s
    bench.run(TICK)
    assert state_and_code(bench) == (State.HOLD, "CLOCK_JUMP")
    bench.act(age_s=by_s + 0.1 if by_s > 0 else by_s)  # an image from before
    assert bench.verdict.state == State.HOLD
    bench.run(0.5)
    bench.act(age_s=0.0)
    assert bench.verdict.state == State.ACTIVE


def test_a_clock_that_stands_still_holds():
    """A simulation that was paused: stamps say nothing any more, the watchdogs go on."""
    bench = Bench()
    bench.act(age_s=0.0)
    frozen = bench.ros_ns
    for _ in range(20):
        bench.ahead_s = frozen * 1e-9 - bench.now_s - TICK
        bench.run(TICK)
    assert state_and_code(bench) == (State.HOLD, "POSE_STALE")


def test_a_process_that_slept_starts_again_from_where_the_arm_is():
    bench = Bench(card=dataclasses.replace(CARD, reference="commanded"))
    bench.act(age_s=0.0)
    bench.run(0.1)
    stopped_at = bench.arm.position
    bench.arm_follows = False
    bench.arm = Pose(stopped_at + [0.01, 0.0, 0.0], HOME.quaternion)  # it came to rest while nobody watched
    bench.now_s += 2.0
    bench.run(TICK)
    assert np.array_equal(bench.sent[-1].safe.pose.position, stopped_at), "the first command is a hold"
    assert state_and_code(bench)[0] == State.HOLD
    bench.run(2 * TICK)
    assert np.array_equal(bench.sent[-1].safe.pose.position, bench.arm.position)


# Workspace, backend, task -----------------------------------------------------------------------------------------


def test_a_policy_that_wants_out_of_the_workspace_for_three_seconds_is_stopped_until_it_wants_back():
    bench = Bench(limits=dataclasses.replace(SETTINGS, workspace_high=(0.46, 0.45, 0.75)))
    seen = []
    for _ in range(18):
        bench.act(age_s=0.05)
        bench.run(0.2)
        seen.append(bench.verdict.code)
    assert seen[:14] == ["OK"] * 14 and seen[-1] == "WORKSPACE"
    assert bench.arm.position[0] <= 0.46 + 1e-9
    bench.act((-0.02, 0, 0, 0, 0, 0, 1.0), age_s=0.0)
    assert bench.verdict.state == State.ACTIVE


def test_a_backend_that_has_a_problem_holds_and_a_latched_one_is_a_fault():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.supervisor.on_backend(Problem("IK_FAIL", "no solution."))
    assert state_and_code(bench) == (State.HOLD, "IK_FAIL")
    bench.run(0.3)
    bench.supervisor.on_backend(None)
    bench.act(age_s=0.0)
    assert bench.verdict.state == State.ACTIVE
    bench.supervisor.on_backend(Problem("BACKEND_MULTI", "1 other publisher.", latched=True))
    bench.supervisor.on_backend(None)
    assert state_and_code(bench) == (State.FAULT, "BACKEND_MULTI")


def test_an_arm_whose_backend_is_absent_is_not_started():
    bench = Bench()
    bench.supervisor.stop()
    bench.run(0.1)
    bench.supervisor.on_backend(Problem("BACKEND_ABSENT", "nobody listens to /target_pose."))
    done, sentence = bench.supervisor.start(bench.now_s)
    assert not done and "/target_pose" in sentence
    assert state_and_code(bench) == (State.STANDBY, "BACKEND_ABSENT")


def test_a_new_instruction_ends_the_action_of_the_last_one_at_once():
    bench = Bench()
    bench.supervisor.on_instruction("pick up the red cube")
    bench.act(age_s=0.0)
    bench.run(0.04)
    bench.supervisor.on_instruction("")
    assert state_and_code(bench) == (State.HOLD, "NEW_TASK")
    bench.supervisor.on_instruction("pick up the blue cube")
    bench.act(age_s=0.0)
    assert bench.verdict.code == "TASK_OVER"
    bench.act(age_s=0.0, instruction="pick up the blue cube")
    assert bench.verdict.state == State.ACTIVE


def test_the_policy_of_another_session_may_follow_what_it_likes():
    bench = Bench()
    bench.supervisor.on_instruction("pick up the red cube")
    bench.act(age_s=0.0)
    bench.run(0.5)
    bench.act(FORWARD, age_s=0.0, session_id="second", instruction="anything")
    assert bench.verdict.state == State.ACTIVE


def test_the_way_in_the_blind_is_what_the_formula_says():
    """v (T_a + tick) + v^2 / 2a, and never beyond the goal of the last action."""
    limits = dataclasses.replace(SETTINGS, max_speed=0.25, max_acceleration=4.0, stop_acceleration=2.0)
    bench = Bench(card=dataclasses.replace(CARD, reference="commanded"), limits=limits)
    for _ in range(4):
        bench.act((0.05, 0, 0, 0, 0, 0, 1.0), age_s=0.0)
        bench.run(0.2)
    at_last_word = bench.arm.position[0]
    bench.act((0.05, 0, 0, 0, 0, 0, 1.0), age_s=0.0)
    bench.run(2.0)
    blind_m = bench.arm.position[0] - at_last_word
    assert 0.02 < blind_m <= 0.25 * (0.3 + TICK) + 0.25**2 / (2 * 2.0) + 1e-6
