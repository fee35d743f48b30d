"""Limits between a policy and an arm: how far one step may go, and how fast and where the command stream may move.

The step of an action is shortened first. The stream of poses towards it is then bounded in speed and acceleration and
always able to stop inside the workspace box. Nothing here raises on an input: a command that makes no sense is a brake.
Supervisory software, not a safety function: the robot's own limits and the hardware emergency stop are that.
"""

import math
from dataclasses import dataclass

import numpy as np

from openvla_core import rotations
from openvla_core.config import check_setting, setting
from openvla_core.errors import ConfigError
from openvla_core.types import Action, Pose

# No parameter goes beyond these; they are also the upper ends of the ranges below.
CAP_SPEED = 0.5  # m/s
CAP_ACCELERATION = 4.0  # m/s^2
CAP_ANGULAR_SPEED = 2.0  # rad/s
CAP_ANGULAR_ACCELERATION = 16.0  # rad/s^2
CAP_TRANSLATION = 0.075  # m per action
CAP_ROTATION = 0.30  # rad per action
CAP_REACH = 2.0  # m from the base

# A step this many times longer than allowed is not a big step but a wrong unit: it is refused, not shortened.
ABSURD = 4.0
# A tick that comes later than this moves the stream no further, so that a paused process does not wake with a leap.
LONGEST_TICK_S = 0.05


@dataclass(frozen=True, kw_only=True)
class SafetySettings:
    """Limits of one robot; the defaults are a slow profile for a table-top arm."""

    max_speed: float = setting(0.25, "Fastest tool motion", unit="m/s", minimum=0.001, maximum=CAP_SPEED)
    max_acceleration: float = setting(
        1.0, "Strongest tool acceleration while following", unit="m/s^2", minimum=0.01, maximum=CAP_ACCELERATION
    )
    stop_acceleration: float = setting(
        2.0, "Tool deceleration when holding; never below max_acceleration", unit="m/s^2", minimum=0.01,
        maximum=CAP_ACCELERATION,
    )  # fmt: skip
    max_angular_speed: float = setting(
        1.0, "Fastest tool rotation", unit="rad/s", minimum=0.001, maximum=CAP_ANGULAR_SPEED
    )
    max_angular_acceleration: float = setting(
        4.0, "Strongest angular acceleration while following", unit="rad/s^2", minimum=0.01,
        maximum=CAP_ANGULAR_ACCELERATION,
    )  # fmt: skip
    stop_angular_acceleration: float = setting(
        8.0, "Angular deceleration when holding; never below max_angular_acceleration", unit="rad/s^2", minimum=0.01,
        maximum=CAP_ANGULAR_ACCELERATION,
    )  # fmt: skip
    max_translation: float = setting(
        0.05, "Longest step of one action", unit="m", minimum=0.001, maximum=CAP_TRANSLATION
    )
    max_rotation: float = setting(0.25, "Largest turn of one action", unit="rad", minimum=0.001, maximum=CAP_ROTATION)
    workspace_low: tuple[float, ...] = setting(
        (0.28, -0.45, 0.02), "Lower corner of the box the tool stays in, base frame", unit="m", minimum=-CAP_REACH,
        maximum=CAP_REACH,
    )  # fmt: skip
    workspace_high: tuple[float, ...] = setting(
        (0.75, 0.45, 0.75), "Upper corner of the box the tool stays in, base frame", unit="m", minimum=-CAP_REACH,
        maximum=CAP_REACH,
    )  # fmt: skip
    gripper_hysteresis: float = setting(
        0.1, "Opening beyond the threshold that makes the gripper toggle", minimum=0.0, maximum=0.45
    )
    gripper_interval_s: float = setting(0.3, "Shortest time between two toggles", unit="s", minimum=0.1, maximum=5.0)


