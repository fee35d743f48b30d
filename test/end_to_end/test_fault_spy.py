"""The spy of benchmarks/faults.py: silent about a stream that keeps every limit, and never about one that does not."""

import itertools
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from openvla_core import rotations
from openvla_core.supervisor import SupervisorSettings
from openvla_core.types import Pose

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from fault_injection.stream_check import StreamCheck

TICK_S = 0.02
DOWN = np.array([1.0, 0.0, 0.0, 0.0])
LIMITS = SupervisorSettings(max_tilt=0.5)
HOLD_FROM = 150  # tick


class Record:
    """Five seconds of a good stream: a smooth swing along x, then from tick 150 on a hold; to be spoilt by a test."""

    def __init__(self) -> None:
        phase = np.clip(np.arange(250) / HOLD_FROM, 0.0, 1.0)
        # Without speed, acceleration and jerk at both ends.
        swing = 0.15 * (35 * phase**4 - 84 * phase**5 + 70 * phase**6 - 20 * phase**7)
        self.stamps = 100.0 + TICK_S * np.arange(250)
        self.positions = np.stack([0.4 + swing, np.zeros(250), np.full(250, 0.3)], axis=1)
        self.quaternions = np.tile(DOWN, (250, 1))
        self.frames = [LIMITS.base_frame] * 250
        self.states = [(100.003, True), (100.003 + TICK_S * HOLD_FROM, False)]
        self.measured: np.ndarray | None = None  # as commanded before, unless a test says otherwise
        self.numbers: list[int | None] = [None] * 250  # of the messages, where the middleware counts them
        self.unheard: range = range(0)  # ticks whose command does not reach the spy
        self.shown: range = range(0)  # ticks whose command it hears from what the controller shows
        self.shown_positions: np.ndarray | None = None  # the same, unless a test says otherwise
        self.grippers = [(100.0, 1.0), (101.0, 0.0), (101.5, 1.0)]
        self.ages = [0.1, 0.4]

    def turn(self, since: int, until: int, vector: list[float]) -> None:
        """Adds one rotation (vector, radians) to every tick of a range."""
        for tick in range(since, until):
            step = rotations.from_rotation_vector(np.array(vector) * (tick + 1 - since))
            self.quaternions[tick] = rotations.multiply(step, DOWN)
        self.quaternions[until:] = self.quaternions[until - 1]

    def check(self) -> StreamCheck:
        """A check that has heard where the arm is."""
        check = StreamCheck(LIMITS)
        before = self.positions if self.measured is None else self.measured
        for ago in (3, 2, 1):
            check.on_measured(self.stamps[0] - 0.01 * ago, Pose(before[0], DOWN))
        return check

    def complaints(self) -> dict[str, int]:
        """What the spy says of it."""
        return dict(self.judged().violations)

    def judged(self) -> StreamCheck:
        """The check, after states and commands in the order in which they would be heard."""
        check = self.check()
        states = list(self.states)
        with np.errstate(invalid="ignore"):
            for tick, stamp_s in enumerate(self.stamps):
                while states and states[0][0] < stamp_s:
                    check.on_status(*states.pop(0))
                place = self.positions[max(tick - 1, 0)] if self.measured is None else self.measured[tick]
                check.on_measured(stamp_s - 0.004, Pose(place, DOWN))
                pose = Pose(self.positions[tick], self.quaternions[tick])
                shown = self.positions if self.shown_positions is None else self.shown_positions
                if tick in self.shown:
                    check.on_shown(stamp_s, Pose(shown[tick], self.quaternions[tick]), tick + 7)
                if tick not in self.unheard:
                    check.on_command(stamp_s, pose, self.frames[tick], self.numbers[tick])
        for at_s, value in self.grippers:
            check.on_gripper(at_s, value)
        for age_s in self.ages:
            check.on_applied(age_s)
        check.finish()
        assert check.commands == len(self.stamps) - len(self.unheard) + check.filled_in
        return check


