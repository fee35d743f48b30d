"""Decides, without ROS, whether the arm may move and what is sent to it at every tick.

The facts are kept separately (is the emergency stop pressed, is the pose fresh, is the action fresh, ...) and the state
is read off them, most serious first. There is no other way to be ACTIVE than every fact being right at this moment.

Two clocks: `now_s` is monotonic seconds and drives every watchdog; nanoseconds are the ROS clock and only compare
stamps with each other.

How far the arm goes blind: when the policy falls silent at full speed v, it is noticed after T_a (`action_timeout_s`)
and one tick, and braking takes v^2 / 2a more: v (T_a + tick) + v^2 / 2a. That is 96 mm with the default limits at 5 Hz
(0.25 m/s, 2 m/s^2, T_a 0.3 s), and never more than the way left to the goal of the action in progress.
"""

import math
from dataclasses import dataclass

import numpy as np

from openvla_core import safety
from openvla_core.action_intake import ActionIntake, Chunk
from openvla_core.action_progress import Accepted, ActionProgress, accepted_of, action_timeout_s
from openvla_core.chunk_goals import chunk_goals
from openvla_core.command_stream import CommandStream
from openvla_core.conventions import ActionConvention
from openvla_core.errors import ConventionError
from openvla_core.estop import EmergencyStop
from openvla_core.permission import Permission
from openvla_core.pose_watch import PoseWatch
from openvla_core.supervisor_settings import SupervisorSettings
from openvla_core.types import Pose, Problem, SafeAction
from openvla_core.verdict import State, Verdict, hold

__all__ = ["Accepted", "Command", "State", "Supervisor", "SupervisorSettings", "Verdict", "action_timeout_s"]

WAITING = hold("WAITING", "waiting for the first action.")
# A process that slept this long between two ticks starts again from where the arm is.
LONGEST_GAP_S = 0.25
# The two clocks of one machine part by more than this within a tick only when the ROS clock was set.
CLOCK_JUMP_S = 0.25


@dataclass(frozen=True)
class Command:
    """What to send now, and the action it is the first command of, if it is one."""

    safe: SafeAction
    started: Accepted | None


