"""Where the stream begins, and what it takes along: dry runs, interrupted actions, references that run ahead."""

import dataclasses

import numpy as np
import pytest
from supervisor_bench import CARD, HOME, SETTINGS, TICK, Bench

from openvla_core import rotations
from openvla_core.supervisor import State
from openvla_core.types import Pose


def test_after_a_dry_run_the_first_real_command_is_where_the_arm_is():
    bench = Bench()
    assert bench.supervisor.set_follows(False, bench.now_s)[0]
    bench.arm_follows = False
    bench.run(TICK)
    bench.act(age_s=0.0)
    bench.run(0.1)
    assert not bench.supervisor.set_follows(True, bench.now_s)[0], "in motion"
    bench.run(1.0)
    assert bench.verdict.code == "ACTION_STALE", "an arm that is not meant to follow cannot lose track"
    assert bench.sent[-1].safe.pose.position[0] > HOME.position[0] + 0.02
    done, sentence = bench.supervisor.set_follows(True, bench.now_s)
    assert done and "start" in sentence
    bench.run(0.1)
    assert bench.verdict.state == State.STANDBY and bench.sent[-1] is None, "a person starts the arm, not a setting"
    bench.supervisor.start(bench.now_s)
    bench.run(TICK)
    assert np.array_equal(bench.sent[-1].safe.pose.position, HOME.position)
    assert bench.sent[-1].safe.restarted


def test_a_dry_run_is_not_left_while_nobody_knows_where_the_arm_is():
    """It once was, with poses forgotten because the clock was set: the first command was 300 mm off."""
    bench = Bench()
    bench.supervisor.set_follows(False, bench.now_s)
    bench.arm_follows = False
    for _ in range(3):
        bench.act(age_s=0.0)
        bench.run(0.2)
    bench.run(1.0)
    bench.ahead_s += 3600.0
    bench.supervisor.on_clock(bench.ros_ns, bench.now_s)
    done, sentence = bench.supervisor.set_follows(True, bench.now_s)
    assert not done and "pose" in sentence


def test_an_order_that_changes_nothing_does_not_stop_the_arm():
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.1)
    assert bench.supervisor.set_follows(True, bench.now_s)[0]
    assert bench.verdict.state == State.ACTIVE


def test_a_command_says_whether_an_action_is_carried_out():
    """A gripper must not be moved by what is repeated in a hold."""
    bench = Bench()
    bench.act(age_s=0.0)
    bench.run(0.1)
    assert bench.sent[-1].safe.active
    bench.supervisor.estop.on_topic(True, bench.now_s)
    bench.run(TICK)
    assert bench.sent[-1].safe.velocity.any() and not bench.sent[-1].safe.active, "braking"
    bench.run(0.3)
    assert not bench.sent[-1].safe.active


def test_the_first_command_from_a_measured_pose_says_so_and_only_that_one():
    bench = Bench()
    assert [command.safe.restarted for command in bench.sent if command] == [True] + [False] * 29
    bench.sent.clear()
    bench.supervisor.reset(bench.now_s)
    bench.run(0.1)
    assert [command.safe.restarted for command in bench.sent] == [True] + [False] * 4
    bench.supervisor.stop()
    bench.run(0.1)
    bench.sent.clear()
    bench.supervisor.start(bench.now_s)
    bench.run(0.1)
    assert [command.safe.restarted for command in bench.sent] == [True] + [False] * 4


