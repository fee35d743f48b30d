"""The promises about the command stream, on random scripts of goals, ticks, stops, resets and settings.

OPENVLA_HYPOTHESIS=nightly checks more than a million commands instead of fifty thousand.
"""

import math
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from stream_checker import StreamChecker

from openvla_core import rotations, safety_settings
from openvla_core.safety import SafetyLimiter, SafetySettings
from openvla_core.types import Pose

PROFILE_NAME = os.environ.get("OPENVLA_HYPOTHESIS", "ci")
# Scripts to carry out, and how many commands they must come to; "few" is for benchmarks/mutation.py.
SCRIPTS, ENOUGH = {"nightly": (9000, 1_000_000), "few": (40, 1_000)}.get(PROFILE_NAME, (600, 50_000))
FEW = PROFILE_NAME == "few"
COUNT = {"commands": 0, "scripts": 0}


def scaled(examples):
    return max(examples // 6, 5) if FEW else examples


share = st.floats(0.0, 1.0)
near = st.floats(-0.3, 1.2)
wild = st.one_of(st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 0.0]))
angle = st.one_of(
    st.floats(-4.0, 4.0), st.sampled_from([math.pi, -math.pi, math.pi - 1e-9, math.pi / 2, 1e-12, 2 * math.pi])
)
ticks = st.one_of(
    st.sampled_from([0.01, 0.02]),
    st.floats(0.002, 0.05),
    st.floats(0.05, 1.0),
    st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e-4, 30.0]),
)


def vectors(numbers, size=3):
    return st.lists(numbers, min_size=size, max_size=size).map(np.array)


def log_share(low, high):
    """Settings over the whole range up to the cap, the small ones as often as the large ones."""
    return share.map(lambda x: min(low * (high / low) ** x, high))


goals = st.one_of(
    st.builds(lambda p, r: Pose(p, rotations.from_rotation_vector(r)), vectors(near), vectors(angle)),
    st.builds(lambda p, r: Pose(p, rotations.from_rotation_vector(r)), vectors(wild), vectors(angle)),
    st.builds(Pose, vectors(wild), vectors(wild, 4)),
    st.sampled_from([Pose(np.zeros(2), np.zeros(4)), Pose(None, "x"), None, Pose(np.zeros(3), np.zeros(4))]),
)
# What happens for a while: (brake, follow a goal, follow goals that drift, or start anew at a pose), ticks, dt, jitter.
phases = st.lists(
    st.tuples(
        st.sampled_from(["follow", "follow", "drift", "follow", "brake", "reset"]),
        goals,
        st.integers(1, 60),
        ticks,
        st.floats(0.0, 0.9),
        vectors(st.floats(-0.01, 0.01), 6),
    ),
    min_size=2,
    max_size=9,
)
c = safety_settings
limits = st.builds(
    SafetySettings,
    max_speed=log_share(0.01, c.CAP_SPEED),
    max_acceleration=log_share(0.1, c.CAP_ACCELERATION),
    stop_acceleration=log_share(0.1, c.CAP_ACCELERATION),
    max_jerk=log_share(1.0, c.CAP_JERK),
    stop_jerk=log_share(1.0, c.CAP_JERK),
    max_angular_speed=log_share(0.01, c.CAP_ANGULAR_SPEED),
    max_angular_acceleration=log_share(1.0, c.CAP_ANGULAR_ACCELERATION),
    stop_angular_acceleration=log_share(1.0, c.CAP_ANGULAR_ACCELERATION),
    max_angular_jerk=log_share(10.0, c.CAP_ANGULAR_JERK),
    stop_angular_jerk=log_share(10.0, c.CAP_ANGULAR_JERK),
    start_ramp_s=st.sampled_from([0.0, 0.5]),
    workspace_low=st.sampled_from([(0.28, -0.45, 0.02), (0.25, -0.35, 0.01)]),
    workspace_high=st.sampled_from([(0.75, 0.45, 0.75), (0.30, 0.0, 0.06)]),
    max_tilt=st.sampled_from([math.pi, math.pi, 0.0, 0.3, 2.0]),
    tool_axis=st.sampled_from([(0.0, 0.0, 1.0), (0.6, 0.0, 0.8)]),
    cone_axis=st.sampled_from([(0.0, 0.0, 1.0), (0.0, 0.0, -1.0), (0.0, 0.1, 0.0)]),
)
limits = st.one_of(st.just(SafetySettings()), limits)
starts = st.builds(
    lambda p, r: Pose(p, rotations.from_rotation_vector(r)),
    st.one_of(vectors(st.floats(0.3, 0.4)), vectors(near)),
    vectors(angle),
)


