"""Someone who wants to break the command stream: knows its state, picks every goal and every tick, obeys no rule."""

import itertools
import math
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from stream_checker import StreamChecker

from openvla_core import rotations
from openvla_core.safety import SafetyLimiter, SafetySettings, limit_step
from openvla_core.types import Action, Pose

# How many times as many examples: "few" is for benchmarks/mutation.py.
EFFORT = {"nightly": 20.0, "few": 0.2}.get(os.environ.get("OPENVLA_HYPOTHESIS", "ci"), 1.0)
# Times shorter than this say nothing about a jerk: rounding is larger. The checker sees the stream in such steps.
MEASURABLE_S = 1e-3
BRISK = SafetySettings(start_ramp_s=0.0, max_tilt=math.pi)
PLACE = np.array([0.5, 0.0, 0.3])


def effort(examples):
    return max(round(EFFORT * examples), 5)


def thorough(examples):
    return settings(
        max_examples=effort(examples),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.generate],
    )


def at(*position, turn=(0.0, 0.0, 0.0)):
    return Pose(np.array(position), rotations.from_rotation_vector(np.array(turn)))


def extreme(name):
    """The smallest, the usual and the largest value that a setting may have."""
    field = SafetySettings.__dataclass_fields__[name]
    return st.sampled_from([field.metadata["minimum"], field.default, field.metadata["maximum"]])


LIMITED = [
    f"{kind}_{angular}{order}"
    for angular in ("", "angular_")
    for kind, order in itertools.product(("max", "stop"), ("acceleration", "jerk"))
] + ["max_speed", "max_angular_speed", "start_ramp_s"]
profiles = st.builds(
    SafetySettings,
    **{name: extreme(name) for name in LIMITED},
    workspace_low=st.sampled_from([(-2.0, -2.0, -2.0), (0.0, 0.0, 0.0), (0.28, -0.45, 0.02)]),
    workspace_high=st.sampled_from([(2.0, 2.0, 2.0), (0.5, 5e-324, 0.3), (0.5, 1e-9, 0.75)]),
    max_tilt=st.sampled_from([0.0, 1e-6, 0.3, math.pi / 2, math.pi - 1e-7, math.pi]),
    tool_axis=st.sampled_from([(0.0, 0.0, 1.0), (0.0, 0.1, 0.0)]),
    cone_axis=st.sampled_from([(0.0, 0.0, 1.0), (0.0, 0.0, -1.0)]),
)
tiny = st.sampled_from([0.0, -0.0, 5e-324, -1e-310, 1e-300, 1e-17, -1e-12, 1e-7, 1.01e-7, 1e-5])
offsets = st.tuples(tiny, tiny, tiny).map(np.array)
ticks = st.sampled_from(
    [0.02, 0.02, 0.01, 0.05, 0.05000001, 0.3, 5e-324, 1e-300, 1e-9, 1e-6, 1.1e-6, 1e-4, 0.0, -0.02, -math.inf, math.nan,
     1e308]
)  # fmt: skip


def corner(limiter, offset):
    s = limiter.settings
    return Pose(np.where(offset >= 0.0, s.workspace_high, s.workspace_low) + offset, limiter.pose.quaternion)


def beyond(limiter, offset):
    """Twice as far as it would go by itself: the goal runs away from the arm."""
    pose = limiter.pose
    ahead = rotations.from_rotation_vector(np.array(limiter._turn.end) * 2.0 + offset)
    return Pose(2.0 * np.array(limiter._move.end) - pose.position, rotations.multiply(ahead, pose.quaternion))


def turned(limiter, offset, radians):
    axis = offset / np.abs(offset).max() if np.abs(offset).max() > 1e-8 else np.array([1.0, 0.0, 0.0])
    turn = rotations.from_rotation_vector(radians * axis / np.linalg.norm(axis))
    return Pose(-limiter.pose.position, rotations.multiply(turn, limiter.pose.quaternion))


def crooked(quaternion, offset):
    """Added to without being scaled again, as a message may be."""
    return quaternion + np.array([*offset, 0.0])


GOALS = {
    "here": lambda at, d: Pose(at.pose.position + d, crooked(at.pose.quaternion, d)),
    "where it will stop": lambda at, d: Pose(np.array(at._move.end) + d, at.pose.quaternion),
    "the same, said differently": lambda at, d: Pose(at.pose.position, -1.04 * at.pose.quaternion),
    "beyond": beyond,
    "a corner": corner,
    "half a turn": lambda at, d: turned(at, d, math.pi),
    "half a turn back": lambda at, d: turned(at, d, -math.pi),
    "almost half a turn": lambda at, d: turned(at, d, math.pi - 1e-9),
    "far": lambda at, d: Pose(1e308 * np.sign(d + 1e-320), at.pose.quaternion),
    "not a place": lambda at, d: Pose(at.pose.position * math.nan, at.pose.quaternion),
    "not a rotation": lambda at, d: Pose(at.pose.position, 2.0 * at.pose.quaternion),
    "nothing": lambda at, d: None,
    "too large for a float": lambda at, d: Pose([10**400, 0, 0], [0, 0, 0, 1]),
}
moves = st.tuples(st.sampled_from([*GOALS, "brake", "stand here anew"]), offsets, ticks)


