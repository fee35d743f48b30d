"""Limits between a policy and an arm: how far one step may go, and how fast and where the command stream may move.

The step of an action is shortened first. The stream of poses towards it is then bounded in speed, acceleration and
jerk, stays in the workspace box and the orientation cone, and can always stop there. Nothing here raises on an input:
a command that makes no sense is a brake.
Supervisory software, not a safety function: the robot's own limits and the hardware emergency stop are that.
"""

import math
from itertools import pairwise

import numpy as np

from openvla_core import rotations, stopping
from openvla_core.errors import ConfigError
from openvla_core.gripper_gate import GripperGate
from openvla_core.orientation_cone import OrientationCone
from openvla_core.safety_settings import SafetySettings, check_safety_settings
from openvla_core.stopping import Limits, Motion
from openvla_core.types import Action, Pose
from openvla_core.vectors import ZERO, Vector, minus

__all__ = ["GripperGate", "SafetyLimiter", "SafetySettings", "check_safety_settings", "limit_step", "refusal"]

# A step this many times longer than allowed is not a big step but a wrong unit: it is refused, not shortened.
ABSURD = 4.0
# What is beyond this in a late tick is spent on braking, so that a paused process does not wake with a leap.
LONGEST_TICK_S = 0.05
# In less than this no goal is followed, only the plan: nothing is gained, and quotients would overflow.
SHORTEST_TICK_S = 1e-6
# The share of the speed limits at the beginning of the start ramp.
RAMP_START = 0.2
# Rounding that a plan may be outside the box; what is sent is clipped to it. Metres.
ROUNDING = 1e-12