def carry_out(profile, start, script):
    """The poses of a script, each checked when it is sent."""
    limiter = SafetyLimiter(profile, start)
    assert np.array_equal(limiter.pose.position, start.position)  # I12: it begins where the arm is
    assert np.allclose(limiter.pose.quaternion, start.quaternion, atol=1e-12)
    checker = StreamChecker(profile, limiter.pose)
    sent = []
    for kind, goal, count, dt, jitter, drift in script:
        if kind == "reset":
            limiter.reset(goal)
            checker.restart(limiter.pose)
            assert limiter.at_rest
        for tick in range(count):
            uneven = dt * (1.0 + jitter * math.sin(7.0 * tick))
            if kind == "brake":
                pose, braked = limiter.brake(uneven), True
            else:
                if kind == "drift" and isinstance(goal, Pose) and np.shape(goal.position) == (3,):
                    goal = Pose(np.asarray(goal.position) + drift[:3], goal.quaternion)
                pose = limiter.follow(goal, uneven)
                braked = rotations.checked_pose(*pieces(goal)) is None
            checker.see(pose, uneven, braked)
            sent.append(pose)
    COUNT["commands"] += len(sent)
    COUNT["scripts"] += 1
    return sent


def pieces(goal):
    """Position and quaternion of what may not be a pose."""
    if isinstance(goal, Pose) and isinstance(goal.quaternion, np.ndarray):
        return goal.position, goal.quaternion
    return np.zeros(3), np.zeros(4)


# No shrinking: for scripts of this length it takes many minutes, and the message names the first violation.
@settings(
    max_examples=SCRIPTS, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.reuse, Phase.generate]
)
@given(limits, starts, phases)
def test_every_command_keeps_every_limit(profile, start, script):
    """Finite (I1), speed (I2), acceleration (I3), jerk (I4), box and cone (I5), quaternions (I6), total (I18)."""
    carry_out(profile, start, script)


def test_enough_commands_were_checked(record_property, capsys):
    """A promise that was hardly tried is none. Prints how often it was."""
    record_property("commands", COUNT["commands"])
    with capsys.disabled():
        print(f"\n{COUNT['commands']:,} commands of {COUNT['scripts']:,} scripts keep every limit")
    assert COUNT["commands"] >= ENOUGH


PROFILE = SafetySettings(start_ramp_s=0.0)
inside = st.builds(
    lambda p, r: Pose(p, rotations.from_rotation_vector(r)),
    st.tuples(st.floats(0.3, 0.7), st.floats(-0.4, 0.4), st.floats(0.1, 0.7)).map(np.array),
    vectors(angle),
)
steps = st.lists(vectors(st.floats(-0.05, 0.05)), min_size=1, max_size=8)


def followed(profile, start, goal, count, dt=0.02):
    limiter = SafetyLimiter(profile, start)
    return [limiter.follow(goal, dt) for _ in range(count)]


@settings(max_examples=scaled(40), deadline=None)
@given(limits, starts, phases)
def test_the_same_inputs_give_the_same_bytes(profile, start, script):
    """I13."""
    runs = [[p.position.tobytes() + p.quaternion.tobytes() for p in carry_out(profile, start, script)] for _ in "ab"]
    assert runs[0] == runs[1]


