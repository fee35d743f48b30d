"""What flows from the camera to the arm, one type per stage. Needs numpy only."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Pose:
    """A rigid pose: position (3,) float64 in metres, quaternion (4,) float64 as x, y, z, w with unit norm."""

    position: np.ndarray
    quaternion: np.ndarray


@dataclass(frozen=True)
class Observation:
    """One camera frame (H, W, 3) uint8 RGB, the instruction in force and the capture time in nanoseconds."""

    image: np.ndarray
    instruction: str
    stamp_ns: int


@dataclass(frozen=True)
class ActionTokens:
    """Action token ids (D,) int64; the probability the model gave each (D,); the entropy of each choice (D,), nats."""

    ids: np.ndarray
    probabilities: np.ndarray
    entropies: np.ndarray


@dataclass(frozen=True)
class NormalizedAction:
    """Decoded bin centres (D,) float64, unitless in [-1, 1]."""

    values: np.ndarray


@dataclass(frozen=True)
class Action:
    """One end-effector step in the robot's base frame, before any limit.

    translation (3,) float64 metres; rotation (3,) float64 rotation vector in radians, applied on the left (base axes);
    gripper in [0, 1], 0 closed and 1 open.
    """

    translation: np.ndarray
    rotation: np.ndarray
    gripper: float


@dataclass(frozen=True)
class SafeAction:
    """A command every limit has agreed to: the pose to hold now, the gripper opening and why it was changed.

    gripper: 0 closed to 1 open; None leaves the gripper as it is, because nothing has been asked of it yet.
    velocity (3,) float64 m/s and angular_velocity (3,) float64 rad/s: how the pose moves now, base axes.
    active: an action is being carried out; otherwise the command brakes or holds and asks nothing new of the gripper.
    restarted: the stream begins here, at a measured pose; the difference to the command before it is no motion.
    """

    pose: Pose
    gripper: float | None
    reasons: tuple[str, ...] = field(default=())
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(3))
    angular_velocity: np.ndarray = field(default_factory=lambda: np.zeros(3))
    active: bool = True
    restarted: bool = False


@dataclass(frozen=True)
class Problem:
    """Why commands do not reach the robot or are not carried out: a stable code and a sentence for a person.

    latched: the arm may go on only after a person has called reset, even when the reason is gone.
    """

    code: str
    sentence: str
    latched: bool = False
