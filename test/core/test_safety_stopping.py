"""The plan to standstill and the way to a goal, compared with what can be said without them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_core import stopping
from openvla_core.stopping import Limits, advance, approach, at_rest, moved, plan_stop

SLOW = Limits(0.25, 1.0, 50.0)
BRISK = Limits(0.4, 3.0, 500.0)
SOFT = Limits(0.25, 1.0, 5.0)
ORIGIN = (0.0, 0.0, 0.0)

number = st.floats(-1.0, 1.0)
direction = st.tuples(number, number, number).filter(lambda d: math.hypot(*d) > 0.1)


def unit(d):
    return tuple(np.array(d) / math.hypot(*d))


def times(vector, factor):
    return tuple(factor * x for x in vector)


def seconds(motion):
    return sum(duration for duration, _ in motion.pieces)


def sampled(motion, count=400):
    """States of a plan from its beginning to its end."""
    return [advance(motion, seconds(motion) * i / count) for i in range(count + 1)]


@settings(max_examples=100)
@given(direction, direction, st.floats(0.0, 0.5), st.floats(0.0, 1.0), st.sampled_from([SLOW, BRISK, SOFT]))
def test_a_stop_from_any_state_keeps_acceleration_and_jerk_and_ends_at_rest(way, push, speed, share, limits):
    v, a = times(unit(way), speed), times(unit(push), share * limits.acceleration)
    motion = plan_stop((0.1, 0.2, 0.3), v, a, limits)
    x, v1, a1 = motion.position, v, a
    for duration, jerk in motion.pieces:
        assert duration > 0.0 and math.hypot(*jerk) <= limits.jerk * (1 + 1e-9)
        x, v1, a1 = moved(x, v1, a1, jerk, duration)
        assert math.hypot(*a1) <= limits.acceleration * (1 + 1e-9)
    assert math.hypot(*v1) < 1e-12 and math.hypot(*a1) < 1e-11
    assert math.dist(x, motion.end) < 1e-12
    end = advance(motion, seconds(motion) + 1.0)
    assert end.velocity == end.acceleration == ORIGIN and end.pieces == ()


@settings(max_examples=60)
@given(direction, st.floats(0.001, 0.5), st.sampled_from([SLOW, BRISK, SOFT]))
def test_a_straight_stop_is_as_quick_as_the_limits_allow(way, speed, limits):
    _, top, jerk = limits
    motion = plan_stop(ORIGIN, times(unit(way), speed), ORIGIN, limits)
    best = speed / top + top / jerk if speed >= top * top / jerk else 2.0 * math.sqrt(speed / jerk)
    assert seconds(motion) == pytest.approx(best, rel=3e-4)
    assert math.hypot(*motion.end) == pytest.approx(speed * best / 2.0, rel=3e-4)


@pytest.mark.parametrize("limits", [SLOW, BRISK, SOFT])
@pytest.mark.parametrize("share", [-1.0, -0.5, 0.5, 1.0])
def test_a_straight_stop_is_as_quick_as_possible_from_any_acceleration(limits, share):
    """Fast enough for the brake to be held: the time follows from the velocity that the three pieces take away."""
    _, top, jerk = limits
    speed, a = 0.4, share * top
    first, last = (a + top) / jerk, top / jerk
    gained = (a - top) / 2.0 * first
    hold = (speed + gained - top * last / 2.0) / top
    motion = plan_stop(ORIGIN, (speed, 0.0, 0.0), (a, 0.0, 0.0), limits)
    assert hold > 0.0
    assert seconds(motion) == pytest.approx(first + hold + last, rel=3e-4)


@settings(max_examples=60)
@given(direction, direction, st.floats(0.0, 0.5), st.floats(0.0, 1.0), st.sampled_from([SLOW, BRISK, SOFT]))
def test_the_corners_enclose_the_way_and_the_peak_bounds_the_speed(way, push, speed, share, limits):
    v, a = times(unit(way), speed), times(unit(push), share * limits.acceleration)
    motion = plan_stop((0.1, 0.2, 0.3), v, a, limits)
    corners = np.array(motion.corners)
    states = sampled(motion, 60)
    for normal in np.vstack([np.eye(3), np.array(unit(way)), np.cross(unit(way), unit(push))]):
        reach = corners @ normal
        for state in states:
            assert reach.min() - 1e-12 <= np.array(state.position) @ normal <= reach.max() + 1e-12
    fastest = max(math.hypot(*state.velocity) for state in states)
    assert fastest - 1e-12 <= motion.peak <= max(1.25 * fastest, fastest + 0.02)


@pytest.mark.parametrize("limits", [SLOW, BRISK, SOFT])
@pytest.mark.parametrize(("speed", "share"), list(itertools.product([0.0, 0.01, 0.2], [-1.0, -0.3, 0.0, 0.4, 1.0])))
def test_on_a_straight_line_the_peak_is_exact(limits, speed, share):
    v, a = (speed, 0.0, 0.0), (share * limits.acceleration, 0.0, 0.0)
    motion = plan_stop(ORIGIN, v, a, limits)
    fastest = max(abs(state.velocity[0]) for state in sampled(motion, 4000))
    assert motion.peak == pytest.approx(fastest, rel=2e-3, abs=1e-6)


def test_the_corners_are_the_control_points_of_the_first_ramp_and_the_end():
    v, a = (0.2, 0.1, 0.0), (0.0, 0.5, -0.3)
    motion = plan_stop((1.0, 2.0, 3.0), v, a, SLOW)
    first, jerk = motion.pieces[0]
    x1, v1, _ = moved(motion.position, v, a, jerk, first)
    expected = [
        motion.position,
        np.array(motion.position) + np.array(v) * first / 3,
        np.array(x1) - np.array(v1) * first / 3,
        x1,
        motion.end,
    ]
    assert np.allclose(motion.corners, expected, atol=1e-15)


def test_at_rest_there_is_nothing_to_plan():
    assert plan_stop((1.0, 2.0, 3.0), ORIGIN, ORIGIN, SLOW) == at_rest((1.0, 2.0, 3.0))


def test_advancing_in_parts_is_advancing_at_once():
    motion = plan_stop(ORIGIN, (0.2, 0.1, 0.0), (0.0, 0.5, -0.3), SLOW)
    step = seconds(motion) / 7.0
    parts = motion
    for _ in range(5):
        parts = advance(parts, step)
    once = advance(motion, 5.0 * step)
    assert np.allclose([*parts.position, *parts.velocity], [*once.position, *once.velocity], atol=1e-14)
    assert advance(motion, 0.0) == motion


def quickest(distance, limits):
    """Time from rest to rest with limited speed, acceleration and jerk, seconds."""
    top, a, j = limits
    if 2.0 * a**3 / j**2 >= distance:
        peak = j * (distance / (2.0 * j)) ** (2.0 / 3.0)
        if peak <= top:
            return 4.0 * (distance / (2.0 * j)) ** (1.0 / 3.0)
    else:
        ramp = a / j
        peak = a * (-ramp + math.sqrt(ramp * ramp + 4.0 * distance / a)) / 2.0
        if peak <= top:
            return 2.0 * (peak / a + ramp)
    return distance / top + (top / a + a / j if top >= a * a / j else 2.0 * math.sqrt(top / j))


@pytest.mark.parametrize("limits", [SLOW, BRISK, SOFT])
@pytest.mark.parametrize("distance", [0.002, 0.02, 0.05, 0.3])
@pytest.mark.parametrize("dt", [0.01, 0.02])
def test_a_goal_is_reached_almost_as_quickly_as_is_possible(limits, distance, dt):
    motion, elapsed = at_rest(ORIGIN), 0.0
    goal = times(unit((1.0, -2.0, 2.0)), distance)
    while math.dist(motion.position, goal) > 0.005 * distance and elapsed < 5.0:
        motion = approach(motion, goal, limits, dt, lambda _: True)
        elapsed += dt
        assert math.hypot(*motion.velocity) <= limits.speed
    assert elapsed <= quickest(distance, limits) + 1.5 * dt


def walk(kind):
    """Goals of an arm that follows a curve with small errors, or that changes its mind; (60, 3) metres."""
    rng = np.random.default_rng(1)
    random = rng.normal(size=(60, 3))
    if kind == "erratic":
        return np.cumsum(0.02 * random, axis=0)
    k = np.arange(60)
    return np.cumsum(0.03 * np.stack([np.cos(k / 8), np.sin(k / 8), 0.3 * np.cos(k / 5)], 1) + 0.005 * random, axis=0)


@pytest.mark.parametrize(
    ("kind", "limits", "error", "longer"),
    [("curve", SLOW, 0.0091, 1.017), ("curve", BRISK, 0.0009, 1.028), ("erratic", SLOW, 0.0237, 0.935),
     ("erratic", BRISK, 0.0053, 1.057)],
)  # fmt: skip
def test_the_steps_of_a_policy_are_followed_closely_and_without_detours(kind, limits, error, longer):
    """Steps of 2 to 4 cm at 5 Hz. error: rms distance when the next one comes, metres; longer: way per sum of steps."""
    goals = walk(kind)
    motion, places = at_rest(ORIGIN), []
    for tick in range(500):
        motion = approach(motion, tuple(goals[tick // 10]), limits, 0.02, lambda _: True)
        places.append(motion.position)
    places = np.array(places)
    missed = np.linalg.norm(places[9::10] - goals[:50], axis=1)
    assert math.sqrt((missed**2).mean()) <= error
    way = np.linalg.norm(np.diff(places, axis=0), axis=1).sum()
    assert way <= longer * np.linalg.norm(np.diff(goals[:50], axis=0), axis=1).sum()


def test_a_change_of_mind_at_speed_is_settled_within_a_second_and_a_half():
    rng = np.random.default_rng(3)
    for _ in range(25):
        motion = at_rest(ORIGIN)
        first, second = (tuple(rng.normal(size=3) * 0.1) for _ in "ab")
        for _ in range(int(rng.integers(3, 25))):
            motion = approach(motion, first, BRISK, 0.02, lambda _: True)
        for _ in range(75):
            motion = approach(motion, second, BRISK, 0.02, lambda _: True)
        assert math.dist(motion.position, second) < 1e-3


def test_what_is_not_allowed_is_not_done():
    motion = at_rest(ORIGIN)
    for _ in range(20):
        motion = approach(motion, (1.0, 0.0, 0.0), SLOW, 0.02, lambda found: found.end[0] <= 0.02)
    assert 0.015 < motion.end[0] <= 0.02
    assert approach(at_rest(ORIGIN), (1.0, 0.0, 0.0), SLOW, 0.02, lambda _: False) == at_rest(ORIGIN)


def searched(excess, base_excess=-1.0):
    """What the search finds for an excess as a function of the share, and how often it asked."""
    asked = []

    def attempt(share):
        asked.append(share)
        return excess(share), share

    return stopping._largest(attempt, "base", base_excess), asked


@pytest.mark.parametrize("root", [0.03, 0.2, 0.37, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("shape", [lambda s: s, lambda s: s**2, math.sqrt])
def test_the_search_finds_the_largest_share_without_excess(root, shape):
    found, asked = searched(lambda share: shape(share) / shape(root) - 1.0)
    assert found != "base" and found <= root
    assert found >= 0.9 * root - 0.01
    assert len(asked) <= 8 and all(0.0 <= share <= 1.0 for share in asked)


def test_the_search_takes_everything_at_once_when_nothing_is_in_excess():
    assert searched(lambda share: 0.0) == (1.0, [1.0])
    assert searched(lambda share: -0.5) == (1.0, [1.0])


def test_the_search_halves_where_it_only_knows_that_something_is_not_allowed():
    found, asked = searched(lambda share: -0.5 if share <= 0.3 else math.inf)
    assert asked[:3] == [1.0, 0.5, 0.25]
    assert 0.28 <= found <= 0.3
    found, asked = searched(lambda share: math.inf)
    assert found == "base" and asked == [0.5**n for n in range(8)]


def test_the_search_stops_when_it_is_close():
    _, asked = searched(lambda share: 2.0 * share - 1.0)
    assert len(asked) <= 4
    found, asked = searched(lambda share: share - 0.5, base_excess=0.0)
    assert found != "base" and asked[1] == 0.5
