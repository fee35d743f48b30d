"""The orientations whose tool axis stays within an angle of a direction, such as a gripper that must point down."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from openvla_core import rotations
from openvla_core.stopping import Motion
from openvla_core.vectors import ZERO, Vector, angle, cross, direction, dot, minus, plus, scaled, turned

# Rounding by which a tilt may exceed the largest one; and from where on the arm counts as outside. Radians.
ROUNDING = 1e-9
BASE_AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
OUTSIDE = 1e-6
TINY = 1e-12


class OrientationCone:
    """Keeps the angle between an axis of the tool and an axis of the base frame below a largest tilt."""

    def __init__(self, tool_axis: Sequence[float], cone_axis: Sequence[float], max_tilt: float) -> None:
        """tool_axis (3,) in the tool frame, cone_axis (3,) in the base frame, any length but 0; max_tilt radians."""
        (x, y, z), (a, b, c) = tool_axis, cone_axis
        self._tool_axis = direction((x, y, z))
        self._cone_axis = direction((a, b, c))
        self._max_tilt = max_tilt
        self._open = max_tilt >= math.pi  # then it holds every orientation

    def tilt(self, quaternion: np.ndarray) -> float:
        """The angle between the two axes for an orientation (4,), radians."""
        return angle(self._axis(quaternion), self._cone_axis)

    def clamp(self, quaternion: np.ndarray, tilt: float = 0.0) -> np.ndarray:
        """The nearest orientation (4,) in the cone, or in one as wide as tilt (radians): the very same when inside."""
        if self._open:
            return quaternion
        axis = self._axis(quaternion)
        excess = angle(axis, self._cone_axis) - max(self._max_tilt, tilt)
        if excess <= ROUNDING:
            return quaternion
        hinge = cross(axis, self._cone_axis)
        if math.hypot(*hinge) < 1e-9:  # straight away from the cone, where every way back is equally long
            hinge = max((cross(axis, other) for other in BASE_AXES), key=lambda hinge: math.hypot(*hinge))
        turn = scaled(direction(hinge), excess)
        return rotations.multiply(rotations.from_rotation_vector(np.array(turn)), quaternion)

    def next_goal(self, now: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The goal (4,) clamped to the cone; from outside the shortest way in comes first, as far as the goal is in."""
        if not self._open and self.tilt(now) > self._max_tilt + OUTSIDE:
            return self.clamp(now, self.tilt(goal))
        return self.clamp(goal)

    def holds(self, quaternion: np.ndarray, motion: Motion) -> bool:
        """Whether the way to standstill of a rotation stays in the cone; from outside, whether it only comes in.

        Args:
            quaternion: the orientation (4,) that position, corners and end of the motion, rotation vectors, start from.
        """
        if self._open:
            return True
        now = self._axis(quaternion)
        start = turned(now, direction(motion.position), math.hypot(*motion.position))
        turn = minus(motion.end, motion.position)
        allowed, tilt = self._max_tilt + ROUNDING, angle(now, self._cone_axis)
        if tilt > allowed:
            allowed = min(angle(start, self._cone_axis), tilt) + TINY
            if not _goes_forward(motion, turn):
                return False
        return self._largest_tilt(start, turn) + _bend(motion) <= allowed

    def _axis(self, quaternion: np.ndarray) -> Vector:
        """The axis of the tool in the base frame."""
        x, y, z, w = quaternion.tolist()
        twice = scaled(cross((x, y, z), self._tool_axis), 2.0)
        return plus(plus(self._tool_axis, twice, w), cross((x, y, z), twice), 1.0)

    def _largest_tilt(self, start: Vector, turn: Vector) -> float:
        """The largest tilt while the tool axis turns by a rotation vector."""
        size, hinge = math.hypot(*turn), direction(turn)
        # It runs on a circle, along + across cos + sideways sin, and is furthest from the cone at one angle of it.
        across = minus(start, scaled(hinge, dot(hinge, start)))
        furthest = math.atan2(dot(cross(hinge, start), self._cone_axis), dot(across, self._cone_axis)) + math.pi
        return max(angle(turned(start, hinge, x), self._cone_axis) for x in (0.0, size, min(furthest, size)))


def _goes_forward(motion: Motion, turn: Vector) -> bool:
    """Whether the way, from its position by turn to its end, never goes back."""
    ways = [dot(corner, turn) for corner in motion.corners]
    return all(b >= a - TINY for a, b in pairwise(ways))


def _bend(motion: Motion) -> float:
    """How far, in radians, a rotation that is not about one axis may end up beside the one that is; 0 when straight.

    It adds the distance of the curve of rotation vectors from its chord to what sampling the curve in any ticks can
    change: rotations about different axes do not commute, by at most the product of the lengths along and across.
    """
    chord = minus(motion.end, motion.position)
    span, way = math.hypot(*chord), direction(chord)
    beside = length = across = 0.0
    before, last = ZERO, motion.position
    for corner in motion.corners:
        offset = minus(corner, motion.position)
        aside = plus(offset, way, -min(max(dot(offset, way), 0.0), span))
        beside = max(beside, math.hypot(*aside))
        across += math.dist(aside, before)
        length += math.dist(corner, last)
        before, last = aside, corner
    return beside + length * across