class Supervisor:
    """Facts in, commands out. Every method returns normally on every input."""

    def __init__(self, settings: SupervisorSettings, convention: ActionConvention) -> None:
        """Raises ConventionError when the card is for another tool link, ConfigError for limits beyond their caps."""
        safety.check_safety_settings(settings)
        if convention.tool_link != settings.tool_link:
            raise ConventionError(
                f"the convention card {convention.name!r} moves {convention.tool_link!r}, this robot's commands move "
                f"{settings.tool_link!r}. Use a card for this robot, or set tool_link if both name the same link."
            )
        self.settings = settings
        self.convention = convention
        self.progress = ActionProgress(settings.max_observation_age_s)
        self._poses = PoseWatch(settings)
        estop = EmergencyStop(settings.estop_required, settings.estop_timeout_s)
        self._permission = Permission(estop, self._poses)
        self._intake = ActionIntake(convention, settings.base_frame, settings.max_observation_age_s)
        self._stream = CommandStream(settings, convention.gripper_threshold)
        self._follows = True
        self._last_tick_s = math.nan
        self._clock_offset_s = math.nan

    def carry_over(self, estop: EmergencyStop, fault: Verdict | None) -> None:
        """Goes on with the emergency stop and the fault of an earlier supervisor: only a reset ends them."""
        self._permission.estop = estop
        self._permission.fault = fault

    # Orders ---------------------------------------------------------------------------------------------------

    def start(self, now_s: float) -> tuple[bool, str]:
        """Allows motion, from the measured pose when nothing was sent; after a fault or e-stop only after reset."""
        latched = self._permission.latched(now_s)
        if latched:
            return False, f"Not started. {latched.sentence}"
        if self._permission.backend is not None:
            return False, f"Not started: {self._permission.backend.sentence}"
        self._permission.running, self._permission.paused = True, False
        if not self._stream.is_on:
            self._stream.forget_gripper()  # a person may have opened it since
        self.progress.interrupt(WAITING)
        return True, f"Started: the arm moves when actions arrive.{self._outside()}"

    def _outside(self) -> str:
        """What to expect of an arm that starts outside the box, or nothing."""
        newest, low, high = self._poses.newest, self.settings.workspace_low, self.settings.workspace_high
        if newest is None or (np.clip(newest.position, low, high) == newest.position).all():
            return ""
        return (
            f" The tool is outside the workspace box: whatever an action asks for, it brings the tool up to "
            f"{self.settings.max_translation:g} m nearer to it, and never further out."
        )

    def stop(self) -> tuple[bool, str]:
        """Brakes, then sends nothing more until start."""
        self._permission.running, self._permission.paused = False, False
        return True, "Stopped: nothing is sent until start."

    def pause(self) -> tuple[bool, str]:
        """Brakes and holds the pose until start."""
        self._permission.paused = True
        return True, "Paused: holding until start."

    def reset(self, now_s: float) -> tuple[bool, str]:
        """Makes the measured pose the commanded one and clears a fault; after an emergency stop, start must follow."""
        if self.estop.is_pressed(now_s):
            return (
                False,
                "The emergency stop is still pressed, or has no source or several. Put that right, then reset.",
            )
        if not self._stream.at_rest:
            return False, "The arm is still braking or following actions. Reset once it stands still; pause holds it."
        done, sentence = self._rebase(now_s)
        if not done:
            return False, f"{sentence} Nothing was reset."
        if self.estop.verdict(now_s):
            self._permission.running = False
        self.estop.clear()
        self._permission.fault = None
        return True, "Reset: the measured pose becomes the commanded one."

    def set_follows(self, follows: bool, now_s: float) -> tuple[bool, str]:
        """Whether commands reach the arm, not so in a dry run; after one the arm moves from the next start on."""
        if follows == self._follows:
            return True, "Commands go to the robot." if follows else "Dry run: nothing is sent to the robot."
        if not self._stream.at_rest:
            return False, "Commands are in motion. Call pause, and try again once they stand still."
        if follows:
            if self._stream.is_on and not self._poses.is_fresh(now_s):
                return False, f"No fresh robot pose: {self._poses.silence().sentence}"
            # The arm has heard nothing of the poses that were commanded until now: a start begins where it is.
            self._stream.end()
            self._permission.running = self._permission.paused = False
            self.progress.interrupt(WAITING)
        self._follows = follows
        if follows:
            return True, "Commands go to the robot once start is called."
        return True, "Dry run: nothing is sent to the robot."

    def _rebase(self, now_s: float) -> tuple[bool, str]:
        if not self._poses.is_fresh(now_s):
            return False, f"No fresh robot pose: {self._poses.silence().sentence}"
        self._stream.forget_gripper()
        self._stream.rebase()
        self.progress.interrupt(WAITING)
        return True, ""

    # Facts ----------------------------------------------------------------------------------------------------

    def on_publishers(self, count: int, now_s: float) -> None:
        """How many processes publish actions. More than one is nobody; one that appears amid an action is a fault."""
        if count > 1 and self._permission.publishers <= 1 and self.verdict(now_s).state == State.ACTIVE:
            self._permission.latch(Problem("MULTI_PUB", "A second process began to publish actions. Stop all but one."))
        self._permission.publishers = count

    def on_backend(self, problem: Problem | None) -> None:
        """What keeps commands from the robot, None when nothing does; a latched problem is a fault."""
        self._permission.backend = problem
        if problem is not None and problem.latched and self._permission.running:
            self._permission.latch(problem)

    def on_internal_error(self) -> None:
        """Notes that a part of the controller failed in a way that nobody foresaw: a fault."""
        self._permission.latch(Problem("INTERNAL", "an unexpected error in the controller; see its log", latched=True))

    def on_pose(self, pose: Pose, stamp_ns: int, frame: str, now_s: float) -> None:
        """Keeps a measured pose; one in another frame or not newer than the last does not count, a jump is a fault."""
        was_silent = not self._poses.is_fresh(now_s)
        delay_s = now_s + self._clock_offset_s - stamp_ns * 1e-9
        delay_s = 0.0 if math.isnan(delay_s) else delay_s  # the ROS clock was not read yet
        self._on_pose_problem(self._poses.add(pose, stamp_ns, frame, now_s, delay_s))
        newest = self._poses.newest
        # It came back elsewhere: someone moved it. Holding the old pose would pull it back.
        if was_silent and self._stream.is_on and self._poses.is_fresh(now_s) and newest and self._stream.is_off(newest):
            self._stream.rebase()

    def on_invalid_pose(self) -> None:
        """Notes a message of the robot's pose that is none; the third in a row is a fault."""
        self._on_pose_problem(self._poses.invalid())

    def on_clock(self, ros_now_ns: int, now_s: float) -> None:
        """Compares the clocks: when the ROS clock was set, the stamps of before mean nothing any more."""
        offset_s = ros_now_ns * 1e-9 - now_s
        if abs(offset_s - self._clock_offset_s) > CLOCK_JUMP_S:
            self._poses.forget()
            self.progress.interrupt(
                hold("CLOCK_JUMP", "the clock was set; waiting for poses and actions of the new time.")
            )
        self._clock_offset_s = offset_s

    def on_instruction(self, instruction: str) -> None:
        """Notes which instruction the policy follows, "" for none; an action of another one ends at once."""
        if self._intake.on_instruction(instruction):
            self._stream.forget_votes()
            self.progress.interrupt(hold("NEW_TASK", "waiting for the first action of the new instruction."))

    def on_chunk(self, chunk: Chunk, ros_now_ns: int, now_s: float) -> None:
        """Takes a chunk of actions, refuses it with a reason, or latches a fault."""
        self.on_clock(ros_now_ns, now_s)
        if not self._stream.is_on or self._blocked(now_s):
            return
        problem = self._intake.problem(chunk, ros_now_ns, self.progress.in_progress(now_s))
        problem = problem or self._carry_out(chunk, ros_now_ns, now_s)
        if problem is not None:
            self._refuse(problem)

    def on_malformed(self, sentence: str) -> None:
        """Notes a message that does not even have the form of a chunk: a fault."""
        if self._permission.running:
            self._refuse(Problem("ACT_SHAPE", sentence.rstrip("."), latched=True))

    def _carry_out(self, chunk: Chunk, ros_now_ns: int, now_s: float) -> Problem | None:
        measured = self.convention.reference == "measured"
        reference = self._poses.at(chunk.stamp_ns) if measured else self._stream.reference()
        if reference is None:
            return Problem("POSE_UNKNOWN", "the robot's pose at the time of the image is not known")
        rows = np.asarray(chunk.actions, dtype=np.float64)[: self.settings.max_steps]
        goals = chunk_goals(rows, reference, self.convention, self._stream.limit, self.settings)
        if isinstance(goals, Problem):
            return goals
        if self.progress.stays_outside(goals, now_s):
            self.progress.interrupt()
            return Problem("WORKSPACE", "the policy has asked for places outside the workspace box for 3 s")
        card_hz = self.convention.rate_hz
        # A message must not be able to stretch its own time-out.
        rate_hz = chunk.rate_hz if card_hz / 4 <= chunk.rate_hz <= card_hz * 4 else card_hz
        self._stream.take(goals.goals, now_s, 1.0 / rate_hz)
        self.progress.accept(accepted_of(chunk, goals), rate_hz, len(rows), (ros_now_ns - chunk.stamp_ns) * 1e-9, now_s)
        return None

    def _refuse(self, problem: Problem) -> None:
        self.progress.refuse(problem.code, problem.sentence)
        if problem.latched:
            self._permission.latch(problem)

    def _on_pose_problem(self, problem: Problem | None) -> None:
        if problem is not None and self._stream.is_on:
            self._permission.latch(problem)

    @property
    def estop(self) -> EmergencyStop:
        """The emergency stop."""
        return self._permission.estop

    @property
    def fault(self) -> Verdict | None:
        """The fault that is latched, None when there is none."""
        return self._permission.fault

    @property
    def at_rest(self) -> bool:
        """Whether the commanded pose stands still; also when nothing is sent."""
        return self._stream.at_rest

    @property
    def is_sending(self) -> bool:
        """Whether the next tick makes a command."""
        return self._stream.is_on

    # State ----------------------------------------------------------------------------------------------------

    def verdict(self, now_s: float) -> Verdict:
        """What is true now."""
        blocked = self._blocked(now_s)
        if blocked:
            return blocked
        if not self.progress.in_progress(now_s):
            return self.progress.idle
        return Verdict(State.ACTIVE, "OK", "Following the policy.")

    def _blocked(self, now_s: float) -> Verdict | None:
        """Why no action may be carried out; None when one may."""
        waits = self.progress.idle if self._stream.rebase_wanted else None
        return self._permission.refusal(now_s) or waits

    # The stream -----------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> Command | None:
        """The next command of the stream, or None when nothing is to be sent."""
        gap_s = now_s - self._last_tick_s
        self._last_tick_s = now_s
        measured = self._poses.newest if self._poses.is_fresh(now_s) else None
        if not self._stream.is_on:
            if not self._permission.running or measured is None or self._permission.latched(now_s):
                return None
            self._stream.begin(measured, now_s)
            gap_s = 0.0
        if gap_s > LONGEST_GAP_S:
            self._stream.stand_still(now_s, rebase=self._permission.fault is None)
            self.progress.interrupt(hold("TICK_LATE", "the controller was paused; waiting for the next action."))
        self._check_tracking(measured, now_s)
        verdict = self.verdict(now_s)
        if verdict.state == State.ACTIVE:
            return Command(self._stream.follow(now_s, gap_s), self.progress.take_started())
        self.progress.interrupt()
        if verdict.code != "ACTION_STALE":
            self._stream.forget_votes()
        if verdict.state == State.STANDBY and self._stream.at_rest:
            self._stream.end()
            return None
        return Command(self._stream.hold(now_s, gap_s, measured, self._poses.measured_s), None)

    def _check_tracking(self, measured: Pose | None, now_s: float) -> None:
        """Gives up a commanded pose that the arm does not reach: something is in its way, or someone moved it."""
        if measured is not None and self.estop.verdict(now_s):
            # An arm that is moved by hand while stopped must not be pulled back when the hardware stop is released.
            if self._stream.is_off(measured):
                self._stream.rebase()
            return
        watched = measured if self._follows and not self._permission.fault else None
        if self._stream.lost_track(watched, now_s) and not self._stream.rebase_wanted:
            self._stream.rebase()
            self.progress.interrupt(hold("TRACKING", "the arm did not follow its commands; it is held where it is."))
