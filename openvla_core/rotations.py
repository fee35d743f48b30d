"""Rotations and poses: quaternions are (4,) float64 as x, y, z, w; rotation vectors are (3,) float64, radians.

Everything here works on SO(3) itself, so that nothing jumps at +-pi or at gimbal lock.
"""

import math

import numpy as np

from openvla_core.types import Pose

IDENTITY = np.array([0.0, 0.0, 0.0, 1.0])


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The rotation that applies b first and a second; both (4,), result (4,) with unit norm."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    product = np.array(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ]
    )
    return product / math.sqrt(float(product @ product))


def inverse(q: np.ndarray) -> np.ndarray:
    """The opposite rotation (4,)."""
    return np.array([-q[0], -q[1], -q[2], q[3]])


def unit(q: np.ndarray) -> np.ndarray | None:
    """The quaternion (4,) scaled to unit norm; None when it is not finite or its norm is far from 1."""
    q = np.asarray(q, dtype=np.float64)
    # 0.1 forgives single precision and rounding in a driver, not a message that was never filled in.
    if q.shape != (4,) or not np.isfinite(q).all() or np.abs(q).max() > 2.0:
        return None
    norm = math.sqrt(float(q @ q))
    return q / norm if abs(norm - 1.0) < 0.1 else None


def from_rotation_vector(vector: np.ndarray) -> np.ndarray:
    """Rotation vector (3,), radians -> quaternion (4,)."""
    angle = math.sqrt(float(vector @ vector))
    # sin(x/2)/x has the limit 1/2; below 1e-8 the next term of its series is lost in rounding anyway.
    scale = 0.5 if angle < 1e-8 else math.sin(angle / 2) / angle
    q = np.array([*(scale * vector), math.cos(angle / 2)])
    return q / math.sqrt(float(q @ q))


def to_rotation_vector(q: np.ndarray) -> np.ndarray:
    """Quaternion (4,) -> the shortest rotation vector (3,), angle in [0, pi] radians."""
    q = q if q[3] >= 0 else -q
    sine = math.sqrt(float(q[:3] @ q[:3]))
    if sine < 1e-12:
        return 2.0 * q[:3]
    return (2.0 * math.atan2(sine, q[3]) / sine) * q[:3]


def from_euler_xyz(angles: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw (3,), radians, about the fixed axes x, then y, then z -> quaternion (4,)."""
    roll, pitch, yaw = (from_rotation_vector(angle * axis) for angle, axis in zip(angles, np.eye(3), strict=True))
    return multiply(yaw, multiply(pitch, roll))


def to_euler_xyz(q: np.ndarray) -> np.ndarray:
    """Quaternion (4,) -> roll, pitch, yaw (3,), radians, about the fixed axes x, then y, then z (R = Rz Ry Rx).

    Roll and yaw lie in [-pi, pi], pitch in [-pi/2, pi/2]. At pitch = +-pi/2 only the sum or the difference of roll and
    yaw is defined; the angles returned there still give the same rotation back, to rounding.
    """
    x, y, z, w = q
    # With A = roll/2, B = pitch/2, C = yaw/2 these four are cos and sin of A+C, times cos B - sin B, and cos and sin
    # of A-C, times cos B + sin B. No angle is read from a number that was rounded near gimbal lock.
    plus, minus = math.atan2(x + z, w - y), math.atan2(x - z, w + y)
    pitch = math.pi / 2 - 2.0 * math.atan2(math.hypot(x + z, w - y), math.hypot(x - z, w + y))
    roll, yaw = wrapped(np.array([plus + minus, plus - minus]))
    return np.array([roll, pitch, yaw])


def wrapped(angles: np.ndarray) -> np.ndarray:
    """Angles of any size, radians -> the same directions in [-pi, pi]."""
    return np.remainder(angles + math.pi, 2.0 * math.pi) - math.pi


def from_matrix(matrix: np.ndarray) -> np.ndarray | None:
    """Rotation matrix (3, 3) -> quaternion (4,); None when the matrix is no rotation to 1e-6."""
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape != (3, 3) or not np.isfinite(m).all() or np.abs(m).max() > 2.0:
        return None
    if np.abs(m @ m.T - np.eye(3)).max() > 1e-6 or np.linalg.det(m) < 0.0:
        return None
    # Each row is the quaternion times four times one of its own entries; the largest row loses nothing to rounding.
    trace = float(m.trace())
    rows = np.array(
        [
            [1 + 2 * m[0, 0] - trace, m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
            [m[0, 1] + m[1, 0], 1 + 2 * m[1, 1] - trace, m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], 1 + 2 * m[2, 2] - trace, m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + trace],
        ]
    )
    row = rows[int(np.argmax(np.abs(rows.diagonal())))]
    return row / math.sqrt(float(row @ row))


def to_matrix(q: np.ndarray) -> np.ndarray:
    """Quaternion (4,) -> rotation matrix (3, 3)."""
    return np.stack([rotate(q, axis) for axis in np.eye(3)], axis=1)


def rotate(q: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """The vector (3,) turned by the quaternion (4,)."""
    twice = 2.0 * np.cross(q[:3], vector)
    return vector + q[3] * twice + np.cross(q[:3], twice)


def rotation_between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The rotation vector (3,) in base axes that, applied on the left, turns start (4,) into end (4,)."""
    return to_rotation_vector(multiply(end, inverse(start)))


def moved(pose: Pose, translation: np.ndarray, rotation: np.ndarray) -> Pose:
    """The pose after a step in base axes: translation (3,) metres added, rotation vector (3,) applied on the left."""
    return Pose(pose.position + translation, multiply(from_rotation_vector(rotation), pose.quaternion))


def interpolate(start: Pose, end: Pose, fraction: float) -> Pose:
    """The pose at the fraction in [0, 1] of the way: a straight line and the shortest rotation."""
    fraction = min(max(fraction, 0.0), 1.0)
    turn = fraction * rotation_between(start.quaternion, end.quaternion)
    return moved(start, fraction * (end.position - start.position), turn)


def checked_pose(position: np.ndarray, quaternion: np.ndarray) -> Pose | None:
    """A Pose from raw numbers; None when they are not finite or the quaternion is not a rotation."""
    position = np.asarray(position, dtype=np.float64)
    rotation = unit(quaternion)
    if rotation is None or position.shape != (3,) or not np.isfinite(position).all():
        return None
    return Pose(position, rotation)
