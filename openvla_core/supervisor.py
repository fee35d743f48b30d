"""Decides, without ROS, whether the arm may move and what is sent to it at every tick.

The facts are kept separately (is the emergency stop pressed, is the pose fresh, is the action fresh, ...) and the state
is read off them, most serious first. There is no other way to be ACTIVE than every fact being right at this moment.

Two clocks: `now_s` is monotonic seconds and drives every watchdog; nanoseconds are the ROS clock and only compare
stamps with each other.
"""

import math
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from openvla_core import rotations, safety
from openvla_core.action_intake import ActionIntake, Chunk
from openvla_core.config import setting
from openvla_core.conventions import ActionConvention
from openvla_core.errors import ConventionError
from openvla_core.observation_buffer import PoseBuffer
from openvla_core.rate_adapter import Goal, RateAdapter
from openvla_core.safety import GripperGate, SafetyLimiter, SafetySettings
from openvla_core.types import Pose, SafeAction

TRACKING_S = 0.3


class State(IntEnum):
    """What the controller is doing; the same numbers as in Status.msg."""

    STANDBY = 0
    ACTIVE = 1
    HOLD = 2
    FAULT = 3
    ESTOP = 4


@dataclass(frozen=True)
class Verdict:
    """A state with a stable code for programs and a sentence for the person at the robot."""

    state: State
    code: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class SupervisorSettings(SafetySettings):
    """When the arm may move, on top of how: ages, frames and tolerances."""

    base_frame: str = setting("panda_link0", "Frame of robot/current_pose and of every command")
    tool_link: str = setting("panda_hand_tcp", "Link that robot/current_pose describes and commands move")
    max_observation_age_s: float = setting(
        0.5, "Oldest image an action may come from, when it arrives and while it is carried out", unit="s",
        minimum=0.05, maximum=1.0,
    )  # fmt: skip
    max_pose_age_s: float = setting(0.2, "Longest silence of robot/current_pose", unit="s", minimum=0.02, maximum=0.5)
    max_steps: int = setting(
        1, "Actions of one chunk that are carried out before a newer image must come", minimum=1, maximum=16
    )
    interpolation: float = setting(
        0.5, "Share of the action period over which the target glides to a new goal; 0 jumps", minimum=0.0, maximum=1.0
    )
    max_tracking_error: float = setting(
        0.03, "Distance between commanded and measured position that ends in a hold after 0.3 s", unit="m",
        minimum=0.005, maximum=0.3,
    )  # fmt: skip
    max_tracking_rotation: float = setting(
        0.2, "Angle between commanded and measured rotation that ends in a hold after 0.3 s", unit="rad",
        minimum=0.02, maximum=1.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Accepted:
    """An action that was taken: translation (3,) metres, rotation vector (3,) radians, after the limits, base axes."""

    session_id: str
    sequence: int
    image_stamp_ns: int
    translation: np.ndarray
    rotation: np.ndarray
    gripper: float
    reasons: tuple[str, ...]


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
        self.accepted_count = 0
        self.clipped_count = 0
        self.refused_count = 0
        self._recently_clipped: deque[bool] = deque(maxlen=200)
        self._poses = PoseBuffer()
        self._intake = ActionIntake(convention, settings.base_frame, settings.max_observation_age_s)
        self._gripper = GripperGate(settings, convention.gripper_threshold)
        self._limiter: SafetyLimiter | None = None
        self._adapter: RateAdapter | None = None
        self._running = False
        self._paused = False
        self._estop_pressed = False
        self._estop: Verdict | None = None
        self._fault: Verdict | None = None
        self._publishers = 1
        self._last_pose_s = -math.inf
        self._last_tick_s = math.nan
        self._off_track_since_s = math.inf
        self._accepted: Accepted | None = None  # taken, but no command made from it yet
        self._forget_action("WAITING", "Holding: waiting for the first action.")

    # Orders ---------------------------------------------------------------------------------------------------

    def start(self) -> tuple[bool, str]:
        """Allows motion, from the measured pose when nothing was sent; after a fault or e-stop only after reset."""
        latched = self._estop or self._fault
        if latched:
            return False, f"{latched.sentence} Call reset first."
        self._running, self._paused = True, False
        if self._limiter is None:
            self._gripper.reset()  # a person may have opened it since
        self._forget_action("WAITING", "Holding: waiting for the first action.")
        return True, "Started: the arm moves when actions arrive."

    def stop(self) -> tuple[bool, str]:
        """Brakes, then sends nothing more until start."""
        self._running, self._paused = False, False
        return True, "Stopped: nothing is sent until start."

    def pause(self) -> tuple[bool, str]:
        """Brakes and holds the pose until start."""
        self._paused = True
        return True, "Paused: holding until start."

    def reset(self, now_s: float) -> tuple[bool, str]:
        """Makes the measured pose the commanded one and clears a fault; after an emergency stop, start must follow."""
        if self._estop_pressed:
            return False, "The emergency stop is still pressed. Release it, then reset."
        if not self._pose_is_fresh(now_s):
            return False, f"No fresh robot pose: {self._pose_sentence()} Nothing was reset."
        if self._estop:
            self._running = False
        self._estop = self._fault = None
        return self.resync(now_s)

    def resync(self, now_s: float) -> tuple[bool, str]:
        """Makes the measured pose the commanded one, such as before commands reach an arm that did not follow them."""
        if not self._pose_is_fresh(now_s):
            return False, f"No fresh robot pose: {self._pose_sentence()}"
        self._gripper.reset()
        self._forget_action("WAITING", "Holding: waiting for the first action.")
        if self._limiter is not None:
            self._hold_measured_pose()
        return True, "Reset: the measured pose is the commanded one."

    def on_estop(self, pressed: bool) -> None:
        """Latches the emergency stop when pressed; releasing it only allows a reset."""
        self._estop_pressed = pressed
        if pressed:
            self._estop = Verdict(State.ESTOP, "ESTOP", "Emergency stop. Release it, call reset, then start.")

    def on_publishers(self, count: int) -> None:
        """Notes how many processes publish actions; more than one is nobody."""
        self._publishers = count

    def on_pose(self, pose: Pose, stamp_ns: int, frame: str, now_s: float) -> None:
        """Keeps a measured pose; one in another frame, not finite or not newer than the last does not count."""
        if frame == self.settings.base_frame and self._poses.add(stamp_ns, pose):
            self._last_pose_s = now_s

    # Actions --------------------------------------------------------------------------------------------------

    def on_chunk(self, chunk: Chunk, ros_now_ns: int, now_s: float) -> None:
        """Takes a chunk of actions, refuses it with a reason, or latches a fault."""
        if self._limiter is None or self._blocked(now_s):
            return
        problem = self._intake.problem(chunk, ros_now_ns)
        if problem:
            self._refuse(*problem)
            return
        rows = np.asarray(chunk.actions, dtype=np.float64)[: self.settings.max_steps]
        if not np.isfinite(rows).all():
            self._latch("ACT_NONFINITE", f"Action {chunk.sequence} holds NaN or infinity; nothing of it was executed.")
            return
        reference = self._reference(chunk.stamp_ns)
        if reference is None:
            self._refuse("POSE_UNKNOWN", "the robot's pose at the time of the image is not known")
            return
        self._carry_out(chunk, rows, reference, ros_now_ns, now_s)

    def on_malformed(self, sentence: str) -> None:
        """Notes a message that does not even have the form of a chunk."""
        self._refuse("ACT_SHAPE", sentence.rstrip("."))

    @property
    def clip_rate(self) -> float:
        """Share of the last 200 actions that a limit changed, 0 to 1."""
        return sum(self._recently_clipped) / max(len(self._recently_clipped), 1)

    def _reference(self, image_stamp_ns: int) -> Pose | None:
        """The pose the first step starts from."""
        if self.convention.reference == "measured":
            return self._poses.at(image_stamp_ns)
        assert self._limiter is not None and self._adapter is not None
        ahead = np.linalg.norm(self._adapter.last.position - self._limiter.pose.position)
        # A goal far ahead of the stream would keep the arm moving long after the policy changed its mind.
        return self._adapter.last if ahead <= self.settings.max_translation else self._limiter.pose

    def _carry_out(self, chunk: Chunk, rows: np.ndarray, reference: Pose, ros_now_ns: int, now_s: float) -> None:
        assert self._limiter is not None and self._adapter is not None
        goals: list[Goal] = []
        clipped: tuple[str, ...] = ()
        start = reference
        for row in rows:
            problem = safety.refusal(*self.convention.size(row), self.settings)
            if problem:
                self._latch(problem[0], f"Action {chunk.sequence} refused: {problem[1]}.")
                return
            action = self.convention.action(row, start)
            pose, reasons = self._limiter.limit(action, start)
            goals.append(Goal(pose, action.gripper))
            clipped = clipped or reasons
            start = pose
        card_hz = self.convention.rate_hz
        # A message must not be able to stretch its own time-out.
        rate_hz = chunk.rate_hz if card_hz / 4 <= chunk.rate_hz <= card_hz * 4 else card_hz
        period_s = 1.0 / rate_hz
        first = goals[0].pose
        self._accepted = Accepted(
            session_id=chunk.session_id,
            sequence=chunk.sequence,
            image_stamp_ns=chunk.stamp_ns,
            translation=first.position - reference.position,
            rotation=rotations.rotation_between(reference.quaternion, first.quaternion),
            gripper=goals[0].gripper or 0.0,
            reasons=clipped,
        )
        self.accepted_count += 1
        self.clipped_count += bool(clipped)
        self._recently_clipped.append(bool(clipped))
        self._adapter.take(self._limiter.pose, goals, now_s, self.settings.interpolation * period_s, period_s)
        self._set_expiry(rate_hz, (len(goals) - 1) * period_s, (ros_now_ns - chunk.stamp_ns) * 1e-9, now_s)

    def _set_expiry(self, rate_hz: float, more_steps_s: float, image_age_s: float, now_s: float) -> None:
        """An action is carried out until the next is overdue or its image is too old, whichever comes first."""
        overdue_s = action_timeout_s(rate_hz)
        too_old_s = self.settings.max_observation_age_s - max(image_age_s, 0.0)
        self._expires_s = now_s + more_steps_s + min(overdue_s, too_old_s)
        if overdue_s <= too_old_s:
            self._idle = Verdict(
                State.HOLD, "ACTION_STALE", f"Holding: no new action within {overdue_s:.2f} s of the last one."
            )
        else:
            limit_s = self.settings.max_observation_age_s
            self._idle = Verdict(
                State.HOLD, "OBS_STALE", f"Holding: no action from an image younger than {limit_s:g} s."
            )

    def _refuse(self, code: str, sentence: str) -> None:
        self.refused_count += 1
        self._idle = Verdict(State.HOLD, code, f"Holding: {sentence}.")

    def _latch(self, code: str, sentence: str) -> None:
        self.refused_count += 1
        self._fault = Verdict(State.FAULT, code, f"{sentence} Holding until reset.")

    def _forget_action(self, code: str, sentence: str) -> None:
        self._expires_s = -math.inf
        self._accepted = None
        self._idle = Verdict(State.HOLD, code, sentence)

    # State ----------------------------------------------------------------------------------------------------

    def verdict(self, now_s: float) -> Verdict:
        """What is true now."""
        blocked = self._blocked(now_s)
        if blocked:
            return blocked
        if now_s >= self._expires_s:
            return self._idle
        return Verdict(State.ACTIVE, "OK", "Following the policy.")

    def _blocked(self, now_s: float) -> Verdict | None:
        """Why no action may be carried out, most serious reason first; None when one may."""
        if self._estop:
            return self._estop
        if self._fault:
            return self._fault
        if not self._running:
            return Verdict(State.STANDBY, "STOPPED", "Stopped: nothing is sent until start.")
        if not self._pose_is_fresh(now_s):
            return Verdict(State.HOLD, "POSE_STALE", f"Holding: {self._pose_sentence()}")
        if self._publishers > 1:
            return Verdict(
                State.HOLD, "MULTI_PUB", "Holding: more than one process publishes actions. Stop all but one."
            )
        if self._paused:
            return Verdict(State.HOLD, "PAUSED", "Paused: holding until start.")
        return None

    def _pose_is_fresh(self, now_s: float) -> bool:
        return now_s - self._last_pose_s <= self.settings.max_pose_age_s

    def _pose_sentence(self) -> str:
        return (
            f"no robot pose in frame {self.settings.base_frame!r} within {self.settings.max_pose_age_s:g} s; "
            "check that the robot driver publishes it."
        )

    # The stream -----------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> Command | None:
        """The next command of the stream, or None when nothing is to be sent."""
        dt = now_s - self._last_tick_s
        self._last_tick_s = now_s
        if self._limiter is None and self._running and self._pose_is_fresh(now_s):
            self._hold_measured_pose()
            dt = 0.0
        if self._limiter is None or self._adapter is None:
            return None
        self._check_tracking(now_s)
        verdict = self.verdict(now_s)
        if verdict.state == State.ACTIVE:
            goal = self._adapter.target(now_s)
            pose = self._limiter.follow(goal.pose, dt)
            if goal.gripper is not None:
                self._gripper.decide(goal.gripper, now_s)
            started, self._accepted = self._accepted, None
            return Command(self._safe_action(pose), started)
        # What was interrupted is never taken up again: only a new action moves the arm.
        self._expires_s, self._accepted = -math.inf, None
        if verdict.state == State.STANDBY and self._limiter.at_rest:
            self._limiter = self._adapter = None
            return None
        if verdict.state == State.ESTOP and self._limiter.at_rest and self._pose_is_fresh(now_s):
            # An arm that is moved by hand while stopped must not be pulled back when the hardware stop is released.
            self._hold_measured_pose()
        return Command(self._safe_action(self._limiter.brake(dt)), None)

    def _safe_action(self, pose: Pose) -> SafeAction:
        assert self._limiter is not None
        return SafeAction(
            pose,
            self._gripper.command,
            velocity=self._limiter.velocity,
            angular_velocity=self._limiter.angular_velocity,
        )

    def _hold_measured_pose(self) -> None:
        measured = self._poses.newest()
        assert measured is not None  # callers have just seen a fresh one
        self._limiter = SafetyLimiter(self.settings, measured)
        self._adapter = RateAdapter(measured)
        self._off_track_since_s = math.inf

    def _check_tracking(self, now_s: float) -> None:
        """Gives up a commanded pose that the arm does not reach: something is in its way, or someone moved it."""
        measured = self._poses.newest()
        if measured is None or self._estop or self._fault or not self._pose_is_fresh(now_s):
            self._off_track_since_s = math.inf
            return
        assert self._limiter is not None
        commanded = self._limiter.pose
        distance = np.linalg.norm(measured.position - commanded.position)
        angle = np.linalg.norm(rotations.rotation_between(measured.quaternion, commanded.quaternion))
        if distance <= self.settings.max_tracking_error and angle <= self.settings.max_tracking_rotation:
            self._off_track_since_s = math.inf
            return
        self._off_track_since_s = min(self._off_track_since_s, now_s)
        if now_s - self._off_track_since_s >= TRACKING_S:
            self._hold_measured_pose()
            self._forget_action("TRACKING", "Holding where the arm is: it did not follow its commands.")


def action_timeout_s(rate_hz: float) -> float:
    """How long one action may be carried out while no newer one comes, seconds: 1.5 periods, 0.10 to 0.40."""
    return min(max(1.5 / rate_hz, 0.10), 0.40)