class SafetyLimiter:
    """Turns goals into the poses that are sent: finite, in the box, within speed, acceleration and jerk.

    It holds the state of the stream together with a complete plan to standstill that keeps every limit. A tick either
    replaces the plan by another one that was checked to its end, or goes on with the one it has. So there is always an
    answer, at every moment the stream can stop, and how late a tick comes does not matter.

    A stop, once begun, is carried out to its end before a goal is followed again.
    """

    def __init__(self, settings: SafetySettings, pose: Pose) -> None:
        """Raises ConfigError when a limit is beyond its cap or the pose is not a pose."""
        check_safety_settings(settings)
        self.settings = settings
        s = settings
        self._limits = Limits(s.max_speed, s.max_acceleration, s.max_jerk)
        self._angular_limits = Limits(s.max_angular_speed, s.max_angular_acceleration, s.max_angular_jerk)
        self._stop_limits = Limits(
            s.max_speed, max(s.stop_acceleration, s.max_acceleration), max(s.stop_jerk, s.max_jerk)
        )
        self._angular_stop_limits = Limits(
            s.max_angular_speed,
            max(s.stop_angular_acceleration, s.max_angular_acceleration),
            max(s.stop_angular_jerk, s.max_angular_jerk),
        )
        self._low = tuple(float(value) for value in s.workspace_low)
        self._high = tuple(float(value) for value in s.workspace_high)
        self._cone = OrientationCone(s.tool_axis, s.cone_axis, s.max_tilt)
        first = _checked(pose)
        if first is None:
            raise ConfigError(
                f"the stream cannot start at {pose}: give a finite position (3,) and a unit quaternion (4,)."
            )
        self._begin(first)

    def reset(self, pose: Pose) -> None:
        """Starts the stream anew at a measured pose, at rest; where it is when that is not a pose."""
        self._begin(_checked(pose) or self.pose)

    def _begin(self, pose: Pose) -> None:
        self._sent = Pose(pose.position.copy(), pose.quaternion)
        self._move = stopping.at_rest(_vector(pose.position))
        self._turn = stopping.at_rest(ZERO)  # relative to the pose last sent
        self._stopping = False
        self._followed_s = 0.0

    @property
    def pose(self) -> Pose:
        """The pose last sent, or the one it started from; the reader may do with it as it likes."""
        return Pose(self._sent.position.copy(), self._sent.quaternion.copy())

    @property
    def velocity(self) -> np.ndarray:
        """How fast the stream moves now (3,) m/s, base axes."""
        return np.array(self._move.velocity)

    @property
    def angular_velocity(self) -> np.ndarray:
        """How fast the stream turns now (3,) rad/s, base axes."""
        return np.array(self._turn.velocity)

    @property
    def at_rest(self) -> bool:
        """Whether the stream stands still and has nothing left to carry out."""
        return not (self._move.pieces or self._turn.pieces)

    def limit(self, action: Action, reference: Pose) -> tuple[Pose, tuple[str, ...]]:
        """The goal of one action: its step shortened, direction kept, then moved into the box and the cone.

        From outside of these the way in is shortened like any other step, so a goal may still lie outside.

        Args:
            action: one that `refusal` has no reason against.
            reference: the pose the step starts from, base frame.

        Returns:
            The goal in the base frame and one sentence per limit that changed it.
        """
        start = _checked(reference)
        if start is None or not (np.isfinite(action.translation).all() and np.isfinite(action.rotation).all()):
            return self.pose, ("not a finite step: the goal is where the arm is",)
        translation, rotation, reasons = limit_step(action.translation, action.rotation, self.settings)
        goal = rotations.moved(start, translation, rotation)
        inside = self.clamp_to_box(goal.position)
        if not np.array_equal(inside, goal.position):
            reasons.append("goal moved into the workspace box")
        upright = self._cone.clamp(goal.quaternion)
        if upright is not goal.quaternion:
            reasons.append("goal tilted into the orientation cone")
        way, turn = inside - start.position, rotations.rotation_between(start.quaternion, upright)
        way, turn, shortened = limit_step(way, turn, self.settings)
        if not shortened:
            return Pose(inside, upright), tuple(reasons)
        return rotations.moved(start, way, turn), tuple(dict.fromkeys(reasons + shortened))

    def clamp_to_box(self, position: np.ndarray) -> np.ndarray:
        """The nearest position (3,) inside the workspace box."""
        return np.clip(position, self._low, self._high)

    def follow(self, goal: Pose, dt: float) -> Pose:
        """The pose to send now, one tick closer to the goal; dt is the time since the last tick, seconds."""
        checked = _checked(goal)
        if checked is None:
            return self.brake(dt)
        dt = _usable_tick(dt)
        self._stopping = self._stopping and not self.at_rest
        if dt < SHORTEST_TICK_S or self._stopping:
            return self._advance(dt)
        step = min(dt, LONGEST_TICK_S)
        ramp = self._ramp(step)
        start = self._move.position
        # Widened to where the arm is: from outside it comes in as far as the goal says, never further out.
        low, high = self._reachable_box(start)
        target = _vector(np.clip(checked.position, low, high))
        self._move = stopping.approach(
            self._move,
            target,
            self._limits._replace(speed=ramp * self._limits.speed),
            step,
            lambda motion: self._stays_in_box(motion, start),
        )
        self._turn = stopping.approach(
            self._turn,
            self._turn_to(self._cone.next_goal(self._sent.quaternion, checked.quaternion)),
            self._angular_limits._replace(speed=ramp * self._angular_limits.speed),
            step,
            lambda motion: self._cone.holds(self._sent.quaternion, motion),
        )
        return self._advance(dt - step)

    def brake(self, dt: float) -> Pose:
        """One tick of a straight stop; at rest it returns the same pose again and again."""
        if not self._stopping:
            self._stopping = True
            self._plan_stop()
        return self._advance(_usable_tick(dt))

    def _plan_stop(self) -> None:
        """Replaces the plans by harder ones. Where a harder one would not fit, the one there is stops as well."""
        move, turn = self._move, self._turn
        harder = stopping.plan_stop(move.position, move.velocity, move.acceleration, self._stop_limits)
        if harder.peak <= self._limits.speed and self._stays_in_box(harder, move.position):
            self._move = harder
        harder = stopping.plan_stop(turn.position, turn.velocity, turn.acceleration, self._angular_stop_limits)
        if harder.peak <= self._angular_limits.speed and self._cone.holds(self._sent.quaternion, harder):
            self._turn = harder

    def _advance(self, dt: float) -> Pose:
        """Carries out the plans for a time and makes the result the pose that is sent."""
        low, high = self._reachable_box(_vector(self._sent.position))
        move, turn = stopping.advance(self._move, dt), stopping.advance(self._turn, dt)
        x, y, z = (min(max(p, a), b) for p, a, b in zip(move.position, low, high, strict=True))
        self._move = move._replace(position=(x, y, z))
        self._turn = turn._replace(position=ZERO, end=minus(turn.end, turn.position))
        quaternion = self._sent.quaternion
        if any(turn.position):
            step = rotations.from_rotation_vector(np.array(turn.position))
            quaternion = rotations.multiply(step, quaternion)
        self._sent = Pose(np.array(self._move.position), quaternion)
        return self.pose

    def _stays_in_box(self, motion: Motion, start: Vector) -> bool:
        """Whether the way to standstill stays in the box; along an axis that starts outside it may only come in."""
        for at, low, high, way in zip(start, self._low, self._high, zip(*motion.corners, strict=True), strict=True):
            if at < low:
                fits = max(way) <= high and all(b >= a - ROUNDING for a, b in pairwise((at, *way)))
            elif at > high:
                fits = min(way) >= low and all(b <= a + ROUNDING for a, b in pairwise((at, *way)))
            else:
                fits = min(way) >= low - ROUNDING and max(way) <= high + ROUNDING
            if not fits:
                return False
        return True

    def _reachable_box(self, start: Vector) -> tuple[list[float], list[float]]:
        """The workspace box, widened to where the arm is."""
        return [min(a, b) for a, b in zip(self._low, start, strict=True)], [
            max(a, b) for a, b in zip(self._high, start, strict=True)
        ]

    def _ramp(self, dt: float) -> float:
        """The share of the speed limits in force; it only grows, so plans made before stay valid."""
        self._followed_s += dt
        ramp_s = self.settings.start_ramp_s
        done = self._followed_s / ramp_s if self._followed_s < ramp_s else 1.0
        return RAMP_START + (1.0 - RAMP_START) * done

    def _turn_to(self, quaternion: np.ndarray) -> Vector:
        """The rotation vector from the pose to a goal, counted so that the rest after the planned stop is shortest."""
        end = self._turn.end
        stop = rotations.multiply(rotations.from_rotation_vector(np.array(end)), self._sent.quaternion)
        return _vector(np.array(end) + rotations.rotation_between(stop, quaternion))


