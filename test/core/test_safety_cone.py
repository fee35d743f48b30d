"""The orientation cone: a tool that must point somewhere keeps pointing there."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_core import orientation_cone, rotations
from openvla_core.orientation_cone import OrientationCone
from openvla_core.safety import SafetyLimiter, SafetySettings
from openvla_core.stopping import Limits, Motion, advance, plan_stop
from openvla_core.types import Action, Pose

PLACE = np.array([0.5, 0.0, 0.3])
DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # the tool's z axis points down
LIMITS = SafetySettings(max_tilt=0.3, start_ramp_s=0.0)
turns = st.lists(st.floats(-4.0, 4.0), min_size=3, max_size=3).map(np.array)


def tilt(quaternion):
    """The angle between the tool's z axis and straight down."""
    return math.acos(min(max(-float(rotations.rotate(quaternion, np.array([0.0, 0.0, 1.0]))[2]), -1.0), 1.0))


def tilted(*vector):
    return rotations.multiply(rotations.from_rotation_vector(np.array(vector)), DOWN)


def follow(limiter, quaternion, count=100):
    return [limiter.follow(Pose(PLACE, quaternion), 0.02).quaternion for _ in range(count)]


def test_the_goal_is_clamped_along_the_shortest_rotation_and_says_so():
    limiter = SafetyLimiter(LIMITS, Pose(PLACE, DOWN))
    start = Pose(PLACE, tilted(0.2, 0.0, 0.0))
    goal, reasons = limiter.limit(Action(np.zeros(3), np.array([0.25, 0.0, 0.0]), 1.0), start)
    assert rotations.rotation_between(DOWN, goal.quaternion) == pytest.approx([0.3, 0.0, 0.0], abs=1e-9)
    assert reasons == ("goal tilted into the orientation cone",)


@settings(max_examples=60, deadline=None)
@given(turns)
def test_clamping_turns_by_the_excess_and_twice_is_once(turn):
    cone = OrientationCone((0.0, 0.0, 1.0), (0.0, 0.0, -2.0), 0.3)
    quaternion = rotations.from_rotation_vector(turn)
    clamped = cone.clamp(quaternion)
    assert tilt(clamped) <= 0.3 + 1e-7
    moved = np.linalg.norm(rotations.rotation_between(quaternion, clamped))
    assert moved == pytest.approx(max(tilt(quaternion) - 0.3, 0.0), abs=1e-6)
    assert cone.clamp(clamped) is clamped
    assert cone.tilt(quaternion) == pytest.approx(tilt(quaternion), abs=1e-6)


def test_an_open_cone_changes_nothing():
    limiter = SafetyLimiter(dataclasses.replace(LIMITS, max_tilt=math.pi), Pose(PLACE, rotations.IDENTITY))
    assert np.linalg.norm(rotations.rotation_between(follow(limiter, DOWN, 300)[-1], DOWN)) < 1e-6


def test_a_cone_of_pi_holds_every_way_through_every_orientation():
    """Also upside down, where a bend could lead out of a cone that is almost as wide."""
    way = motion((0.0, 0.0), (0.3, 0.4), (0.6, 0.0))
    for max_tilt, held in ((math.pi, True), (math.pi - 1e-3, False)):
        assert OrientationCone((0.0, 0.0, 1.0), (0.0, 0.0, -1.0), max_tilt).holds(rotations.IDENTITY, way) is held
    assert OrientationCone((0.0, 0.0, 1.0), (0.0, 0.0, -1.0), math.pi).clamp(DOWN) is DOWN


def test_the_stream_ends_at_the_edge_of_the_cone():
    limiter = SafetyLimiter(LIMITS, Pose(PLACE, DOWN))
    tilts = [tilt(q) for q in follow(limiter, tilted(0.0, 1.2, 0.0))]
    assert max(tilts) <= 0.3 + 1e-6
    assert tilts[-1] == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("max_tilt", [0.0, 0.3])
