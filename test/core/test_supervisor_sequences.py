"""Any order of orders and faults: what is sent never jumps, and nothing moves that is not allowed to."""

import dataclasses

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from supervisor_bench import CARD, SETTINGS, TICK, Bench

from openvla_core import rotations
from openvla_core.supervisor import State
from openvla_core.types import Problem

# An acceleration a cannot end at once: under the jerk limit j the speed still grows by a^2 / 2j.
COASTS = max(
    SETTINGS.max_acceleration**2 / (2 * SETTINGS.stop_jerk),
    SETTINGS.max_angular_acceleration**2 / (2 * SETTINGS.stop_angular_jerk),
)
numbers = st.one_of(st.floats(-0.06, 0.06), st.floats(allow_nan=True, allow_infinity=True))
small = st.floats(-0.06, 0.06)


class AnyOrder(RuleBasedStateMachine):
    """A supervisor and an arm that follows exactly, until a person holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.supervisor = self.bench.supervisor
        self.speed = self.turning = 0.0
        self.allowed = True  # by the sequence: no emergency stop without reset and start after it
        self.was_reset = True
        self.fault = ""
        self.backend_fault = False

    # What people do

    @rule()
    def start(self):
        if self.supervisor.start(self.bench.now_s)[0]:
            assert self.was_reset
            self.allowed = True

    @rule()
    def stop(self):
        self.supervisor.stop()

    @rule()
    def pause(self):
        self.supervisor.pause()

    @rule(by_service=st.booleans())
    def press(self, by_service):
        if by_service:
            self.supervisor.estop.on_service(True)
        else:
            self.supervisor.estop.on_topic(True, self.bench.now_s)
        assert self.bench.verdict.state == State.ESTOP
        self.allowed = self.was_reset = False

    @rule(by_service=st.booleans())
    def release(self, by_service):
        before = self.bench.verdict.state
        if by_service:
            self.supervisor.estop.on_service(False)
        else:
            self.supervisor.estop.on_topic(False, self.bench.now_s)
        assert self.bench.verdict.state == before, "a release alone changes nothing"

    @rule()
    def reset(self):
        command = self.bench.sent[-1]
        moving = command is not None and (command.safe.velocity.any() or command.safe.angular_velocity.any())
        pressed = self.supervisor.estop.is_pressed(self.bench.now_s)
        if self.supervisor.reset(self.bench.now_s)[0]:
            assert not moving and not pressed
            assert self.bench.verdict.state in (State.STANDBY, State.HOLD)
            self.was_reset, self.fault = True, ""

    @rule(direction=st.tuples(small, small, small))
    def push_by_hand(self, direction):
        """A person moves the arm while it does not follow, then lets go."""
        self.bench.arm_follows = False
        self.bench.push(direction)
        self.bench.run(0.5)
        self.bench.arm_follows = True
        if self.bench.sent[-1] is not None:
            self.bench.arm = self.bench.sent[-1].safe.pose
            self.bench.run(TICK)
        self.speed = self.turning = 0.0  # half a second is longer than any braking

    # What fails

    @rule(row=st.lists(numbers, min_size=7, max_size=7), age_s=st.floats(-0.2, 0.7))
    def act(self, row, age_s):
        self.bench.act(row, age_s=age_s)

    @rule(row=st.lists(small, min_size=7, max_size=7))
    def act_well(self, row):
        self.bench.act(row, age_s=0.05)

    @rule(talks=st.booleans())
    def robot_talks(self, talks):
        self.bench.arm_talks = talks

    @rule(count=st.integers(0, 3))
    def publishers(self, count):
        self.supervisor.on_publishers(count, self.bench.now_s)

    @rule(latched=st.sampled_from([None, False, True]))
    def backend(self, latched):
        self.supervisor.on_backend(None if latched is None else Problem("IK_FAIL", "no solution.", latched))

    @rule(moving=st.integers(1, 10), silent=st.integers(0, 6), step=st.floats(-0.05, 0.05))
    def reset_soon_after_a_motion(self, moving, silent, step):
        """Where the measured pose is the oldest it can be."""
        self.bench.act((0.0, step, 0.0, 0.0, 0.0, 0.0, 1.0), age_s=0.02)
        self.wait(moving)
        self.supervisor.pause()
        self.bench.arm_talks = False
        self.wait(silent)
        self.reset()
        self.wait(1)
        self.bench.arm_talks = True
        self.wait(2)

    @rule(by_s=st.floats(-3600.0, 3600.0))
    def clock_jumps(self, by_s):
        self.bench.ahead_s += by_s + 4000.0  # ROS time is never negative

    @rule(instruction=st.sampled_from(["", "pick up the red cube", "another"]))
    def task(self, instruction):
        self.supervisor.on_instruction(instruction)

    @rule(seconds=st.sampled_from([0.3, 2.0]))
    def process_sleeps(self, seconds):
        self.bench.now_s += seconds
        self.speed = self.turning = 0.0  # the arm has long come to rest

    # Time passes, watched

    @rule(ticks=st.integers(1, 20))
    def wait(self, ticks):
        for _ in range(ticks):
            before = self.bench.arm
            self.bench.run(TICK)
            self.watch(before, self.bench.arm)

    def watch(self, before, after) -> None:
        state = self.bench.verdict.state
        if state == State.ACTIVE:
            assert self.allowed and not self.fault
        if state == State.FAULT:
            self.fault = self.bench.verdict.code
        speed = np.linalg.norm(after.position - before.position) / TICK
        turning = np.linalg.norm(rotations.rotation_between(before.quaternion, after.quaternion)) / TICK
        assert speed <= SETTINGS.max_speed + 1e-6
        assert turning <= SETTINGS.max_angular_speed + 1e-6
        if state != State.ACTIVE:
            assert speed <= self.speed + COASTS and turning <= self.turning + COASTS, "faster although not active"
        assert abs(np.linalg.norm(after.quaternion) - 1.0) < 1e-9
        self.speed, self.turning = speed, turning
        if self.bench.sent[-1] is not None:  # at the end of a tick it may be faster than on average
            command = self.bench.sent[-1].safe
            self.speed = max(speed, float(np.linalg.norm(command.velocity)))
            self.turning = max(turning, float(np.linalg.norm(command.angular_velocity)))

    @precondition(lambda self: self.bench.verdict.state in (State.FAULT, State.ESTOP))
    @invariant()
    def latched_states_refuse_to_start(self):
        assert not self.supervisor.start(self.bench.now_s)[0]

    @invariant()
    def what_is_sent_is_finite(self):
        command = self.bench.sent[-1]
        if command is not None:
            assert np.isfinite(command.safe.pose.position).all() and np.isfinite(command.safe.velocity).all()
            assert command.safe.gripper in (None, 0.0, 1.0)


class AnyOrderCommanded(AnyOrder):
    """The same under a card whose steps start at the commanded pose."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(card=dataclasses.replace(CARD, reference="commanded"))
        self.supervisor = self.bench.supervisor


TestAnyOrder = AnyOrder.TestCase
TestAnyOrderCommanded = AnyOrderCommanded.TestCase
TestAnyOrder.settings = TestAnyOrderCommanded.settings = settings(stateful_step_count=25)