@settings(max_examples=scaled(60), deadline=None)
@given(inside, inside, st.integers(1, 60), st.floats(0.002, 0.05))
def test_a_stop_lets_the_speed_fall_to_zero_and_stays(start, goal, count, dt):
    """I11. Only turning an acceleration around, which the jerk limit lets last a moment, may add a little first."""
    limiter = SafetyLimiter(PROFILE, start)
    for _ in range(count):
        begin = limiter.follow(goal, 0.02)
    speed = math.hypot(*limiter.velocity)
    speeds = []
    while not limiter.at_rest:
        limiter.brake(dt)
        speeds.append(math.hypot(*limiter.velocity))
    turning_around = PROFILE.max_acceleration**2 / (2 * PROFILE.stop_jerk)
    most = speed + turning_around
    for now in speeds:
        assert now <= most + 1e-12
        most = now if now < speed else most
    assert np.array_equal(limiter.velocity, np.zeros(3)) and np.array_equal(limiter.angular_velocity, np.zeros(3))
    end = limiter.pose
    travel = np.linalg.norm(end.position - begin.position)
    assert travel <= most_travel(PROFILE.max_speed, PROFILE.stop_acceleration, PROFILE.stop_jerk) + 1e-9
    again = limiter.brake(dt)
    assert np.array_equal(again.position, end.position) and np.array_equal(again.quaternion, end.quaternion)


def most_travel(speed, acceleration, jerk):
    """Of a stop from full speed, with the reaction time that turning an acceleration around costs."""
    return speed / 2 * (speed / acceleration + acceleration / jerk) + speed * acceleration / jerk


@pytest.mark.parametrize(
    "name",
    ["max_speed", "max_acceleration", "max_jerk", "max_angular_speed", "max_angular_acceleration", "max_angular_jerk"],
)
@settings(max_examples=scaled(20), deadline=None)
@given(start=inside, goal=inside, factor=st.floats(0.25, 0.95))
def test_a_tighter_limit_never_gets_further(name, start, goal, factor):
    """I14: on the way to one goal, at every tick."""
    tight = SafetySettings(start_ramp_s=0.0, **{name: getattr(PROFILE, name) * factor})
    for loose_pose, tight_pose in zip(
        followed(PROFILE, start, goal, 50), followed(tight, start, goal, 50), strict=True
    ):
        near_start = [np.linalg.norm(p.position - start.position) for p in (tight_pose, loose_pose)]
        assert near_start[0] <= near_start[1] + 3e-4
        turned = [
            np.linalg.norm(rotations.rotation_between(start.quaternion, p.quaternion)) for p in (tight_pose, loose_pose)
        ]
        assert turned[0] <= turned[1] + 1e-3


@settings(max_examples=scaled(40), deadline=None)
@given(inside, inside)
def test_a_goal_is_reached_straight_and_without_overshoot(start, goal):
    """I15: limits shorten the way, they do not bend it."""
    way = goal.position - start.position
    length = np.linalg.norm(way)
    turn = rotations.rotation_between(start.quaternion, goal.quaternion)
    angle_to_go = np.linalg.norm(turn)
    poses = followed(PROFILE, start, goal, 300)
    for pose in poses:
        if length > 1e-5:
            done = pose.position - start.position
            along = done @ way / length
            assert -1e-9 <= along <= length + 1e-9
            assert np.linalg.norm(done - along * way / length) < 1e-9
        if 1e-4 < angle_to_go < math.pi - 1e-4:
            done = rotations.rotation_between(start.quaternion, pose.quaternion)
            along = done @ turn / angle_to_go
            assert -1e-9 <= along <= angle_to_go + 1e-9
            assert np.linalg.norm(done - along * turn / angle_to_go) < 1e-6
    assert np.linalg.norm(poses[-1].position - goal.position) < 2e-7
    assert np.linalg.norm(rotations.rotation_between(poses[-1].quaternion, goal.quaternion)) < 2e-7 or angle_to_go > 3.1