def test_turning_about_the_axis_of_the_cone_is_free(max_tilt):
    limiter = SafetyLimiter(dataclasses.replace(LIMITS, max_tilt=max_tilt), Pose(PLACE, DOWN))
    goal = tilted(0.0, 0.0, 1.5)
    assert np.linalg.norm(rotations.rotation_between(follow(limiter, goal, 150)[-1], goal)) < 1e-6


@pytest.mark.parametrize("start", [tilted(0.9, 0.2, 0.0), rotations.IDENTITY, tilted(0.0, 0.301, 0.0)])
def test_from_outside_it_only_comes_in_and_then_reaches_the_goal(start):
    limiter = SafetyLimiter(LIMITS, Pose(PLACE, start))
    goal = tilted(0.1, 0.0, 0.4)
    before = tilt(start)
    for quaternion in follow(limiter, goal, 500):
        now = tilt(quaternion)
        assert now <= max(before + 1e-7, 0.3 + 1e-6)
        before = now
    assert np.linalg.norm(rotations.rotation_between(quaternion, goal)) < 1e-6


def test_a_reversal_on_the_way_in_is_not_taken():
    """Found by chance: 0.1 mrad before the edge it went back by a few millionths."""
    start = rotations.from_rotation_vector(np.array([-0.003, -2.65186615, 6.28318531]))
    profile = SafetySettings(
        max_angular_speed=0.661, max_angular_acceleration=16.0, max_angular_jerk=88.5, max_tilt=0.3,
        tool_axis=(0.6, 0.0, 0.8), cone_axis=(0.0, 0.0, 1.0),
    )  # fmt: skip
    limiter = SafetyLimiter(profile, Pose(PLACE, start))
    cone = OrientationCone(profile.tool_axis, profile.cone_axis, profile.max_tilt)
    tilts = [cone.tilt(start)]
    for tick in range(200):
        pose = limiter.follow(Pose(PLACE, start), 0.0388 * (1.0 + 0.07 * math.sin(7.0 * (tick % 18))))
        tilts.append(cone.tilt(pose.quaternion))
    assert all(after <= max(before + 1e-9, 0.3 + 2e-6) for before, after in itertools.pairwise(tilts))


def test_a_stop_at_full_speed_stays_in_the_cone():
    for count in range(1, 40):
        limiter = SafetyLimiter(LIMITS, Pose(PLACE, tilted(-0.3, 0.0, 0.0)))
        follow(limiter, tilted(0.3, 0.0, 0.0), count)
        while not limiter.at_rest:
            assert tilt(limiter.brake(0.02).quaternion) <= 0.3 + 1e-6


def test_a_way_that_would_leave_the_cone_ends_at_its_edge():
    """Both ends are inside, the shortest rotation between them is not: about its axis the tool swings far out."""
    cone = dataclasses.replace(LIMITS, max_tilt=0.5)
    start, goal = (
        tilted(0.45, 0.0, 0.0),
        rotations.multiply(tilted(0.0, 0.0, 2.0), rotations.from_rotation_vector(np.array([0.45, 0, 0]))),
    )
    limiter = SafetyLimiter(cone, Pose(PLACE, start))
    assert max(tilt(q) for q in follow(limiter, goal, 300)) <= 0.5 + 1e-6


def test_tool_axis_and_cone_axis_are_directions_of_any_length():
    a = OrientationCone((0.0, 0.6, 0.8), (0.0, 1.0, 0.0), 0.2)
    b = OrientationCone((0.0, 0.3, 0.4), (0.0, 0.2, 0.0), 0.2)
    assert a.tilt(DOWN) == pytest.approx(b.tilt(DOWN)) == pytest.approx(math.pi - math.acos(0.6))