def refusal(metres: float, radians: float, settings: SafetySettings) -> tuple[str, str] | None:
    """Why a step of this size must not be followed at all, as (code, sentence); None when shortening it is enough."""
    for size, longest, unit in ((metres, settings.max_translation, "m"), (radians, settings.max_rotation, "rad")):
        if not size <= ABSURD * longest:
            return "ACT_TOO_LARGE", (
                f"the action asks for {size:.3g} {unit} in one step, more than {ABSURD:g} times the limit of "
                f"{longest:g} {unit}; check the units of the convention card"
            )
    return None


def limit_step(
    translation: np.ndarray, rotation: np.ndarray, settings: SafetySettings
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The step shortened as a whole until both of its parts respect their limit; its direction stays.

    Args:
        translation: (3,) metres. rotation: rotation vector (3,), radians. Both finite, base axes.

    Returns:
        translation, rotation, and one sentence per limit that was exceeded.
    """
    reasons = []
    factor = 1.0
    for value, longest, words in (
        (translation, settings.max_translation, "step shortened to {:g} m"),
        (rotation, settings.max_rotation, "turn shortened to {:g} rad"),
    ):
        length = math.hypot(*value)  # scales by itself: no overflow below 1e308
        if length > longest * (1 + 1e-9):  # a step that was shortened before is not shortened again
            reasons.append(words.format(longest))
            factor = min(factor, longest / length)
    return factor * translation, factor * rotation, reasons


def _checked(pose: Pose) -> Pose | None:
    """The pose with a unit quaternion; None when it is not one, whatever it is instead."""
    try:
        return rotations.checked_pose(pose.position, pose.quaternion)
    except (ArithmeticError, AttributeError, TypeError, ValueError):
        return None


def _vector(values: np.ndarray) -> Vector:
    x, y, z = values.tolist()
    return x, y, z


def _usable_tick(dt: float) -> float:
    return dt if math.isfinite(dt) and dt > 0.0 else 0.0