@settings(max_examples=scaled(30), deadline=None)
@given(inside, steps, st.integers(2, 4))
def test_a_faster_stream_is_not_a_faster_arm(start, moves, times):
    """I16: the same goals at a multiple of the rate give the same motion, not a quicker one."""
    peaks = []
    for dt in (0.02, 0.02 / times):
        limiter, goal, before, peak = SafetyLimiter(PROFILE, start), start, start, 0.0
        for move in moves:
            goal = Pose(goal.position + move, goal.quaternion)
            for _ in range(round(0.2 / dt)):
                pose = limiter.follow(goal, dt)
                peak = max(peak, float(np.linalg.norm(pose.position - before.position)) / dt)
                before = pose
        peaks.append(peak)
    assert max(peaks) <= PROFILE.max_speed + 1e-9
    assert peaks[1] <= peaks[0] * 1.15 + 0.01


@settings(max_examples=scaled(60), deadline=None)
@given(inside, steps, st.integers(1, 25))
def test_the_stream_never_goes_further_than_the_accepted_steps_together(start, moves, count):
    """I17."""
    limiter, goal, accepted = SafetyLimiter(PROFILE, start), start, 0.0
    for move in moves:
        new = limiter.clamp_to_box(goal.position + move)
        accepted += float(np.linalg.norm(new - goal.position))
        goal = Pose(new, goal.quaternion)
        for _ in range(count):
            pose = limiter.follow(goal, 0.02)
            assert np.linalg.norm(pose.position - start.position) <= accepted + 1e-9


@settings(max_examples=scaled(60), deadline=None)
@given(inside, st.lists(st.tuples(inside, st.integers(1, 10)), min_size=1, max_size=5), st.floats(0.005, 0.05))
def test_a_goal_that_stands_still_is_reached_from_any_motion(start, before, dt):
    """Nothing circles the goal or trembles at it."""
    limiter = SafetyLimiter(PROFILE, start)
    for goal, count in before:
        for _ in range(count):
            limiter.follow(goal, dt)
    for _ in range(round(9.0 / dt)):
        pose = limiter.follow(goal, dt)
        if limiter.at_rest and np.linalg.norm(pose.position - goal.position) < 2e-7:
            break
    assert limiter.at_rest
    assert np.linalg.norm(pose.position - goal.position) < 2e-7


@settings(max_examples=scaled(40), deadline=None)
@given(inside, inside, st.floats(0.05, 100.0))
def test_a_late_tick_does_not_leap(start, goal, late):
    limiter = SafetyLimiter(PROFILE, start)
    for _ in range(30):
        before = limiter.follow(goal, 0.02)
    leap = np.linalg.norm(limiter.follow(goal, late).position - before.position)
    p = PROFILE
    assert leap <= p.max_speed * 0.05 + most_travel(p.max_speed, p.max_acceleration, p.max_jerk) + 1e-9
    if late > 1.0:
        assert limiter.at_rest


@settings(max_examples=scaled(30), deadline=None)
@given(inside, inside)
def test_after_a_start_the_speed_grows_slowly(start, goal):
    profile = SafetySettings(start_ramp_s=1.0, max_acceleration=4.0, max_jerk=500.0, max_angular_acceleration=16.0)
    limiter, before = SafetyLimiter(profile, start), start
    for tick in range(1, 80):
        pose = limiter.follow(goal, 0.02)
        most = 0.2 + 0.8 * min(tick * 0.02 / 1.0, 1.0)
        assert np.linalg.norm(pose.position - before.position) / 0.02 <= profile.max_speed * most + 1e-9
        turn = np.linalg.norm(rotations.rotation_between(before.quaternion, pose.quaternion)) / 0.02
        assert turn <= profile.max_angular_speed * most + 1e-9
        before = pose
