"""Laws of the limits: whatever is asked for, what is sent stays inside them."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_core import rotations, safety, stopping
from openvla_core.errors import ConfigError
from openvla_core.safety import SafetyLimiter, SafetySettings, limit_step
from openvla_core.types import Action, Pose

LIMITS = SafetySettings(
    max_speed=0.4,
    max_acceleration=3.0,
    stop_acceleration=4.0,
    max_angular_speed=1.5,
    max_angular_acceleration=8.0,
    stop_angular_acceleration=12.0,
    start_ramp_s=0.0,
    workspace_low=(0.25, -0.35, 0.01),
    workspace_high=(0.75, 0.35, 0.60),
)
LOW, HIGH = np.array(LIMITS.workspace_low), np.array(LIMITS.workspace_high)
TICK = 0.02

near = st.floats(-1.0, 1.5)
wild = st.floats(allow_nan=True, allow_infinity=True)
angle = st.floats(-4.0, 4.0)


def vectors(numbers):
    return st.lists(numbers, min_size=3, max_size=3).map(np.array)


def poses(numbers):
    return st.builds(lambda p, r: Pose(p, rotations.from_rotation_vector(r)), vectors(numbers), vectors(angle))


inside = st.builds(
    lambda share, turn: Pose(LOW + share * (HIGH - LOW), rotations.from_rotation_vector(turn)),
    vectors(st.floats(0.0, 1.0)),
    vectors(angle),
)


def at(x=0.5, y=0.0, z=0.3) -> Pose:
    return Pose(np.array([x, y, z]), rotations.IDENTITY)


@settings(max_examples=15, deadline=None)
@given(poses(near))
def test_an_arm_outside_the_box_may_come_in_but_never_goes_further_out(goal):
    limiter = SafetyLimiter(LIMITS, at(z=-0.10))
    lowest = -0.10
    for _ in range(100):
        z = limiter.follow(goal, TICK).position[2]
        assert z >= lowest - 1e-12
        lowest = min(z, LOW[2])


@pytest.mark.parametrize("dt", [math.nan, math.inf, -1.0, 0.0])
def test_a_tick_of_no_sensible_length_does_not_move(dt):
    limiter = SafetyLimiter(LIMITS, at())
    limiter.follow(at(x=0.7), TICK)
    before = limiter.pose
    assert np.array_equal(limiter.follow(at(x=0.7), dt).position, before.position)


def test_a_goal_that_is_not_a_pose_brakes():
    limiter = SafetyLimiter(LIMITS, at())
    for _ in range(10):
        limiter.follow(at(x=0.7), TICK)
    for broken in (Pose(np.array([0.5, np.nan, 0.3]), rotations.IDENTITY), Pose(np.zeros(3), np.zeros(4))):
        speed = np.linalg.norm(limiter.velocity)
        limiter.follow(broken, TICK)
        assert np.linalg.norm(limiter.velocity) < speed


@given(vectors(st.floats(-1e300, 1e300)), vectors(st.floats(-1e300, 1e300)))
def test_shortening_a_step_keeps_its_direction_and_twice_is_once(translation, rotation):
    short_t, short_r, reasons = limit_step(translation, rotation, LIMITS)
    assert np.linalg.norm(short_t) <= LIMITS.max_translation * (1 + 1e-6)
    assert np.linalg.norm(short_r) <= LIMITS.max_rotation * (1 + 1e-6)
    both = np.concatenate([translation, rotation])
    short = np.concatenate([short_t, short_r])
    if reasons and np.abs(short).max() > 1e-300:
        assert np.allclose(both / np.abs(both).max(), short / np.abs(short).max(), atol=1e-9)
    again = limit_step(short_t, short_r, LIMITS)
    assert np.array_equal(again[0], short_t) and np.array_equal(again[1], short_r) and not again[2]


def test_a_goal_beyond_the_box_is_moved_to_its_wall_and_says_so():
    limiter = SafetyLimiter(LIMITS, at(z=0.03))
    down = Action(np.array([0.0, 0.0, -0.04]), np.zeros(3), 1.0)
    goal, reasons = limiter.limit(down, at(z=0.03))
    assert goal.position[2] == LOW[2]
    assert any("box" in reason for reason in reasons)


@given(st.one_of(st.floats(0.2001, math.inf), st.just(math.nan)))
def test_a_step_far_beyond_the_limit_is_a_wrong_unit_and_refused(size):
    problem = safety.refusal(size, 0.0, LIMITS)
    assert problem is not None and problem[0] == "ACT_TOO_LARGE"
    assert safety.refusal(0.0, 5 * size, LIMITS) is not None


def test_a_step_a_few_times_too_long_is_shortened_not_refused():
    assert safety.refusal(4.0 * LIMITS.max_translation, 4.0 * LIMITS.max_rotation, LIMITS) is None
    assert safety.refusal(0.0, 0.0, LIMITS) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"max_speed": 0.6},
        {"max_acceleration": 5.0},
        {"max_translation": 0.1},
        {"max_rotation": 0.5},
        {"max_angular_speed": 3.0},
        {"max_jerk": 501.0},
        {"stop_jerk": 501.0},
        {"max_angular_jerk": 2001.0},
        {"stop_angular_jerk": 2001.0},
        {"stop_acceleration": 4.1},
        {"max_angular_acceleration": 16.1},
        {"stop_angular_acceleration": 16.1},
        {"gripper_interval_s": 0.29},
        {"gripper_decisions": 0},
        {"start_ramp_s": -0.1},
        {"max_tilt": math.nan},
        {"tool_axis": (0.0, 0.0, 0.0)},
        {"cone_axis": (0.0, 1.0)},
        {"max_speed": math.nan},
        {"max_speed": -0.1},
        {"workspace_low": (0.8, -0.35, 0.01)},
        {"workspace_high": (0.75, math.nan, 0.6)},
        {"workspace_low": (0.25, -0.35)},
    ],
)
def test_no_setting_goes_beyond_its_cap(changes):
    with pytest.raises(ConfigError):
        SafetyLimiter(dataclasses.replace(LIMITS, **changes), at())


@pytest.mark.parametrize("pose", [None, Pose(np.full(3, np.nan), rotations.IDENTITY), Pose(np.zeros(3), np.zeros(4))])
def test_a_stream_cannot_start_where_there_is_no_pose(pose):
    with pytest.raises(ConfigError, match="finite position"):
        SafetyLimiter(LIMITS, pose)


def test_a_reset_without_a_pose_stands_still_where_the_stream_is():
    limiter = SafetyLimiter(LIMITS, at())
    for _ in range(10):
        limiter.follow(at(x=0.7), TICK)
    before = limiter.pose
    limiter.reset(Pose(np.full(3, np.inf), rotations.IDENTITY))
    assert limiter.at_rest and np.array_equal(limiter.pose.position, before.position)


def test_an_action_that_is_not_finite_aims_where_the_arm_is():
    limiter = SafetyLimiter(LIMITS, at())
    for broken in (math.nan, math.inf):
        goal, reasons = limiter.limit(Action(np.array([broken, 0.0, 0.0]), np.zeros(3), 1.0), at())
        assert np.array_equal(goal.position, at().position) and reasons
        goal, reasons = limiter.limit(Action(np.zeros(3), np.array([0.0, 0.0, broken]), 1.0), at())
        assert np.array_equal(goal.quaternion, at().quaternion) and reasons
        goal, reasons = limiter.limit(Action(np.zeros(3), np.zeros(3), 1.0), at(x=broken))
        assert np.array_equal(goal.position, at().position) and reasons


def test_within_the_limits_nothing_is_changed():
    goal, reasons = SafetyLimiter(LIMITS, at()).limit(Action(np.array([0.02, 0.0, 0.0]), np.zeros(3), 1.0), at())
    assert np.allclose(goal.position, [0.52, 0.0, 0.3]) and reasons == ()


def test_a_stop_is_harder_than_following_and_is_finished_before_anything_is_followed():
    limiter = SafetyLimiter(LIMITS, at())
    for _ in range(20):
        limiter.follow(at(x=0.7), TICK)
    limiter.brake(TICK)
    limiter.brake(TICK)
    decelerations = []
    while not limiter.at_rest:
        before = math.hypot(*limiter.velocity)
        limiter.follow(at(x=0.7), TICK)
        decelerations.append((before - math.hypot(*limiter.velocity)) / TICK)
    assert max(decelerations) > LIMITS.max_acceleration
    limiter.follow(at(x=0.7), TICK)
    assert not limiter.at_rest


def test_standstill_from_full_speed():
    """What the README says: 136 ms and 17 mm with the default profile."""
    limiter = SafetyLimiter(SafetySettings(), at(x=0.3))
    for _ in range(60):
        start = limiter.follow(at(x=0.7), TICK)
    assert np.isclose(np.linalg.norm(limiter.velocity), 0.25, atol=4e-3)
    elapsed = 0.0
    while not limiter.at_rest:
        end = limiter.brake(0.001)
        elapsed += 0.001
    assert elapsed == pytest.approx(0.136, abs=0.003)
    assert np.linalg.norm(end.position - start.position) == pytest.approx(0.0169, abs=5e-4)


@pytest.mark.parametrize("direction", list(itertools.product([-1, 0, 1], repeat=3)))
def test_full_speed_at_a_wall_ends_at_the_wall(direction):
    limiter = SafetyLimiter(LIMITS, at())
    goal = Pose(at().position + 5.0 * np.array(direction), rotations.IDENTITY)
    for _ in range(150):
        limiter.follow(goal, TICK)
    assert np.allclose(limiter.pose.position, np.clip(goal.position, LOW, HIGH), atol=1e-6)


def test_the_shorter_way_round_is_taken():
    start, goal = (
        rotations.from_rotation_vector(np.array([0, 0, 3.0])),
        rotations.from_rotation_vector(np.array([0, 0, -3.0])),
    )
    limiter = SafetyLimiter(LIMITS, Pose(at().position, start))
    turned = 0.0
    for _ in range(100):
        before = limiter.pose.quaternion
        turned += rotations.rotation_between(before, limiter.follow(Pose(at().position, goal), TICK).quaternion)[2]
    assert turned == pytest.approx(2 * math.pi - 6.0, abs=1e-6)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", [-1, 1])
def test_from_outside_every_wall_the_arm_comes_straight_in(axis, side):
    start = (LOW + HIGH) / 2
    start[axis] = (LOW if side < 0 else HIGH)[axis] + 0.1 * side
    limiter = SafetyLimiter(LIMITS, Pose(start, rotations.IDENTITY))
    outwards, edge = (Pose(p, rotations.IDENTITY) for p in (start + np.eye(3)[axis] * side, np.clip(start, LOW, HIGH)))
    assert all(np.array_equal(limiter.follow(outwards, TICK).position, start) for _ in range(10))
    ways = [limiter.follow(edge, TICK).position[axis] for _ in range(100)]
    assert all(b * side <= a * side for a, b in itertools.pairwise([start[axis], *ways]))
    assert ways[-1] == pytest.approx((LOW if side < 0 else HIGH)[axis], abs=1e-6)


def tighten_box(limiter):
    limiter._high = (limiter.pose.position[0] + 1e-4, *limiter._high[1:])


def tighten_speed(limiter):
    limiter._limits = limiter._limits._replace(speed=0.9 * math.hypot(*limiter.velocity))


def tighten_cone(limiter):
    limiter._cone._max_tilt = 0.0


def tighten_angular_speed(limiter):
    speed = 0.9 * math.hypot(*limiter.angular_velocity)
    limiter._angular_limits = limiter._angular_limits._replace(speed=speed)


@pytest.mark.parametrize(
    ("tighten", "kept", "replaced"),
    [
        (tighten_box, "_move", "_turn"),
        (tighten_speed, "_move", "_turn"),
        (tighten_cone, "_turn", "_move"),
        (tighten_angular_speed, "_turn", "_move"),
    ],
)
def test_a_harder_stop_that_would_not_fit_is_not_taken(tighten, kept, replaced):
    """It is not known to happen; the plan there is stops as well, only more gently."""
    limiter = SafetyLimiter(dataclasses.replace(LIMITS, max_tilt=1.0, cone_axis=(0.0, 0.0, 1.0)), at())
    goal = Pose(np.array([0.7, 0.0, 0.3]), rotations.from_rotation_vector(np.array([0.9, 0.0, 0.0])))
    for _ in range(12):
        limiter.follow(goal, TICK)
    before = {name: getattr(limiter, name) for name in (kept, replaced)}
    tighten(limiter)
    limiter._plan_stop()
    assert getattr(limiter, kept) is before[kept]
    assert getattr(limiter, replaced) is not before[replaced]


def way_along(axis, *places):
    """A motion with these corners along an axis, in the middle of the box along the others."""
    corners = []
    for place in places:
        corner = (LOW + HIGH) / 2
        corner[axis] = place
        corners.append(tuple(corner))
    return stopping.Motion(corners[0], (0.0,) * 3, (0.0,) * 3, (), corners[-1], tuple(corners), 0.0)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("start", "places", "stays"),
    [
        # from inside: anywhere inside, up to rounding
        (0.05, [0.05, 0.0, 0.02], True),
        (0.05, [0.05, -5e-13, 0.02], True),
        (0.05, [0.05, -2e-12, 0.02], False),
        (0.05, [0.05, 0.1, -0.01], False),
        # from the wall itself: as from inside
        (0.0, [0.0, 0.03, 0.01], True),
        # from outside: inwards only, and not out on the other side
        (-0.1, [-0.1, -0.05, 0.1], True),
        (-0.1, [-0.1, -0.1 - 5e-13, 0.1], True),
        (-0.1, [-0.1, -0.1 - 2e-12, 0.1], False),
        (-0.1, [-0.1, 0.1, 0.05], False),
        (-0.1, [-0.11, -0.05, 0.1], False),
        (-0.1, [-0.1, 0.1, 2.0], False),
    ],
)
def test_which_ways_stay_in_the_box(axis, mirrored, start, places, stays):
    """Places count from a wall, positive inwards, metres."""
    wall, inwards = (HIGH[axis], -1.0) if mirrored else (LOW[axis], 1.0)
    motion = way_along(axis, *(wall + inwards * place for place in places))
    begin = way_along(axis, wall + inwards * start).position
    assert SafetyLimiter(LIMITS, at())._stays_in_box(motion, begin) is stays


def test_a_reset_begins_at_the_pose_it_is_given():
    limiter = SafetyLimiter(LIMITS, at())
    limiter.follow(at(x=0.7), TICK)
    measured = Pose(np.array([0.4, 0.1, 0.2]), rotations.from_rotation_vector(np.array([0.1, 0.2, 0.3])))
    limiter.reset(measured)
    assert limiter.at_rest
    for pose in (limiter.pose, limiter.brake(TICK)):
        assert np.array_equal(pose.position, measured.position)
        assert np.allclose(pose.quaternion, measured.quaternion, atol=1e-15)


def test_the_start_ramp_begins_at_a_fifth_of_the_speed_and_ends_at_all_of_it():
    profile = dataclasses.replace(LIMITS, start_ramp_s=5.0, max_jerk=500.0, max_acceleration=4.0)
    limiter = SafetyLimiter(profile, at(x=0.26))
    speeds = []
    for _ in range(100):
        limiter.follow(at(x=0.74), 0.02)
        speeds.append(float(np.linalg.norm(limiter.velocity)) / profile.max_speed)
    for seconds in (0.3, 0.6, 1.0, 1.6):
        share = 0.2 + 0.8 * seconds / 5.0
        assert speeds[round(seconds / 0.02) - 1] == pytest.approx(share, rel=0.03)


def test_standing_still_is_not_counted_as_ramp():
    limiter = SafetyLimiter(dataclasses.replace(LIMITS, start_ramp_s=0.5), at(x=0.3))
    for _ in range(100):
        limiter.brake(TICK)
    limiter.brake(TICK)
    for _ in range(8):
        limiter.follow(at(x=0.7), TICK)
    assert np.linalg.norm(limiter.velocity) <= (0.2 + 0.8 * 8 * TICK / 0.5) * LIMITS.max_speed + 1e-9


@pytest.mark.parametrize(("limits", "seconds", "radians"), [(SafetySettings(), 0.135, 0.0675), (LIMITS, 0.14, 0.105)])
def test_turning_stops_with_the_stop_limits(limits, seconds, radians):
    limiter = SafetyLimiter(dataclasses.replace(limits, start_ramp_s=0.0), at())
    goal = Pose(at().position, rotations.from_rotation_vector(np.array([0.0, 0.0, 3.0])))
    for _ in range(40):
        start = limiter.follow(goal, TICK)
    assert np.linalg.norm(limiter.angular_velocity) == pytest.approx(limits.max_angular_speed, rel=0.01)
    elapsed = 0.0
    while not limiter.at_rest:
        end = limiter.brake(0.001)
        elapsed += 0.001
    assert elapsed == pytest.approx(seconds, abs=0.004)
    turned = np.linalg.norm(rotations.rotation_between(start.quaternion, end.quaternion))
    assert turned == pytest.approx(radians, abs=0.003)


def test_a_stop_in_the_last_moment_of_a_late_tick_uses_the_time_beyond_the_longest_tick():
    """50 ms are followed, the rest is spent on the plan to standstill."""
    on_time, late = (SafetyLimiter(LIMITS, at(x=0.3)) for _ in "ab")
    for _ in range(15):
        on_time.follow(at(x=0.7), TICK), late.follow(at(x=0.7), TICK)
    on_time.follow(at(x=0.7), 0.05)
    late.follow(at(x=0.7), 0.05 + 0.02)
    plan = stopping.advance(on_time._move, 0.02)
    assert late.pose.position[0] == pytest.approx(plan.position[0], abs=1e-12)
    assert late.velocity[0] < on_time.velocity[0]


def test_fifty_milliseconds_are_not_late():
    limiter = SafetyLimiter(SafetySettings(start_ramp_s=0.0), at(x=0.3))
    for _ in range(40):
        before = limiter.follow(at(x=0.7), TICK)
    on_time = limiter.follow(at(x=0.7), 0.05)
    assert np.linalg.norm(on_time.position - before.position) >= 0.99 * 0.05 * np.linalg.norm(limiter.velocity)
    assert np.linalg.norm(limiter.velocity) > 0.24
    limiter.follow(at(x=0.7), 0.1)
    assert np.linalg.norm(limiter.velocity) < 0.22


@pytest.mark.parametrize("factor", [1.0001, 1.5, 3.0])
def test_a_step_is_shortened_to_the_longest_one(factor):
    for size, turn in ((factor, 0.1), (0.1, factor)):
        translation, rotation, reasons = limit_step(
            np.array([size * LIMITS.max_translation, 0.0, 0.0]),
            np.array([0.0, turn * LIMITS.max_rotation, 0.0]),
            LIMITS,
        )
        longest = max(translation[0] / LIMITS.max_translation, rotation[1] / LIMITS.max_rotation)
        assert longest == pytest.approx(1.0, rel=1e-12) and len(reasons) == 1
    both = limit_step(np.array([0.12, 0.0, 0.0]), np.array([0.0, 0.3, 0.0]), LIMITS)
    assert both[0][0] <= LIMITS.max_translation and both[1][1] <= LIMITS.max_rotation and len(both[2]) == 2


def test_an_acceleration_without_speed_is_taken_back_on_the_way_to_rest():
    motion = stopping.plan_stop((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.5, 0.0, 0.0), stopping.Limits(1.0, 1.0, 50.0))
    end = stopping.advance(motion, 10.0)
    assert end.velocity == end.acceleration == (0.0, 0.0, 0.0) and end.position == pytest.approx(motion.end)
    assert all(math.hypot(*jerk) <= 50.0 + 1e-9 for _, jerk in motion.pieces)


@pytest.mark.parametrize("tiny", [(-0.001, 0.0, 0.0), (0.001, 0.0, 0.0), (0.0, 0.0, 0.0)])
def test_from_far_outside_the_box_one_action_moves_the_arm_by_one_step_at_most(tiny):
    """The goal was once clamped after the step was shortened: 1 mm became 130 mm."""
    start = at(x=LOW[0] - 0.13)
    limiter = SafetyLimiter(LIMITS, start)
    goal, reasons = limiter.limit(Action(np.array(tiny), np.zeros(3), 1.0), start)
    step = np.linalg.norm(goal.position - start.position)
    assert step == pytest.approx(LIMITS.max_translation) and goal.position[0] > start.position[0]
    assert reasons == ("goal moved into the workspace box", f"step shortened to {LIMITS.max_translation:g} m")
    for _ in range(200):
        pose = limiter.follow(goal, TICK)
    assert np.allclose(pose.position, goal.position, atol=1e-6)