def faster(record):
    record.positions[100:] += np.outer(np.clip(np.arange(150), 0, 20) * 0.005, [0.0, 1.0, 0.0])


def jump(record):
    record.positions[100:, 1] += 0.01


def jolt(record):
    """3 m/s^2 sideways for three ticks, 0.18 m/s at the end, then as hard back: no speed beyond its limit."""
    speed = np.concatenate([np.zeros(100), [0.06, 0.12, 0.18, 0.12, 0.06], np.zeros(145)])
    record.positions[:, 1] += np.cumsum(speed) * TICK_S


def shake(record):
    """0.9 m/s^2 one way and the other, tick by tick: 90 m/s^3."""
    acceleration = np.zeros(250)
    acceleration[100:116] = 0.9 * np.tile([1, 1, -1, -1], 4)
    record.positions[:, 1] += np.cumsum(np.cumsum(acceleration)) * TICK_S**2


def stop_like_acceleration(record):
    """1.6 m/s^2 without a hold: allowed for a stop only."""
    acceleration = np.concatenate([np.linspace(0, 1.6, 5), [1.6] * 2, np.linspace(1.6, 0, 5)])
    acceleration = np.concatenate([np.zeros(60), acceleration, -acceleration, np.zeros(190 - 2 * len(acceleration))])
    record.positions[:, 1] += np.cumsum(np.cumsum(acceleration)) * TICK_S**2


def outside(record):
    record.positions[:, 0] += 0.75 - record.positions[120, 0]


def below_the_table(record):
    record.positions[:, 2] -= np.concatenate([np.linspace(0, 0.3, 150), np.full(100, 0.3)])


def not_a_number(record):
    record.positions[60, 1] = np.nan


def infinite_quaternion(record):
    record.quaternions[60, 3] = np.inf


def long_quaternion(record):
    record.quaternions[60] *= 1.01


def other_sign(record):
    record.quaternions[60:] *= -1.0


def spin(record):
    record.turn(60, 90, [0.0, 0.0, 0.03])


def twitch(record):
    """6 rad/s^2: the angular speed stays below 1 rad/s."""
    angles = np.cumsum(np.concatenate([np.arange(1, 6), np.arange(5, 0, -1)]) * 6.0 * TICK_S**2)
    for tick in range(60, 250):
        angle = angles[min(tick - 60, len(angles) - 1)]
        record.quaternions[tick] = rotations.multiply(rotations.from_rotation_vector(np.array([0, 0, angle])), DOWN)


def tilt(record):
    record.turn(60, 140, [0.008, 0.0, 0.0])


def same_stamp(record):
    record.stamps[60] = record.stamps[59]


def other_frame(record):
    record.frames[60] = "camera"


def creep_in_hold(record):
    """The arm follows, 5 ms later: it was not there before it was told to."""
    record.positions[200:, 1] += 0.00002 * np.arange(1, 51)


def jump_in_hold(record):
    """As when the stream is re-based, but the arm is not there."""
    record.measured = record.positions.copy()
    record.positions[200:, 1] += 0.02


def begin_elsewhere(record):
    record.measured = record.positions + [0.0, 0.005, 0.0]


def elsewhere_after_a_pause(record):
    record.measured = record.positions.copy()
    record.stamps[60:] += 2.0
    record.states = [(100.003, True), (102.003 + TICK_S * HOLD_FROM, False)]
    record.positions[60:, 1] += 0.02


def begin_elsewhere_at_once(record):
    """5 cm off in the very first command, which is one of a motion; every message is heard."""
    record.numbers = list(range(1, 251))
    record.measured = record.positions + [0.0, 0.05, 0.0]


def elsewhere_after_a_stop_of_the_process(record):
    """As after a pause, and by the numbers nothing was missed: it is the controller that was silent."""
    elsewhere_after_a_pause(record)
    record.states = record.states[:1]
    record.numbers = list(range(1, 251))


