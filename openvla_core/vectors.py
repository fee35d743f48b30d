"""Arithmetic on vectors of three floats kept as tuples: for so few numbers much faster than arrays."""

import math

Vector = tuple[float, float, float]

ZERO: Vector = (0.0, 0.0, 0.0)
# One divided by less than this may be infinite.
SHORTEST = 1e-300


def plus(a: Vector, b: Vector, factor: float) -> Vector:
    """a + b factor."""
    return (a[0] + b[0] * factor, a[1] + b[1] * factor, a[2] + b[2] * factor)


def minus(a: Vector, b: Vector) -> Vector:
    """a - b."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def scaled(a: Vector, factor: float) -> Vector:
    """a factor."""
    return (a[0] * factor, a[1] * factor, a[2] * factor)


def direction(a: Vector) -> Vector:
    """a scaled to unit length; zero when it is too short to point anywhere."""
    length = math.hypot(*a)
    return scaled(a, 1.0 / length) if length > SHORTEST else ZERO


def dot(a: Vector, b: Vector) -> float:
    """The scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    """The vector product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def angle(a: Vector, b: Vector) -> float:
    """The angle between two vectors, 0 to pi, exact for small angles as well."""
    return math.atan2(math.hypot(*cross(a, b)), dot(a, b))


def turned(a: Vector, hinge: Vector, radians: float) -> Vector:
    """The vector turned about a hinge of unit length; by a small angle, the hinge may be zero as well."""
    along = scaled(hinge, dot(hinge, a))
    return plus(plus(along, minus(a, along), math.cos(radians)), cross(hinge, a), math.sin(radians))
