"""How a moving point comes to rest: the plan that every command of the stream carries with it.

A motion is a position, a velocity, an acceleration and a complete plan to standstill, made of pieces of constant jerk.
The time is continuous, so a plan holds its limits however irregularly it is sampled: the n-th divided difference of
samples is a weighted mean of the n-th derivative.

Units: metres or radians, and seconds.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from openvla_core.vectors import ZERO, Vector, direction, dot, minus, plus, scaled

# Closer to the goal than this the motion is left alone; metres or radians.
CLOSE = 1e-7


class Limits(NamedTuple):
    """Largest length of velocity, acceleration and jerk, per second, second^2 and second^3."""

    speed: float
    acceleration: float
    jerk: float


class Motion(NamedTuple):
    """A state and what will happen to it: pieces of (seconds, jerk) that end at rest.

    end: where it comes to rest. corners: points whose convex hull holds the way there, in order. peak: the highest
    speed on the way, at most.
    """

    position: Vector
    velocity: Vector
    acceleration: Vector
    pieces: tuple[tuple[float, Vector], ...]
    end: Vector
    corners: tuple[Vector, ...]
    peak: float


def at_rest(position: Vector) -> Motion:
    """The motion that stays where it is."""
    return Motion(position, ZERO, ZERO, (), position, (position,), 0.0)


def advance(motion: Motion, seconds: float) -> Motion:
    """The motion after carrying out its plan for a time >= 0; it ends exactly at rest."""
    x, v, a, pieces = motion.position, motion.velocity, motion.acceleration, motion.pieces
    while pieces and seconds > 0.0:
        duration, jerk = pieces[0]
        step = min(seconds, duration)
        x, v, a = moved(x, v, a, jerk, step)
        seconds -= step
        pieces = pieces[1:] if step == duration else ((duration - step, jerk), *pieces[1:])
    if not pieces:
        v = a = ZERO
    return motion._replace(position=x, velocity=v, acceleration=a, pieces=pieces)


def moved(x: Vector, v: Vector, a: Vector, jerk: Vector, t: float) -> tuple[Vector, Vector, Vector]:
    """Position, velocity and acceleration after a time t of constant jerk."""
    half, sixth = t * t / 2.0, t * t * t / 6.0
    return (
        (
            x[0] + v[0] * t + a[0] * half + jerk[0] * sixth,
            x[1] + v[1] * t + a[1] * half + jerk[1] * sixth,
            x[2] + v[2] * t + a[2] * half + jerk[2] * sixth,
        ),
        (v[0] + a[0] * t + jerk[0] * half, v[1] + a[1] * t + jerk[1] * half, v[2] + a[2] * t + jerk[2] * half),
        (a[0] + jerk[0] * t, a[1] + jerk[1] * t, a[2] + jerk[2] * t),
    )


def plan_stop(x: Vector, v: Vector, a: Vector, limits: Limits) -> Motion:
    """A quick stop from any state whose acceleration is within the limits.

    The acceleration goes linearly to a brake against the remaining velocity, stays there, and returns linearly to zero.
    It is always a mean of its first value, the brake and zero, hence within the limits when the first value is.
    """
    if not (any(v) or any(a)):
        return at_rest(x)
    first, brake, speed, strength = _first_ramp(v, a, limits)
    last = strength / limits.jerk
    hold = max(speed / strength - (first + last) / 2.0, 0.0) if strength > 0.0 else 0.0
    jerk = scaled(minus(brake, a), 1.0 / first) if first > 0.0 else ZERO
    release = scaled(brake, -1.0 / last) if last > 0.0 else ZERO
    pieces = tuple(piece for piece in ((first, jerk), (hold, ZERO), (last, release)) if piece[0] > 0.0)

    x1, v1, _ = moved(x, v, a, jerk, first)
    # From here it goes straight on: the hold, then the ramp back to zero.
    end = plus(plus(x1, v1, hold + last), brake, hold * hold / 2.0 + hold * last + last * last / 3.0)
    corners = (x, plus(x, v, first / 3.0), plus(x1, v1, -first / 3.0), x1, end)
    return Motion(x, v, a, pieces, end, corners, _peak(v, a, brake, jerk, first, v1))


def _first_ramp(v: Vector, a: Vector, limits: Limits) -> tuple[float, Vector, float, float]:
    """The shortest time in which the jerk limit lets the acceleration reach the brake, found by false position.

    A longer ramp leaves another velocity to brake away, and so needs another brake: in space there is no closed form.

    Returns:
        time of the ramp, acceleration of the brake, speed that the brake has to take away, and its strength.
    """
    top, jerk = limits.acceleration, limits.jerk
    (vx, vy, vz), (ax, ay, az) = v, a

    def attempt(t: float) -> tuple[float, tuple[float, Vector, float, float]]:
        """How much acceleration the jerk limit lacks to get there in time t, and the answer for this t."""
        half = t / 2.0  # written out by axis: this runs dozens of times per tick
        wx, wy, wz = vx + ax * half, vy + ay * half, vz + az * half
        speed = math.sqrt(wx * wx + wy * wy + wz * wz)
        if speed == 0.0:
            return math.hypot(ax, ay, az) - jerk * t, (t, ZERO, 0.0, 0.0)
        strength = min(top, 2.0 * speed / (half + math.sqrt(half * half + 2.0 * speed / jerk)))
        back = -strength / speed
        bx, by, bz = back * wx, back * wy, back * wz
        dx, dy, dz = bx - ax, by - ay, bz - az
        return math.sqrt(dx * dx + dy * dy + dz * dz) - jerk * t, (t, (bx, by, bz), speed, strength)

    low, high = 0.0, (math.hypot(ax, ay, az) + top) / jerk
    low_lack, answer = attempt(low)
    if low_lack <= 1e-12 * top:
        return answer
    high_lack, answer = attempt(high)
    for _ in range(12):
        if high_lack > -1e-4 * top:
            break
        # Aimed a little beyond the root, so that the end that respects the limit comes close to it.
        middle = low + (high - low) * (low_lack + 2e-5 * top) / (low_lack - high_lack)
        lack, found = attempt(middle)
        if lack <= 0.0:
            high, high_lack, answer = middle, lack, found
        else:
            low, low_lack = middle, lack
    return answer


def _peak(v: Vector, a: Vector, brake: Vector, jerk: Vector, first: float, v1: Vector) -> float:
    """An upper bound of the speed on the way to rest, exact on a straight line.

    After the first ramp the speed only falls. The ramp is cut where it stops to speed up; the velocity of each part is
    a parabola, which stays inside the triangle of its control points.
    """
    middle = plus(v, a, first / 2.0)
    gains, loses = dot(a, middle), dot(brake, middle)
    cut = first * min(max(gains / (gains - loses), 0.0), 1.0) if gains > loses else 0.0
    at_cut = plus(plus(v, a, cut), jerk, cut * cut / 2.0)
    a_cut = plus(a, jerk, cut)
    return max(
        math.hypot(*v),
        math.hypot(*plus(v, a, cut / 2.0)),
        math.hypot(*at_cut),
        math.hypot(*plus(at_cut, a_cut, (first - cut) / 2.0)),
        math.hypot(*v1),
    )


def approach(motion: Motion, goal: Vector, limits: Limits, dt: float, allowed: Callable[[Motion], bool]) -> Motion:
    """The motion a tick later, steered towards the goal as far as a stop before it stays possible.

    Between going on with the plan (share 0, always possible) and steering with everything (share 1) it looks for the
    largest share after which there is a stop that does not pass the goal, ends no further from it than the present
    plan, is not faster than allowed, and satisfies `allowed`. Once the plan ends at the goal it is left alone, so
    nothing is left to overshoot or to oscillate.

    Args:
        motion: its state must be within the limits, and its plan verified.
        dt: length of the tick, seconds, above 0.
    """
    base = advance(motion, dt)
    distance = math.dist(goal, motion.end)
    if distance <= CLOSE:
        return base
    ahead = minus(goal, motion.position)
    far, way = math.hypot(*ahead), direction(ahead)
    passed = max(dot(minus(motion.end, goal), way), 0.0)
    full = _steered(motion, way, far, limits, dt)

    def attempt(share: float) -> tuple[float, Motion]:
        """By how much this share goes too far, relative to what is allowed; and the motion after it."""
        x = plus(base.position, minus(full[0], base.position), share)
        v = plus(base.velocity, minus(full[1], base.velocity), share)
        a = plus(base.acceleration, minus(full[2], base.acceleration), share)
        found = plan_stop(x, v, a, limits)
        beyond = (dot(minus(found.end, goal), way) - passed) / distance
        fast = max(found.peak, math.dist(x, motion.position) / dt) / limits.speed - 1.0
        excess = max(beyond, fast)
        if excess <= 0.0 and not (math.dist(found.end, goal) <= distance and allowed(found)):
            excess = math.inf
        return excess, found

    return _largest(attempt, base, max(-1.0, base.peak / limits.speed - 1.0))


def _largest(attempt: Callable[[float], tuple[float, Motion]], base: Motion, base_excess: float) -> Motion:
    """The motion of the largest share in [0, 1] without excess that a few attempts find; base when there is none."""
    best, low, low_excess = base, 0.0, base_excess
    high, (high_excess, found) = 1.0, attempt(1.0)
    if high_excess <= 0.0:
        return found
    for _ in range(7):  # what is not a number counts as excess
        known = high_excess < math.inf and low_excess < 0.0
        part = min(max(low_excess / (low_excess - high_excess), 0.02), 0.98) if known else 0.5
        share = low + (high - low) * part
        excess, found = attempt(share)
        if not excess <= 0.0:
            high, high_excess = share, excess
            low_excess /= 2.0  # or it would creep up from below where the excess bends
            continue
        best, low, low_excess = found, share, excess
        if excess > -3e-3:
            break
    return best


def _steered(motion: Motion, way: Vector, far: float, limits: Limits, dt: float) -> tuple[Vector, Vector, Vector]:
    """Position, velocity and acceleration after a tick of turning the velocity towards the goal, with all jerk allowed.

    way: direction (unit) and far: distance of the goal. The speed v aimed at leaves room to stop: it solves
    v dt + v^2 / 2a = far. That it forgets the jerk costs nothing: the plans that are compared do not.
    """
    top, jerk, a = limits.acceleration, limits.jerk, motion.acceleration
    lost = top * dt
    speed = min(limits.speed, 2.0 * top * far / (math.sqrt(lost * lost + 2.0 * top * far) + lost))
    # The velocity there would be if the acceleration were taken back now.
    coming = plus(motion.velocity, a, math.hypot(*a) / (2.0 * jerk))
    change = minus(scaled(way, speed), coming)
    size = math.hypot(*change)
    strength = min(top, math.sqrt(2.0 * jerk * size), size / dt)
    push = minus(scaled(change, strength / size) if size > 0.0 else ZERO, a)
    size = math.hypot(*push)
    share = min(1.0, jerk * dt / size) if size > 0.0 else 0.0
    return moved(motion.position, motion.velocity, a, scaled(push, share / dt), dt)