def join_late(record):
    """The first 60 commands are missed; what is heard first is 11 cm away from where the arm ever was measured."""
    record.numbers = list(range(1, 251))
    record.unheard = range(60)
    record.measured = record.positions - [0.0, 0.05, 0.0]


def jump_after_a_late_join(record):
    join_late(record)
    record.positions[61:, 1] += 0.01


def jolt_after_a_late_join(record):
    join_late(record)
    jolt(record)


def join_late_in_a_long_hold(record):
    """Whichever command of a hold is heard first: the arm must stand there."""
    join_late(record)
    record.unheard = range(HOLD_FROM + 30)


def shown_begins_elsewhere(record):
    """All that was missed was shown, and began where the arm is not."""
    join_late(record)
    record.shown = range(250)


def shown_jumps(record):
    join_late(record)
    record.shown = range(250)
    record.measured = None
    record.positions[30:, 1] += 0.01


def shown_otherwise(record):
    """What is shown is not what is sent: it must not be believed."""
    record.shown = range(250)
    record.shown_positions = record.positions.copy()
    record.shown_positions[100] += 0.001


def gripper_beyond(record):
    record.grippers[1] = (101.0, 1.2)


def gripper_nan(record):
    record.grippers[1] = (101.0, float("nan"))


def gripper_toggles(record):
    record.grippers = [(100.0, 1.0), (101.0, 0.0), (101.1, 1.0)]


def gripper_in_hold(record):
    record.grippers.append((104.0, 0.0))


def old_image(record):
    record.ages.append(0.6)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (faster, "speed"),
        (jump, "speed"),
        (jolt, "acceleration"),
        (shake, "jerk"),
        (stop_like_acceleration, "acceleration"),
        (outside, "outside the workspace box"),
        (below_the_table, "outside the workspace box"),
        (not_a_number, "not finite"),
        (infinite_quaternion, "not finite"),
        (long_quaternion, "not a unit quaternion"),
        (other_sign, "the quaternion changed its sign"),
        (spin, "angular speed"),
        (twitch, "angular acceleration"),
        (tilt, "outside the orientation cone"),
        (same_stamp, "stamps not increasing"),
        (other_frame, "another frame"),
        (creep_in_hold, "motion in a hold"),
        (jump_in_hold, "did not begin at the measured pose"),
        (begin_elsewhere, "did not begin at the measured pose"),
        (elsewhere_after_a_pause, "did not begin at the measured pose"),
        (begin_elsewhere_at_once, "did not begin at the measured pose"),
        (elsewhere_after_a_stop_of_the_process, "did not begin at the measured pose"),
        (jump_after_a_late_join, "speed"),
        (jolt_after_a_late_join, "acceleration"),
        (join_late_in_a_long_hold, "did not begin at the measured pose"),
        (shown_begins_elsewhere, "did not begin at the measured pose"),
        (shown_jumps, "speed"),
        (shown_otherwise, "shown otherwise than sent"),
        (gripper_beyond, "gripper beyond 0 to 1"),
        (gripper_nan, "gripper beyond 0 to 1"),
        (gripper_toggles, "gripper toggled too soon"),
        (gripper_in_hold, "gripper moved in a hold"),
        (old_image, "acted on an old image"),
    ],
)
def test_every_kind_of_unsafe_command_is_counted(spoil, complaint):
    record = Record()
    spoil(record)
    assert record.complaints().get(complaint), record.complaints()


def test_a_stream_within_its_limits_has_nothing_against_it():
    assert Record().complaints() == {}


def test_a_stream_that_was_joined_late_is_counted_and_only_its_beginning_is_not_judged():
    record = Record()
    join_late(record)
    check = record.judged()
    assert (dict(check.violations), check.joined_late, check.beginnings, check.filled_in) == ({}, 1, 1, 0)
    record.numbers = [None] * 250
    assert record.complaints() == {"did not begin at the measured pose": 1}, "without numbers it counts as the first"


