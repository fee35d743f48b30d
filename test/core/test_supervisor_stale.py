"""Poses that come late, steps that last long, votes that were given before a hold: nothing old moves the arm."""

import dataclasses

import pytest
from supervisor_bench import CARD, FORWARD, SETTINGS, TICK, Bench

from openvla_core.supervisor import State


class LateBench(Bench):
    """The poses of the arm take a while to arrive, or carry the stamps of another clock."""

    delay_s = 0.0  # from the measurement to the arrival
    driver_ahead_s = 0.0  # of the clock of the driver

    def run(self, seconds: float) -> None:
        self.measured = getattr(self, "measured", [])
        for _ in range(round(seconds / TICK)):
            self.now_s += TICK
            self.supervisor.on_clock(self.ros_ns, self.now_s)
            self.measured.append((self.now_s, self.ros_ns + round(self.driver_ahead_s * 1e9), self.arm))
            due = [pose for pose in self.measured if pose[0] <= self.now_s - self.delay_s + 1e-9]
            if due:
                self.supervisor.on_pose(due[-1][2], due[-1][1], "panda_link0", self.now_s)
            command = self.supervisor.tick(self.now_s)
            self.sent.append(command)
            if command is not None and self.arm_follows:
                self.arm = command.safe.pose


@pytest.mark.parametrize(("delay_s", "ahead_s", "words"), [(2.0, 0.0, "2.00 s ago"), (0.0, 5.0, "5.00 s ahead")])
def test_poses_that_are_late_or_of_another_clock_hold_and_name_the_clock(delay_s, ahead_s, words):
    """They arrived every tick, so they once counted as fresh: the first command was 200 mm off."""
    bench = LateBench()
    bench.act(age_s=0.0)
    assert bench.verdict.state == State.ACTIVE
    bench.delay_s, bench.driver_ahead_s = delay_s, ahead_s
    bench.run(0.2 + delay_s)
    assert (bench.verdict.state, bench.verdict.code) == (State.HOLD, "POSE_OLD")
    assert words in bench.verdict.sentence and "clock" in bench.verdict.sentence
    bench.supervisor.stop()
    bench.run(0.3)
    bench.supervisor.start(bench.now_s)
    bench.run(0.3)
    assert bench.sent[-1] is None, "no stream begins there"
    bench.delay_s = bench.driver_ahead_s = 0.0
    bench.run(ahead_s + 0.1)
    assert bench.verdict.code == "WAITING"


def test_poses_that_are_a_little_late_are_good_enough():
    bench = LateBench()
    bench.delay_s = 0.3
    bench.run(0.5)
    bench.act(age_s=0.4)
    assert bench.verdict.state == State.ACTIVE


def test_a_pose_that_was_measured_before_the_arm_stood_still_is_not_made_the_commanded_one():
    """It arrived after that, which was once enough."""
    bench = LateBench(card=dataclasses.replace(CARD, reference="commanded"))
    bench.delay_s = 0.2
    bench.run(0.5)
    bench.act((0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), age_s=0.0)
    bench.run(0.1)
    bench.supervisor.pause()
    while not bench.supervisor.reset(bench.now_s)[0]:
        bench.run(TICK)
    reached = bench.arm.position[0]
    bench.run(0.5)
    assert bench.arm.position[0] == pytest.approx(reached, abs=1e-9), "nothing jumped back"


def test_many_steps_are_not_carried_out_beyond_the_age_of_their_image():
    """16 steps at a quarter of the rate once moved the arm for 12 s on one image."""
    bench = Bench(limits=dataclasses.replace(SETTINGS, max_steps=16))
    bench.act([FORWARD] * 16, age_s=0.1, rate_hz=1.25)
    bench.run(SETTINGS.max_observation_age_s - 0.1 - TICK)
    assert bench.verdict.state == State.ACTIVE
    bench.run(2 * TICK)
    assert (bench.verdict.state, bench.verdict.code) == (State.HOLD, "OBS_STALE")


CLOSE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("event", ["pause", "task", "silence"])
def test_a_wish_from_before_a_hold_is_no_vote_for_the_gripper_after_it(event):
    bench = Bench(limits=dataclasses.replace(SETTINGS, gripper_decisions=2))
    task = "pick up the red cube"
    bench.supervisor.on_instruction(task)
    bench.act(CLOSE, age_s=0.0)
    bench.run(0.1)
    if event == "pause":
        bench.supervisor.pause()
        bench.run(0.2)
        bench.supervisor.start(bench.now_s)
    elif event == "task":
        task = "push"
        bench.supervisor.on_instruction(task)
    else:
        bench.run(2.0)
    bench.act(CLOSE, age_s=0.0, instruction=task)
    bench.run(0.1)
    assert bench.verdict.state == State.ACTIVE and bench.sent[-1].safe.gripper is None
    bench.act(CLOSE, age_s=0.0, instruction=task)
    bench.run(0.1)
    assert bench.sent[-1].safe.gripper == 0.0


def test_a_policy_that_is_held_between_its_actions_still_moves_the_gripper():
    """At 2 Hz every action times out before the next one comes."""
    bench = Bench(limits=dataclasses.replace(SETTINGS, gripper_decisions=2))
    bench.act(CLOSE, age_s=0.0, rate_hz=2.0)
    bench.run(0.5)
    assert bench.verdict.code == "ACTION_STALE"
    bench.act(CLOSE, age_s=0.0, rate_hz=2.0)
    bench.run(0.1)
    assert bench.sent[-1].safe.gripper == 0.0
