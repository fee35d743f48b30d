"""Laws of the limits: whatever is asked for, what is sent stays inside them."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_core import rotations, safety
from openvla_core.errors import ConfigError
from openvla_core.safety import GripperGate, SafetyLimiter, SafetySettings, limit_step
from openvla_core.types import Action, Pose

LIMITS = SafetySettings(
    max_speed=0.4,
    max_acceleration=3.0,
    stop_acceleration=4.0,
    max_angular_speed=1.5,
    max_angular_acceleration=8.0,
    stop_angular_acceleration=12.0,
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
# A goal and how long it is followed; None brakes. Ticks are as irregular as a loaded machine makes them.
phases = st.lists(
    st.tuples(st.one_of(st.none(), poses(near), poses(wild)), st.integers(1, 20), st.floats(0.002, 0.2)),
    min_size=1,
    max_size=6,
)


def at(x=0.5, y=0.0, z=0.3) -> Pose:
    return Pose(np.array([x, y, z]), rotations.IDENTITY)


def stream(start, script):
    """(dt that counted, whether it braked, the pose sent) for every tick of the script."""
    limiter = SafetyLimiter(LIMITS, start)
    for goal, ticks, dt in script:
        for _ in range(ticks):
            pose = limiter.brake(dt) if goal is None else limiter.follow(goal, dt)
            brakes = goal is None or not np.isfinite(goal.position).all()
            yield min(dt, safety.LONGEST_TICK_S), brakes, pose


@settings(max_examples=150, deadline=None)
@given(inside, phases)
def test_every_command_is_finite_inside_the_box_and_within_speed_and_acceleration(start, script):
    before, velocity, angular = start, np.zeros(3), np.zeros(3)
    for dt, braked, pose in stream(start, script):
        assert np.isfinite(pose.position).all() and np.isfinite(pose.quaternion).all()
        assert abs(np.linalg.norm(pose.quaternion) - 1.0) < 1e-9
        assert pose.quaternion @ before.quaternion > 0, "the quaternion changed its sign"
        assert (pose.position >= LOW - 1e-9).all() and (pose.position <= HIGH + 1e-9).all()

        new_velocity = (pose.position - before.position) / dt
        new_angular = rotations.rotation_between(before.quaternion, pose.quaternion) / dt
        rounding = 1e-12 / dt + 1e-9
        assert np.linalg.norm(new_velocity) <= LIMITS.max_speed + rounding
        assert np.linalg.norm(new_angular) <= LIMITS.max_angular_speed + 1e-6
        most = LIMITS.stop_acceleration if braked else LIMITS.max_acceleration
        most_angular = LIMITS.stop_angular_acceleration if braked else LIMITS.max_angular_acceleration
        assert np.linalg.norm(new_velocity - velocity) <= most * dt + 2 * rounding
        assert np.linalg.norm(new_angular - angular) <= most_angular * dt + 2e-6
        if braked:
            assert np.linalg.norm(new_velocity) <= np.linalg.norm(velocity) + rounding
        before, velocity, angular = pose, new_velocity, new_angular


@settings(max_examples=30, deadline=None)
@given(inside, phases)
def test_the_same_inputs_give_the_same_bytes(start, script):
    def log():
        return [pose.position.tobytes() + pose.quaternion.tobytes() for _, _, pose in stream(start, script)]

    assert log() == log()


@settings(max_examples=50, deadline=None)
@given(inside, inside)
def test_a_goal_inside_the_box_is_reached_on_a_straight_line_without_overshoot(start, goal):
    limiter = SafetyLimiter(LIMITS, start)
    way = goal.position - start.position
    length = np.linalg.norm(way)
    for _ in range(150):
        pose = limiter.follow(goal, TICK)
        done = pose.position - start.position
        if length > 1e-6:
            along = done @ way / length
            assert -1e-9 <= along <= length + 1e-9
            assert np.linalg.norm(done - along * way / length) < 1e-6
    assert np.linalg.norm(goal.position - pose.position) < 1e-6
    assert np.linalg.norm(rotations.rotation_between(pose.quaternion, goal.quaternion)) < 1e-5


@settings(max_examples=50, deadline=None)
@given(inside, poses(near), st.integers(1, 40))
def test_braking_ends_at_rest_within_the_stopping_distance_and_stays(start, goal, ticks):
    limiter = SafetyLimiter(LIMITS, start)
    for _ in range(ticks):
        begin = limiter.follow(goal, TICK)
    for _ in range(math.ceil(LIMITS.max_angular_speed / LIMITS.stop_acceleration / TICK) + 1):
        end = limiter.brake(TICK)
    assert limiter.at_rest
    assert np.linalg.norm(end.position - begin.position) <= LIMITS.max_speed**2 / (2 * LIMITS.stop_acceleration) + 1e-9
    assert np.array_equal(limiter.brake(TICK).position, end.position)


@given(inside, poses(near))
def test_a_lower_speed_limit_never_moves_further(start, goal):
    fast, slow = (
        SafetyLimiter(dataclasses.replace(LIMITS, max_speed=speed), start) for speed in (LIMITS.max_speed, 0.05)
    )
    for _ in range(10):
        fast_pose, slow_pose = fast.follow(goal, TICK), slow.follow(goal, TICK)
    assert (
        np.linalg.norm(slow_pose.position - start.position)
        <= np.linalg.norm(fast_pose.position - start.position) + 1e-9
    )


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


@pytest.mark.parametrize(
    "changes",
    [
        {"max_speed": 0.6},
        {"max_acceleration": 5.0},
        {"max_translation": 0.1},
        {"max_rotation": 0.5},
        {"max_angular_speed": 3.0},
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


@given(st.lists(st.tuples(st.one_of(st.floats(0.0, 1.0), wild), st.floats(0.001, 0.3)), max_size=60))
def test_the_gripper_toggles_at_most_every_interval(script):
    gate = GripperGate(LIMITS)
    now, toggled, before = 0.0, -math.inf, None
    for opening, wait in script:
        now += wait
        command = gate.decide(opening, now)
        assert command in (None, 0.0, 1.0)
        if command != before:
            assert now - toggled >= LIMITS.gripper_interval_s
            toggled, before = now, command


def test_the_gripper_does_not_waver_within_its_hysteresis():
    gate = GripperGate(LIMITS)
    assert gate.decide(0.55, 0.0) is None
    assert gate.decide(0.61, 1.0) == 1.0
    assert gate.decide(0.41, 2.0) == 1.0
    assert gate.decide(0.39, 3.0) == 0.0
    assert gate.decide(0.59, 4.0) == 0.0