def check_safety_settings(settings: SafetySettings) -> None:
    """Raises ConfigError when a limit is beyond its cap, not a number, or the workspace box is not a box."""
    for field in SafetySettings.__dataclass_fields__.values():
        check_setting(field, getattr(settings, field.name))
    low, high = settings.workspace_low, settings.workspace_high
    if len(low) != 3 or len(high) != 3 or not all(a < b for a, b in zip(low, high, strict=True)):
        raise ConfigError(
            f"workspace_low {list(low)} and workspace_high {list(high)} do not make a box; "
            "give x, y, z in metres for both, every low below its high."
        )


class SafetyLimiter:
    """Turns goals into the poses that are sent: finite, inside the box, within speed and acceleration.

    It holds the state of the stream: the pose last sent and its velocity. After every tick one thing is true: braking
    straight ahead from here stops inside the box. A wish that would break this is bent towards braking until it does
    not, and as braking itself never breaks it, there is always an answer.
    """

    def __init__(self, settings: SafetySettings, pose: Pose) -> None:
        check_safety_settings(settings)
        self.settings = settings
        self._low = np.array(settings.workspace_low, dtype=np.float64)
        self._high = np.array(settings.workspace_high, dtype=np.float64)
        self.reset(pose)

    def reset(self, pose: Pose) -> None:
        """Starts the stream anew at a measured pose, at rest."""
        self.pose = pose
        self.velocity = np.zeros(3)  # m/s, base axes
        self.angular_velocity = np.zeros(3)  # rad/s, base axes

    @property
    def at_rest(self) -> bool:
        """Whether the stream stands still."""
        return not (self.velocity.any() or self.angular_velocity.any())

    def limit(self, action: Action, reference: Pose) -> tuple[Pose, tuple[str, ...]]:
        """The goal of one action: its step shortened, direction kept, then moved into the workspace box.

        Args:
            action: finite and not so large that `refusal` has a reason against it.
            reference: the pose the step starts from, base frame.

        Returns:
            The goal in the base frame and one sentence per limit that changed it.
        """
        translation, rotation, reasons = limit_step(action.translation, action.rotation, self.settings)
        goal = rotations.moved(reference, translation, rotation)
        inside = self.clamp_to_box(goal.position)
        if not np.array_equal(inside, goal.position):
            reasons.append("goal moved into the workspace box")
        return Pose(inside, goal.quaternion), tuple(reasons)

    def clamp_to_box(self, position: np.ndarray) -> np.ndarray:
        """The nearest position (3,) inside the workspace box."""
        return np.clip(position, self._low, self._high)

    def follow(self, goal: Pose, dt: float) -> Pose:
        """The pose to send now, one tick closer to the goal; dt is the time since the last tick, seconds."""
        checked = rotations.checked_pose(goal.position, goal.quaternion)
        if checked is None:
            return self.brake(dt)
        dt = _usable_tick(dt)
        limits = self.settings
        error = self.clamp_to_box(checked.position) - self.pose.position
        turn = rotations.rotation_between(self.pose.quaternion, checked.quaternion)
        wish = _approach(error, self.velocity, limits.max_speed, limits.max_acceleration, dt)
        angular = _approach(turn, self.angular_velocity, limits.max_angular_speed, limits.max_angular_acceleration, dt)
        return self._advance(self._stoppable(wish, dt), angular, dt)

    def brake(self, dt: float) -> Pose:
        """One tick of straight deceleration; at rest it returns the same pose again and again."""
        dt = _usable_tick(dt)
        limits = self.settings
        stop = max(limits.stop_acceleration, limits.max_acceleration)
        angular_stop = max(limits.stop_angular_acceleration, limits.max_angular_acceleration)
        return self._advance(_slowed(self.velocity, stop * dt), _slowed(self.angular_velocity, angular_stop * dt), dt)

    def _advance(self, velocity: np.ndarray, angular_velocity: np.ndarray, dt: float) -> Pose:
        low, high = self._reachable_box()
        position = np.clip(self.pose.position + velocity * dt, low, high)
        turned = rotations.from_rotation_vector(angular_velocity * dt)
        self.pose = Pose(position, rotations.multiply(turned, self.pose.quaternion))
        self.velocity, self.angular_velocity = velocity, angular_velocity
        return self.pose

    def _stoppable(self, wish: np.ndarray, dt: float) -> np.ndarray:
        """The velocity nearest to the wish, on the way from braking to it, from which the box still allows a stop."""
        if self._can_stop(wish, dt):
            return wish
        braking = _slowed(self.velocity, self.settings.max_acceleration * dt)
        low, high = 0.0, 1.0
        for _ in range(24):
            middle = (low + high) / 2
            if self._can_stop(braking + middle * (wish - braking), dt):
                low = middle
            else:
                high = middle
        return braking + low * (wish - braking)

    def _can_stop(self, velocity: np.ndarray, dt: float) -> bool:
        low, high = self._reachable_box()
        # Braking in ticks of any length travels at most v^2 / 2a, the distance of braking without ticks.
        path = velocity * (dt + _norm(velocity) / (2.0 * self.settings.max_acceleration))
        end = self.pose.position + path
        return bool((end >= low).all() and (end <= high).all())

    def _reachable_box(self) -> tuple[np.ndarray, np.ndarray]:
        """The workspace box, widened to where the arm is: from outside it may come in, never go further out."""
        return np.minimum(self._low, self.pose.position), np.maximum(self._high, self.pose.position)


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
        length = _norm(value)
        if length > longest * (1 + 1e-9):  # a step that was shortened before is not shortened again
            reasons.append(words.format(longest))
            factor = min(factor, longest / length)
    return factor * translation, factor * rotation, reasons


