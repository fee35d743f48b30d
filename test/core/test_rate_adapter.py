"""Between goals the target glides; after the last it stays."""

import numpy as np

from openvla_core.rate_adapter import Goal, RateAdapter
from openvla_core.rotations import IDENTITY
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
