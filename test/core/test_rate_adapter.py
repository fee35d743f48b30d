"""Between goals the target glides; after the last it stays."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_core.rate_adapter import Goal, RateAdapter
from openvla_core.rotations import IDENTITY, from_rotation_vector, multiply, rotation_between
from openvla_core.safety import SafetyLimiter, SafetySettings
from openvla_core.types import Pose


def at(x):
    return Pose(np.array([x, 0.0, 0.0]), IDENTITY)


def xs(adapter, *times):
    return [round(float(adapter.target(time).pose.position[0]), 9) for time in times]


def test_without_goals_the_target_is_the_pose_it_started_with():
    assert xs(RateAdapter(at(0.3)), 0.0, 100.0) == [0.3, 0.3]


def test_the_target_glides_to_the_goal_and_stays_there():
    adapter = RateAdapter(at(0.0))
    adapter.take(at(0.0), [Goal(at(1.0), 1.0)], now_s=10.0, first_s=0.2, period_s=0.2)
    assert xs(adapter, 10.0, 10.05, 10.1, 10.2, 12.0) == [0.0, 0.25, 0.5, 1.0, 1.0]


def test_without_time_to_glide_the_target_jumps():
    adapter = RateAdapter(at(0.0))
    adapter.take(at(0.0), [Goal(at(1.0), 1.0)], now_s=10.0, first_s=0.0, period_s=0.2)
    assert xs(adapter, 10.0) == [1.0]


def test_the_goals_of_a_chunk_follow_in_order_each_with_its_gripper():
    adapter = RateAdapter(at(0.0))
    goals = [Goal(at(1.0), 1.0), Goal(at(3.0), 0.0)]
    adapter.take(at(0.0), goals, now_s=0.0, first_s=0.2, period_s=0.2)
    assert xs(adapter, 0.1, 0.2, 0.3, 0.4, 5.0) == [0.5, 1.0, 2.0, 3.0, 3.0]
    adapter.take(at(0.0), goals, now_s=0.0, first_s=0.2, period_s=0.2)
    assert [adapter.target(time).gripper for time in (0.0, 0.1, 0.25, 0.5)] == [1.0, 1.0, 0.0, 0.0]


def test_a_late_tick_skips_goals_whose_time_has_passed():
    adapter = RateAdapter(at(0.0))
    adapter.take(at(0.0), [Goal(at(float(i)), 1.0) for i in range(1, 6)], now_s=0.0, first_s=0.2, period_s=0.2)
    assert xs(adapter, 0.9) == [4.5]


def test_new_goals_replace_those_not_reached_yet():
    adapter = RateAdapter(at(0.0))
    adapter.take(at(0.0), [Goal(at(1.0), 1.0), Goal(at(2.0), 1.0)], now_s=0.0, first_s=0.2, period_s=0.2)
    adapter.take(at(0.5), [Goal(at(0.0), 1.0)], now_s=0.1, first_s=0.2, period_s=0.2)
    assert xs(adapter, 0.2, 1.0) == [0.25, 0.0]


def test_between_goals_it_turns_the_shortest_way_at_constant_speed():
    start = Pose(np.zeros(3), from_rotation_vector(np.array([0.0, 0.0, 3.0])))
    goal = Pose(np.zeros(3), from_rotation_vector(np.array([0.0, 0.0, -3.0])))
    adapter = RateAdapter(start)
    adapter.take(start, [Goal(goal, None)], now_s=0.0, first_s=1.0, period_s=1.0)
    quaternions = [adapter.target(time).pose.quaternion for time in (0.0, 0.25, 0.5, 0.75, 1.0)]
    turns = [rotation_between(a, b)[2] for a, b in zip(quaternions[:-1], quaternions[1:], strict=True)]
    assert turns == pytest.approx([(2 * math.pi - 6.0) / 4] * 4)


def test_position_and_rotation_arrive_together():
    goal = Pose(np.array([1.0, 0.0, 0.0]), from_rotation_vector(np.array([0.0, 0.8, 0.0])))
    adapter = RateAdapter(at(0.0))
    adapter.take(at(0.0), [Goal(goal, None)], now_s=0.0, first_s=0.2, period_s=0.2)
    for share in (0.1, 0.5, 0.9):
        pose = adapter.target(0.2 * share).pose
        assert pose.position[0] == pytest.approx(share)
        assert rotation_between(IDENTITY, pose.quaternion)[1] == pytest.approx(0.8 * share)


def test_a_clock_that_went_back_does_not_leave_the_way():
    adapter = RateAdapter(at(0.0))
    adapter.take(at(0.0), [Goal(at(1.0), 1.0)], now_s=10.0, first_s=0.2, period_s=0.2)
    assert xs(adapter, 9.0, 10.1) == [0.0, 0.5]


def test_reset_forgets_every_goal():
    adapter = RateAdapter(at(0.0))
    adapter.take(at(0.0), [Goal(at(1.0), 1.0)], now_s=0.0, first_s=0.2, period_s=0.2)
    adapter.reset(at(0.7))
    assert xs(adapter, 0.1, 5.0) == [0.7, 0.7]
    assert adapter.target(1.0).gripper is None and np.array_equal(adapter.last.position, at(0.7).position)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([2.0, 5.0, 7.5, 20.0]), st.sampled_from([50.0, 100.0]), st.integers(0, 2**32 - 1))
def test_from_any_policy_rate_to_any_stream_rate_and_to_rest_when_the_policy_is_silent(policy_hz, stream_hz, seed):
    """A walk of steps an arm can make: the stream follows it smoothly, and stands at the last goal soon after."""
    rng = np.random.default_rng(seed)
    limits = SafetySettings(start_ramp_s=0.0)
    goal = Pose(np.array([0.5, 0.0, 0.4]), IDENTITY)
    limiter, adapter = SafetyLimiter(limits, goal), RateAdapter(goal)
    period, tick = 1.0 / policy_hz, 1.0 / stream_hz
    speeds, due = [], 0.0
    ticks = round(6 * period / tick) + round(2.0 / tick)
    for index in range(ticks):
        now = index * tick
        if now >= due and due < 5.5 * period:
            step = rng.uniform(-0.08, 0.08, 3) * period
            turn = from_rotation_vector(rng.uniform(-0.3, 0.3, 3) * period)
            goal = Pose(goal.position + step, multiply(turn, goal.quaternion))
            adapter.take(limiter.pose, [Goal(goal, None)], now, 0.5 * period, period)
            due += period
        before = limiter.pose
        pose = limiter.follow(adapter.target(now).pose, tick)
        speeds.append(float(np.linalg.norm(pose.position - before.position)) / tick)
    assert max(speeds) <= limits.max_speed + 1e-9
    assert max(np.abs(np.diff(speeds))) <= limits.max_acceleration * tick + 1e-9
    assert limiter.at_rest and speeds[-1] < 1e-6
    assert np.linalg.norm(pose.position - goal.position) < 1e-6
    assert np.linalg.norm(rotation_between(pose.quaternion, goal.quaternion)) < 1e-6