def test_from_far_outside_the_cone_one_action_turns_the_tool_by_one_step_at_most():
    start = Pose(PLACE, tilted(1.2, 0.0, 0.0))
    limiter = SafetyLimiter(LIMITS, start)
    goal, reasons = limiter.limit(Action(np.zeros(3), np.array([0.001, 0.0, 0.0]), 1.0), start)
    turn = np.linalg.norm(rotations.rotation_between(start.quaternion, goal.quaternion))
    assert turn == pytest.approx(LIMITS.max_rotation) and tilt(goal.quaternion) < tilt(start.quaternion)
    assert "goal tilted into the orientation cone" in reasons
    tilts = [tilt(quaternion) for quaternion in follow(limiter, goal.quaternion, 200)]
    assert tilts[-1] == pytest.approx(1.2 - LIMITS.max_rotation, abs=1e-6)


def test_a_goal_further_outside_the_cone_than_the_arm_moves_nothing():
    limiter = SafetyLimiter(LIMITS, Pose(PLACE, tilted(1.2, 0.0, 0.0)))
    for quaternion in follow(limiter, tilted(1.3, 0.1, 0.0), 50):
        assert np.linalg.norm(rotations.rotation_between(quaternion, tilted(1.2, 0.0, 0.0))) < 1e-9


def motion(*corners):
    """A motion that only has a way: from its first corner to its last."""
    corners = tuple((*corner, 0.0) for corner in corners)
    return Motion(corners[0], (0.0,) * 3, (0.0,) * 3, (), corners[-1], corners, 0.0)


@pytest.mark.parametrize(
    ("corners", "bend"),
    [
        ([(0.0, 0.0), (0.1, 0.0), (0.2, 0.0)], 0.0),
        ([(0.0, 0.0), (0.1, 0.05), (0.2, 0.0)], 0.05 + 2 * math.hypot(0.1, 0.05) * 0.1),
        ([(0.0, 0.0), (0.3, 0.0), (0.2, 0.0)], 0.1 + 0.4 * 0.2),
        ([(0.0, 0.0), (-0.1, 0.0), (0.2, 0.0)], 0.1 + 0.4 * 0.2),
        ([(0.0, 0.0), (0.1, 0.0), (0.0, 0.0)], 0.1 + 0.2 * 0.2),
        ([(0.5, 0.5), (0.5, 0.6), (0.5, 0.7)], 0.0),
        ([(0.5, 0.5), (0.6, 0.6), (0.5, 0.7)], 0.1 + 2 * math.hypot(0.1, 0.1) * 0.2),
    ],
)
def test_the_bend_of_a_way(corners, bend):
    assert orientation_cone._bend(motion(*corners)) == pytest.approx(bend, abs=1e-15)


@pytest.mark.parametrize(
    ("corners", "forward"),
    [
        ([(0.0, 0.0), (0.1, 0.0), (0.2, 0.0)], True),
        ([(0.0, 0.0), (0.1, 0.3), (0.2, 0.0)], True),
        ([(0.0, 0.0), (0.3, 0.0), (0.2, 0.0)], False),
        ([(0.0, 0.0), (-0.1, 0.0), (0.2, 0.0)], False),
        ([(0.0, 0.0), (0.1, 0.0), (0.05, 0.0), (0.2, 0.0)], False),
        ([(0.0, 0.0)], True),
    ],
)
def test_a_way_goes_forward_or_not(corners, forward):
    way = motion(*corners)
    assert orientation_cone._goes_forward(way, tuple(np.subtract(way.end, way.position))) is forward


speeds = st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3).map(np.array)