def test_a_stream_that_was_not_heard_for_a_while_is_joined_anew():
    record = Record()
    record.numbers, record.unheard = list(range(1, 251)), range(60, 90)
    check = record.judged()
    assert (dict(check.violations), check.joined_late, check.beginnings) == ({}, 1, 2)


def test_what_was_missed_is_judged_as_it_was_shown():
    record = Record()
    record.numbers, record.unheard, record.shown = list(range(1, 251)), range(60), range(250)
    check = record.judged()
    assert (dict(check.violations), check.joined_late, check.filled_in, check.commands) == ({}, 0, 60, 250)
    record.shown = range(1, 250)
    check = record.judged()
    assert (check.joined_late, check.filled_in) == (1, 0), "not from its first command on"


@pytest.mark.parametrize(
    ("number", "complaints"),
    [(None, {"gripper toggled too soon": 1}), (1, {"gripper toggled too soon": 1}), (15, {})],
)
def test_the_gripper_of_a_new_process_is_judged_by_its_own_toggles(number, complaints):
    """One that is heard from its 15th message on has had its value for an unknown time."""
    check = Record().check()
    for at_s, value in ((100.0, 1.0), (101.0, 0.0)):
        check.on_gripper(at_s, value, number and 1 + round(at_s - 100.0))
    check.forget()
    check.on_gripper(101.1, 1.0, number)
    check.finish()
    assert not check.violations, "another process knows nothing of the toggle before"
    check.on_gripper(101.15, 0.0, number and number + 1)
    check.finish()
    assert dict(check.violations) == complaints


def test_a_gripper_that_was_not_heard_for_a_while_toggled_no_sooner_than_that():
    check = Record().check()
    for at_s, value, number in ((100.0, 1.0, 1), (100.1, 1.0, 6), (100.2, 0.0, 9), (100.25, 1.0, 10)):
        check.on_gripper(at_s, value, number)
    check.finish()
    assert check.violations["gripper toggled too soon"] == 2


@pytest.mark.parametrize(("off_m", "complaints"), [(0.0, {}), (0.02, {"did not begin at the measured pose": 1})])
def test_where_a_stream_begins_is_judged_when_the_measured_poses_are_heard_however_late(off_m, complaints):
    record = Record()
    check = StreamCheck(LIMITS)
    check.on_measured(90.0, Pose(record.positions[-1], DOWN))
    for tick, stamp_s in enumerate(record.stamps):
        check.on_command(stamp_s, Pose(record.positions[tick], DOWN))
    assert not check.violations
    for tick, stamp_s in enumerate(record.stamps):
        check.on_measured(stamp_s - 0.01, Pose(record.positions[max(tick - 1, 0)] + [0.0, off_m, 0.0], DOWN))
    check.finish()
    assert dict(check.violations) == complaints


def test_a_stream_that_is_re_based_in_a_hold_to_where_the_arm_is_has_nothing_against_it():
    record = Record()
    record.positions[200:, 1] += 0.02
    record.measured = record.positions.copy()
    record.measured[190:, 1] += 0.02 - record.measured[190:, 1]  # somebody had moved the arm
    assert record.complaints() == {}


@pytest.mark.parametrize(("off_m", "complaints"), [(0.0, {}), (0.005, {"did not begin at the measured pose": 1})])
def test_a_stream_that_was_re_based_while_it_was_not_heard_must_be_where_the_arm_is(off_m, complaints):
    record = Record()
    record.states[1] = (record.stamps[75] + 0.003, False)  # amid the motion; the stop itself is not heard
    record.numbers, record.unheard = list(range(1, 251)), range(76, 86)
    record.measured = record.positions.copy()
    record.measured[76:] = record.positions[75] + [0.06, 0.03, 0.0]  # pushed there
    record.positions[76:] = record.measured[76:] + [0.0, 0.0, off_m]
    assert record.complaints() == complaints