class GripperGate:
    """Turns a wavering opening into few, clear toggles.

    It toggles only beyond threshold +- hysteresis, and not sooner than the interval after the last toggle.
    """

    def __init__(self, settings: SafetySettings, threshold: float = 0.5) -> None:
        self._open_above = threshold + settings.gripper_hysteresis
        self._close_below = threshold - settings.gripper_hysteresis
        self._interval_s = settings.gripper_interval_s
        self.reset()

    def reset(self) -> None:
        """Forgets the command: until the next clear wish the gripper is left alone."""
        self.command: float | None = None  # 0 closed, 1 open, None not commanded yet
        self._toggled_s = -math.inf

    def decide(self, opening: float, now_s: float) -> float | None:
        """The command for a wished opening in [0, 1]; anything that is not a number keeps the last command."""
        wish = 1.0 if opening >= self._open_above else 0.0 if opening <= self._close_below else self.command
        if wish != self.command and now_s - self._toggled_s >= self._interval_s:
            self.command = wish
            self._toggled_s = now_s
        return self.command


def _norm(vector: np.ndarray) -> float:
    return math.hypot(*vector)  # scales by itself: no overflow below 1e308


def _usable_tick(dt: float) -> float:
    return min(dt, LONGEST_TICK_S) if math.isfinite(dt) and dt > 0.0 else 0.0


def _slowed(velocity: np.ndarray, change: float) -> np.ndarray:
    """The velocity with its length reduced by the change, not below zero."""
    speed = _norm(velocity)
    return velocity * ((speed - change) / speed) if speed > change else np.zeros(3)


def _approach(error: np.ndarray, velocity: np.ndarray, top: float, acceleration: float, dt: float) -> np.ndarray:
    """The next velocity on the way along the error (3,), able to stop at its end without overshoot.

    The speed v solves v dt + v^2 / 2a = distance: after this tick the rest is just enough to brake.
    """
    distance = _norm(error)
    step = acceleration * dt
    root = math.sqrt(step * step + 2.0 * acceleration * distance) + step
    speed = min(top, 2.0 * acceleration * distance / root) if root > 0.0 else 0.0
    wish = error * (speed / distance) if distance > 0.0 else np.zeros(3)
    change = wish - velocity
    size = _norm(change)
    return wish if size <= step else velocity + change * (step / size)