@settings(max_examples=80, deadline=None)
@given(turns, speeds, speeds, st.integers(0, 2**32 - 1))
def test_however_a_plan_is_sampled_it_stays_within_what_was_checked(turn, velocity, acceleration, seed):
    """Whatever is held when the plan is made is held at every tick, also when the axis of rotation wanders."""
    limits = Limits(1.0, 2.0, 40.0)
    plan = plan_stop((0.0, 0.0, 0.0), tuple(velocity), tuple(acceleration), limits)
    cone = OrientationCone((0.0, 0.0, 1.0), (0.0, 0.0, -1.0), 1.0)
    start = quaternion = rotations.from_rotation_vector(turn)
    axis = tuple(rotations.rotate(start, np.array([0.0, 0.0, 1.0])).tolist())
    most = cone._largest_tilt(axis, plan.end) + orientation_cone._bend(plan)
    rng, left = np.random.default_rng(seed), plan
    while left.pieces:
        before = np.array(left.position)
        left = advance(left, float(rng.choice([0.002, 0.02, 0.2])))
        quaternion = rotations.multiply(rotations.from_rotation_vector(np.array(left.position) - before), quaternion)
        assert cone.tilt(quaternion) <= most + 1e-9


@settings(max_examples=30, deadline=None)
@given(turns, turns)
def test_the_largest_tilt_of_a_turn_about_one_axis(start, turn):
    cone = OrientationCone((0.0, 0.0, 1.0), (0.0, 0.0, -1.0), 1.0)
    axis = rotations.rotate(rotations.from_rotation_vector(start), np.array([0.0, 0.0, 1.0]))
    sampled = [
        tilt(rotations.multiply(rotations.from_rotation_vector(share * turn), rotations.from_rotation_vector(start)))
        for share in np.linspace(0.0, 1.0, 300)
    ]
    found = cone._largest_tilt(tuple(axis.tolist()), tuple(turn.tolist()))
    between_two_samples = float(np.linalg.norm(turn)) / 299 / 2
    assert max(sampled) - 1e-7 <= found <= max(sampled) + between_two_samples + 1e-7


def test_only_what_stays_inside_is_held():
    cone = OrientationCone((0.0, 0.0, 1.0), (0.0, 0.0, -1.0), 0.3)
    inwards, outwards = motion((0.0, 0.0), (0.1, 0.0)), motion((0.0, 0.0), (-0.1, 0.0))
    edge, outside = tilted(-0.3, 0.0, 0.0), tilted(-0.6, 0.0, 0.0)
    assert cone.holds(DOWN, inwards) and cone.holds(DOWN, outwards)
    assert cone.holds(edge, inwards) and not cone.holds(edge, outwards)
    assert cone.holds(outside, inwards) and not cone.holds(outside, outwards)
    assert not cone.holds(outside, motion((0.0, 0.0), (0.2, 0.0), (0.1, 0.0)))
    assert not cone.holds(tilted(-0.2, 0.0, 0.0), motion((0.0, 0.0), (0.1, 0.12), (0.2, 0.0)))
    # The motion begins after this tick: an orientation on the way counts, not only the end.
    assert not cone.holds(DOWN, motion((0.4, 0.0), (0.2, 0.0)))
    assert not cone.holds(outside, motion((-0.1, 0.0), (0.1, 0.0)))


def test_from_outside_it_does_not_turn_about_itself_before_it_is_inside():
    """The shortest way to this goal would first tilt further, and so could never begin."""
    start, goal = tilted(0.5, 0.0, 0.0), tilted(0.0, 0.0, 3.0)
    limiter = SafetyLimiter(LIMITS, Pose(PLACE, start))
    first = rotations.rotation_between(start, follow(limiter, goal, 8)[-1])
    assert first[0] < -0.01 and abs(first[1]) < 1e-9 and abs(first[2]) < 1e-9
    assert np.linalg.norm(rotations.rotation_between(follow(limiter, goal, 500)[-1], goal)) < 1e-6


@pytest.mark.parametrize("axis", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (-0.6, 0.0, 0.8)])
def test_straight_away_from_the_cone_there_is_a_way_back(axis):
    cone = OrientationCone(axis, tuple(-x for x in axis), 0.3)
    clamped = cone.clamp(rotations.IDENTITY)
    assert cone.tilt(clamped) == pytest.approx(0.3, abs=1e-9)
    assert np.linalg.norm(rotations.rotation_between(rotations.IDENTITY, clamped)) == pytest.approx(math.pi - 0.3)