@thorough(150)
@given(
    profiles,
    st.sampled_from([at(0.3, 0.0, 0.1), at(0.0, 0.0, 0.0), at(0.5, -0.5, 0.3, turn=(math.pi, 0.0, 0.0))]),
    st.sampled_from([0, 4, 12]),
    st.lists(moves, min_size=1, max_size=6),
)
def test_whatever_comes_at_every_tick_the_stream_keeps_its_limits(profile, start, running, pattern):
    """A pattern of goals, stops, restarts and clocks over and over, with nothing said twice in a row."""
    limiter = SafetyLimiter(profile, start)
    checker, waited, braked = StreamChecker(profile, start), 0.0, False
    away = Pose(np.array([0.45, 0.0, 0.2]), rotations.from_rotation_vector(np.array([0.0, 0.9, 0.0])))
    script = [("away", np.zeros(3), 0.02)] * running + pattern * (60 // len(pattern))
    for kind, offset, dt in script:
        if kind == "stand here anew":
            limiter.reset(limiter.pose)
            checker.restart(limiter.pose)
            waited, braked = 0.0, False
            assert limiter.at_rest
            continue
        goal = away if kind == "away" else GOALS[kind](limiter, offset) if kind in GOALS else None
        pose = limiter.follow(goal, dt) if kind != "brake" else limiter.brake(dt)
        braked = braked or kind in ("brake", "not a place", "not a rotation", "nothing", "too large for a float")
        waited += min(max(dt, 0.0), 1e4) if math.isfinite(dt) else 0.0
        assert np.isfinite([*pose.position, *pose.quaternion, *limiter.velocity, *limiter.angular_velocity]).all()
        assert math.hypot(*limiter.velocity) <= profile.max_speed * (1 + 1e-9)
        assert math.hypot(*limiter.angular_velocity) <= profile.max_angular_speed * (1 + 1e-9)
        if waited >= MEASURABLE_S:
            checker.see(pose, waited, braked)
            waited, braked = 0.0, False
    while not limiter.at_rest:
        checker.see(limiter.brake(0.02), waited + 0.02, True)
        waited = 0.0


@pytest.mark.parametrize("ticks_on_the_way", range(3, 12))
def test_a_goal_as_good_as_here_while_moving_is_not_a_division_by_nothing(ticks_on_the_way):
    """1e-310 m beside the arm, at full speed: one divided by it is infinite, and the pose that was sent was NaN."""
    limiter = SafetyLimiter(SafetySettings(workspace_low=(-0.5, -0.5, -0.5)), at(0.0, 0.0, 0.3))
    for _ in range(ticks_on_the_way):
        here = limiter.follow(at(0.4, 0.0, 0.3, turn=(1.0, 0.0, 0.0)), 0.02)
    beside = np.array([0.0, 1e-310, 0.0])
    pose = limiter.follow(Pose(here.position + beside, here.quaternion + np.array([*beside, 0.0])), 0.02)
    assert np.isfinite(pose.position).all() and np.isfinite(pose.quaternion).all()


@pytest.mark.parametrize("dt", [5e-324, 1e-300, 1e-9, 9.9e-7])
def test_a_clock_that_hardly_moves_does_not_move_the_arm(dt):
    limiter = SafetyLimiter(SafetySettings(max_acceleration=0.1, stop_acceleration=0.1), at(0.3, 0.0, 0.3))
    for _ in range(100):
        limiter.follow(at(0.6, 0.0, 0.3), dt)
    assert limiter.at_rest and np.array_equal(limiter.pose.position, [0.3, 0.0, 0.3])
    for _ in range(20):
        here = limiter.follow(at(0.6, 0.0, 0.3), 0.02)
    assert np.linalg.norm(limiter.follow(here, dt).position - here.position) <= 1e-6


def test_what_others_do_with_their_arrays_does_not_move_the_arm():
    position, quaternion = np.array([0.3, 0.0, 0.3]), np.array([0.0, 0.0, 0.0, 1.0])
    used, untouched = SafetyLimiter(BRISK, Pose(position, quaternion)), SafetyLimiter(BRISK, at(0.3, 0.0, 0.3))
    position[:], quaternion[:] = 9.0, 0.5
    goal = at(0.5, 0.0, 0.4, turn=(0.0, 0.5, 0.0))
    for _ in range(30):
        assert np.array_equal(used.pose.position, untouched.pose.position)
        for pose in (used.follow(goal, 0.02), used.pose):
            pose.position[:], pose.quaternion[:] = math.nan, 0.5
        used.velocity[:] = used.angular_velocity[:] = 9.0
        expected = untouched.follow(goal, 0.02)
        assert np.array_equal(used.pose.position, expected.position)
        assert np.array_equal(used.pose.quaternion, expected.quaternion)
    again = np.array([0.4, 0.0, 0.3])
    used.reset(Pose(again, np.array([0.0, 0.0, 0.0, 1.0])))
    again[:] = -5.0
    assert np.array_equal(used.brake(0.02).position, [0.4, 0.0, 0.3])


directions = st.tuples(*[st.floats(-1.0, 1.0)] * 3).filter(lambda d: math.hypot(*d) > 0.1)


@thorough(12)
@given(directions, directions, st.sampled_from([math.pi, math.pi - 1e-12, math.pi + 1e-12, math.pi - 1e-5]))
def test_half_a_turn_is_reached_either_way_round(axis, start, radians):
    """The one rotation with two shortest ways: it must choose one and stay with it."""
    begin = Pose(PLACE, rotations.from_rotation_vector(np.array(start)))
    turn = radians * np.array(axis) / np.linalg.norm(axis)
    goal = rotations.multiply(rotations.from_rotation_vector(turn), begin.quaternion)
    limiter, travelled = SafetyLimiter(BRISK, begin), 0.0
    for tick in range(250):
        before = limiter.pose.quaternion
        said = goal if tick % 2 else -goal
        after = limiter.follow(Pose(PLACE, said), 0.02).quaternion
        travelled += float(np.linalg.norm(rotations.rotation_between(before, after)))
    assert np.linalg.norm(rotations.rotation_between(after, goal)) < 2e-7
    assert travelled == math.pi or abs(travelled - math.pi) < 2e-5


anywhere = st.tuples(*[st.one_of(st.floats(-3.0, 3.0), st.sampled_from([1e308, -1e300, 5e-324, 0.28]))] * 3)
numbers = st.one_of(st.floats(-0.3, 0.3), st.floats(allow_nan=False, allow_infinity=False))


@thorough(150)
@given(
    st.builds(at, *[numbers] * 3, turn=st.tuples(*[st.floats(-4.0, 4.0)] * 3)).map(
        lambda pose: Pose(np.clip(pose.position, -1e308, 1e308), 1.05 * pose.quaternion)
    ),
    st.builds(Action, *[st.tuples(*[numbers] * 3).map(np.array)] * 2, st.just(1.0)),
    st.sampled_from([math.pi, 2.0, 0.3, 0.0]),
)
def test_one_action_asks_for_one_step_at_most_wherever_the_arm_is(reference, action, max_tilt):
    """And neither the box nor the cone is left any further by it."""
    profile = SafetySettings(max_tilt=max_tilt)
    limiter = SafetyLimiter(profile, at(0.5, 0.0, 0.3))
    goal, _ = limiter.limit(action, reference)
    assert np.isfinite(goal.position).all()
    start, way = reference.position, goal.position - reference.position
    resolution = 4.0 * float(np.spacing(np.abs(start).max()))
    assert np.linalg.norm(way) <= profile.max_translation * (1 + 1e-8) + resolution
    turn = np.linalg.norm(rotations.rotation_between(reference.quaternion / 1.05, goal.quaternion))
    assert turn <= profile.max_rotation * (1 + 1e-8)
    outside = [np.abs(p - np.clip(p, profile.workspace_low, profile.workspace_high)) for p in (start, goal.position)]
    assert (outside[1] <= outside[0] + 1e-15).all()


@pytest.mark.parametrize("reference", [None, Pose(PLACE, np.zeros(4)), Pose(np.full(3, 1.0), np.full(4, math.nan))])
def test_a_step_from_nowhere_goes_nowhere(reference):
    limiter = SafetyLimiter(BRISK, at(0.5, 0.0, 0.3))
    goal, reasons = limiter.limit(Action(np.full(3, 0.01), np.zeros(3), 1.0), reference)
    assert np.array_equal(goal.position, PLACE) and len(reasons) == 1


def test_a_step_of_no_length_is_no_step_and_says_nothing():
    for nothing in (np.zeros(3), np.full(3, 5e-324), np.full(3, -0.0)):
        translation, rotation, reasons = limit_step(nothing, nothing, BRISK)
        assert np.array_equal(translation, nothing) and np.array_equal(rotation, nothing) and reasons == []


@pytest.mark.parametrize("between", ["follow", "brake", "nonsense"])
def test_a_stop_that_is_asked_for_again_and_again_takes_no_longer(between):
    """Braking while braking, or a goal or nonsense in between, is the same stop."""
    plain, nagged = (SafetyLimiter(BRISK, at(0.3, 0.0, 0.3)) for _ in "ab")
    away = at(0.7, 0.0, 0.3, turn=(0.0, 1.0, 0.0))
    for _ in range(20):
        plain.follow(away, 0.02), nagged.follow(away, 0.02)
    first = True
    while not plain.at_rest:
        plain.brake(0.01)
        if first or between == "brake":
            nagged.brake(0.01)
        else:
            nagged.follow(away if between == "follow" else None, 0.01)
        first = False
        assert np.array_equal(plain.pose.position, nagged.pose.position)
        assert np.array_equal(plain.pose.quaternion, nagged.pose.quaternion)
    assert nagged.at_rest