@pytest.mark.parametrize("interrupted_by", ["pause", "task"])
def test_what_was_interrupted_is_not_taken_up_again_by_an_action_that_asks_for_nothing(interrupted_by):
    """The rest of the old step was once still part of the reference: zero actions moved the arm by 43 mm."""
    bench = Bench(card=dataclasses.replace(CARD, reference="commanded"))
    task = "pick up the red cube"
    bench.supervisor.on_instruction(task)
    bench.act((0.05, 0, 0, 0, 0, 0.25, 1.0), age_s=0.0)
    bench.run(0.06)
    if interrupted_by == "pause":
        bench.supervisor.pause()
    else:
        task = "push"
        bench.supervisor.on_instruction(task)
    bench.run(1.0)
    held = bench.arm
    bench.supervisor.start(bench.now_s)
    bench.run(TICK)
    for _ in range(3):
        bench.act([0.0] * 6 + [1.0], age_s=0.0, instruction=task)
        assert bench.verdict.state == State.ACTIVE
        bench.run(0.2)
    assert np.linalg.norm(bench.arm.position - held.position) < 1e-9
    assert np.linalg.norm(rotations.rotation_between(bench.arm.quaternion, held.quaternion)) < 1e-9


@pytest.mark.parametrize("ticks_later", [1, 2, 3])
def test_an_action_amid_the_stop_of_a_hold_starts_where_the_stop_ends(ticks_later):
    """It was once added to the goal of the action before the hold: a step of nothing went on to the old goal."""

    def stopped_amid_a_step(then_acts: bool) -> Bench:
        bench = Bench(card=dataclasses.replace(CARD, reference="commanded"))
        bench.supervisor.on_instruction("pick up the red cube")
        bench.act((0.05, 0, 0, 0, 0, 0.25, 1.0), age_s=0.0)
        bench.run(0.1)
        bench.supervisor.on_instruction("push")
        bench.run(ticks_later * TICK)
        assert bench.sent[-1].safe.velocity.any(), "still braking"
        if then_acts:
            bench.act([0.0] * 6 + [1.0], age_s=0.0, instruction="push")
            assert bench.verdict.state == State.ACTIVE
        bench.run(1.0)
        return bench

    acted, held = stopped_amid_a_step(True), stopped_amid_a_step(False)
    assert np.linalg.norm(acted.arm.position - held.arm.position) < 1e-6
    assert np.linalg.norm(rotations.rotation_between(acted.arm.quaternion, held.arm.quaternion)) < 1e-6
    assert np.linalg.norm(held.arm.position - HOME.position) < 0.049, "short of the old goal"


def test_a_robot_that_starts_outside_the_box_is_told_what_to_expect_and_comes_in_one_step_per_action():
    settings = dataclasses.replace(SETTINGS, workspace_low=(0.70, -0.4, 0.02), workspace_high=(0.9, 0.4, 0.8))
    bench = Bench(limits=settings)
    sentence = bench.supervisor.start(bench.now_s)[1]
    assert "outside the workspace box" in sentence and "0.05 m" in sentence
    assert bench.travel(1.0) == 0.0, "without an action it stays where it is"
    for step in (-0.001, 0.001):
        before = bench.arm.position
        bench.act((step, 0, 0, 0, 0, 0, 1.0), age_s=0.0)
        bench.run(1.0)
        way = bench.arm.position - before
        assert 0.0 <= way[0] <= settings.max_translation + 1e-9 and abs(way[1:]).max() < 1e-9
    bench.supervisor.pause()
    bench.arm = Pose(np.array([0.8, 0.0, 0.3]), HOME.quaternion)
    bench.run(1.0)
    assert "outside" not in bench.supervisor.start(bench.now_s)[1]


def test_a_commanded_reference_never_turns_far_ahead_of_the_arm():
    """Goals of 0.25 rad at 20 Hz ask for 5 rad/s; once they were half a turn ahead, the arm turned back."""
    bench = Bench(card=dataclasses.replace(CARD, reference="commanded"))
    yaw = []
    for _ in range(30):
        bench.act((0, 0, 0, 0, 0, 0.25, 1.0), age_s=0.05, rate_hz=20.0)
        bench.run(0.06)
        yaw.append(bench.sent[-1].safe.angular_velocity[2])
    assert min(yaw) >= 0.0, "never the other way round"
    before = bench.arm.quaternion
    bench.run(1.0)
    turned = np.linalg.norm(rotations.rotation_between(before, bench.arm.quaternion))
    assert turned <= 2 * SETTINGS.max_rotation
