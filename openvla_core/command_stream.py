"""The stream of commands: where it is, where it aims, and how it finds back to where the arm really is."""

import copy
import math
from collections.abc import Sequence

import numpy as np

from openvla_core import rotations
from openvla_core.rate_adapter import Goal, RateAdapter
from openvla_core.safety import GripperGate, SafetyLimiter
from openvla_core.supervisor_settings import SupervisorSettings
from openvla_core.types import Action, Pose, SafeAction

TRACKING_S = 0.3
# A slow policy is held for a moment between any two actions; its votes about the gripper last that long.
VOTES_LAST_S = 1.0


class CommandStream:
    """Follows goals, brakes, holds. Off until `begin`. Times are monotonic seconds.

    The commanded pose is made the measured one (`rebase`) only at rest and only by a pose measured after the stream
    came to rest: in motion, and shortly after, the measured pose lags behind, and commands that jumped there would move
    the arm faster than any limit.
    """

    def __init__(self, settings: SupervisorSettings, gripper_threshold: float) -> None:
        self._settings = settings
        self._gripper = GripperGate(settings, gripper_threshold)
        self._limiter: SafetyLimiter | None = None
        self._adapter: RateAdapter | None = None
        self._rest_since_s = math.inf
        self._off_since_s = math.inf
        self.rebase_wanted = False
        self._restarted = False
        self._followed_s = -math.inf
        self._chunks = 0

    @property
    def is_on(self) -> bool:
        """Whether commands are made."""
        return self._limiter is not None

    @property
    def at_rest(self) -> bool:
        """Whether the commanded pose stands still; also while off."""
        return self._limiter is None or self._limiter.at_rest

    def begin(self, measured: Pose, now_s: float) -> None:
        """Commands start, or start anew, at the measured pose, at rest."""
        self._limiter = SafetyLimiter(self._settings, measured)
        self._adapter = RateAdapter(measured)
        self._rest_since_s = now_s
        self._off_since_s = math.inf
        self.rebase_wanted = False
        self._restarted = True

    def end(self) -> None:
        """No more commands."""
        self._limiter = self._adapter = None
        self.rebase_wanted = False

    def rebase(self) -> None:
        """Asks for the measured pose to become the commanded one, as soon as that is no jump."""
        self.rebase_wanted = self.is_on

    def stand_still(self, now_s: float, rebase: bool) -> None:
        """At rest at once, for a process that was paused: the arm has reached its last command long ago."""
        if self._limiter is not None:
            self._limiter.reset(self._limiter.pose)
            self._rest_since_s = now_s
            self.rebase_wanted = self.rebase_wanted or rebase

    def forget_gripper(self) -> None:
        """Leaves the gripper alone until an action asks for something."""
        self._gripper.reset()

    def forget_votes(self) -> None:
        """Lets no wish about the gripper from before count together with one to come."""
        self._gripper.forget_votes()

    # Goals ----------------------------------------------------------------------------------------------------

    def reference(self) -> Pose:
        """The pose a step starts from under a card with a commanded reference."""
        assert self._limiter is not None and self._adapter is not None
        goal, now = self._adapter.last, self._limiter.pose
        ahead = np.linalg.norm(goal.position - now.position)
        turn_ahead = np.linalg.norm(rotations.rotation_between(now.quaternion, goal.quaternion))
        # A goal far ahead of the stream would keep the arm moving long after the policy changed its mind; one that is
        # half a turn ahead would be reached the other way round.
        near = ahead <= self._settings.max_translation and turn_ahead <= self._settings.max_rotation
        return goal if near else now

    def limit(self, action: Action, reference: Pose) -> tuple[Pose, tuple[str, ...]]:
        """The goal of one action within the limits, and one sentence per limit that changed it."""
        assert self._limiter is not None
        return self._limiter.limit(action, reference)

    def take(self, goals: Sequence[Goal], now_s: float, period_s: float) -> None:
        """Aims at the goals of one chunk, one per period, in place of all earlier ones."""
        assert self._limiter is not None and self._adapter is not None
        self._chunks += 1
        glide_s = self._settings.interpolation * period_s
        self._adapter.take(self._limiter.pose, goals, now_s, glide_s, period_s)

    # Commands -------------------------------------------------------------------------------------------------

    def follow(self, now_s: float, dt: float) -> SafeAction:
        """The next command towards the goals."""
        assert self._limiter is not None and self._adapter is not None
        self._followed_s = now_s
        goal = self._adapter.target(now_s)
        self._limiter.follow(goal.pose, dt)
        if goal.gripper is not None:
            self._gripper.decide(goal.gripper, now_s, action=self._chunks)
        return self._command(now_s, active=True)

    def hold(self, now_s: float, dt: float, measured: Pose | None, measured_s: float) -> SafeAction:
        """The next command of a hold: brakes, then repeats one pose, then re-bases when that was asked for.

        Args:
            measured: the newest measured pose, None when there is no fresh one; it was measured at measured_s,
                by its stamp.
        """
        assert self._limiter is not None and self._adapter is not None
        if self.rebase_wanted and measured is not None and self._limiter.at_rest and measured_s > self._rest_since_s:
            self.begin(measured, now_s)
        if now_s - self._followed_s > VOTES_LAST_S:
            self.forget_votes()
        self._limiter.brake(dt)
        # What is left of an interrupted action is over: the next step starts where the stream comes to rest.
        self._adapter.reset(self._standstill())
        return self._command(now_s, active=False)

    def _standstill(self) -> Pose:
        """Where the stream comes to rest when it goes on braking."""
        assert self._limiter is not None
        if self._limiter.at_rest:
            return self._limiter.pose
        ahead = copy.copy(self._limiter)  # its state is replaced, never changed
        while not ahead.at_rest:
            ahead.brake(1.0)
        return ahead.pose

    def is_off(self, measured: Pose) -> bool:
        """Whether the arm is elsewhere than commanded by more than the tracking tolerance."""
        assert self._limiter is not None
        commanded = self._limiter.pose
        distance = np.linalg.norm(measured.position - commanded.position)
        angle = np.linalg.norm(rotations.rotation_between(measured.quaternion, commanded.quaternion))
        limits = self._settings
        return bool(distance > limits.max_tracking_error or angle > limits.max_tracking_rotation)

    def lost_track(self, measured: Pose | None, now_s: float) -> bool:
        """Whether the arm has been elsewhere than commanded for 0.3 s; None starts the time anew."""
        if measured is None or not self.is_off(measured):
            self._off_since_s = math.inf
            return False
        self._off_since_s = min(self._off_since_s, now_s)
        return now_s - self._off_since_s >= TRACKING_S

    def _command(self, now_s: float, active: bool) -> SafeAction:
        assert self._limiter is not None
        restarted, self._restarted = self._restarted, False
        self._rest_since_s = min(self._rest_since_s, now_s) if self._limiter.at_rest else math.inf
        return SafeAction(
            self._limiter.pose,
            self._gripper.command,
            velocity=self._limiter.velocity,
            angular_velocity=self._limiter.angular_velocity,
            active=active,
            restarted=restarted,
        )