def test_the_state_that_tells_of_a_motion_may_be_heard_after_the_motion():
    record = Record()
    begun_s, held_s = record.states[0][0], record.states[1][0]
    # Stamped 15 ms after the first command that moves, and before the second.
    record.states = [(99.0, False), (begun_s + TICK_S - 0.005, True), (held_s, False)]
    assert record.complaints() == {}


def test_one_late_stamp_is_counted_apart_and_a_second_one_soon_after_is_no_excuse():
    record = Record()
    record.stamps[75] += 0.008
    check = record.check()
    for at_s, active in record.states:
        check.on_status(at_s, active)
    for tick, stamp_s in enumerate(record.stamps):
        check.on_measured(stamp_s - 0.004, Pose(record.positions[tick], DOWN))
        check.on_command(stamp_s, Pose(record.positions[tick], DOWN))
    check.finish()
    assert not check.violations
    assert check.late_stamps
    record.stamps[85] += 0.008
    assert {"speed", "acceleration"} & set(record.complaints())


@pytest.fixture
def spy(monkeypatch):
    import rclpy
    from fault_injection.spy import Spy

    from openvla_ros.demo import free_domain

    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))
    rclpy.init()
    spy = Spy("/planted", LIMITS, "target_pose")
    yield spy
    spy.close()
    rclpy.try_shutdown()


def test_what_is_planted_on_the_topics_is_counted(spy):
    """The same through the middleware: the spy hears what a robot would hear."""
    from openvla_ros import conversions, topics

    node = spy.node
    commands = node.create_publisher(topics.PoseStamped, "target_pose", topics.RECORD)
    grippers = node.create_publisher(topics.Float64, topics.GRIPPER_COMMAND, topics.RECORD)
    spy.until(lambda: commands.get_subscription_count() and grippers.get_subscription_count(), 30.0, "the spy listens")
    begun_ns = time.time_ns()
    for tick, y in enumerate((0.0, 0.0, 0.02, 0.06, np.nan)):
        pose = Pose(np.array([0.5, y, 0.3]), DOWN)
        commands.publish(conversions.pose_message(pose, begun_ns + tick * 20_000_000, LIMITS.base_frame))
    for value in (0.0, 1.0, 0.0, 2.0):
        grippers.publish(conversions.number_message(value))
    wanted = {"speed", "not finite", "gripper toggled too soon", "gripper beyond 0 to 1"}

    def counted() -> bool:
        spy.stream.flush()
        return wanted <= set(spy.stream.violations)

    spy.until(counted, 30.0, f"{wanted} in {spy.stream.violations}")


def test_the_spy_knows_from_the_middleware_what_it_missed(spy):
    from fault_injection.spy import SHOWN, Spy

    from openvla_ros import conversions, topics

    commands, shown = (spy.node.create_publisher(topics.PoseStamped, t, topics.RECORD) for t in ("target_pose", SHOWN))
    begun_ns = time.time_ns()
    ticks = itertools.count()

    def send() -> None:
        """A motion of 0.1 m/s that began a while ago."""
        tick = next(ticks)
        pose = Pose(np.array([0.5, 0.002 * tick, 0.3]), DOWN)
        for publisher in (commands, shown):
            publisher.publish(conversions.pose_message(pose, begun_ns + tick * 20_000_000, LIMITS.base_frame))

    def listeners() -> int:
        return min(commands.get_subscription_count(), shown.get_subscription_count())

    spy.until(lambda: listeners() == 1, 30.0, "the spy listens")
    for _ in range(3):
        send()
    late = Spy("/planted", LIMITS, "target_pose")
    try:
        spy.until(lambda: listeners() == 2, 30.0, "the late spy listens")
        spy.until(lambda: send() or (late.commands and len(spy.commands) > 3), 30.0, "the late spy hears")
        for one in (spy, late):
            one.stream.flush()
        assert (spy.stream.joined_late, spy.stream.filled_in) == (0, 0)
        assert (late.stream.joined_late, late.stream.filled_in) == (1, 0)
    finally:
        late.close()
