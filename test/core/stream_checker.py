"""Checks a stream of poses from the outside: it knows the limits and the times, and nothing of how the stream is made.

Derivatives are divided differences of the poses that were sent. The n-th one is a weighted mean of the n-th derivative,
so a stream that keeps its limits passes at whatever irregular times it is sampled.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from openvla_core.safety_settings import SafetySettings
from openvla_core.types import Pose

ORDERS = ("speed", "acceleration", "jerk")


@dataclass
class StreamChecker:
    """Feed it every pose with the time since the one before; it raises AssertionError at the first violation."""

    settings: SafetySettings
    start: Pose
    ramped: bool = False
    commands: int = 0
    ticks: list[float] = field(default_factory=list)
    places: list[np.ndarray] = field(default_factory=list)  # position and accumulated rotation vector (6,)
    stops: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart(self.start)

    def restart(self, pose: Pose) -> None:
        """The stream begins anew: an arm that has been standing at this pose for a while."""
        self.pose = pose
        self.stopping = False
        place = np.concatenate([pose.position, np.zeros(3)])
        self.ticks = [1.0] * 3
        self.places = [place] * 4
        self.stops = [False] * 4

    def see(self, pose: Pose, dt: float, braked: bool) -> None:
        """A pose that was sent dt seconds (as given to the stream, so maybe nonsense) after the last one."""
        self.commands += 1
        self._check_pose(pose)
        if not (math.isfinite(dt) and dt > 0.0):
            assert np.array_equal(pose.position, self.pose.position), "it moved in no time"
            assert np.array_equal(pose.quaternion, self.pose.quaternion), "it turned in no time"
            self.stopping = self.stopping or braked
            return
        standing = np.array_equal(self.places[-1], self.places[-2]) and np.array_equal(self.places[-2], self.places[-3])
        # A stop lasts until the stream stands still.
        self.stopping = braked or (self.stopping and not standing)
        turn = rotation_vector(pose.quaternion, self.pose.quaternion)
        self.ticks = [*self.ticks[-2:], dt]
        self.places = [*self.places[-3:], np.concatenate([pose.position, self.places[-1][3:] + turn])]
        self.stops = [*self.stops[-3:], self.stopping]
        self._check_derivatives()
        self.pose = pose

    def _check_pose(self, pose: Pose) -> None:
        s = self.settings
        assert np.isfinite(pose.position).all() and np.isfinite(pose.quaternion).all(), "not finite"
        assert abs(math.hypot(*pose.quaternion.tolist()) - 1.0) < 1e-9, "not a unit quaternion"
        assert pose.quaternion @ self.pose.quaternion > 0.0, "the quaternion changed its sign"
        rows = (s.workspace_low, s.workspace_high, self.pose.position.tolist(), pose.position.tolist())
        for low, high, before, now in zip(*rows, strict=True):
            assert now >= min(low, before), "below the box, or further below it than before"
            assert now <= max(high, before), "above the box, or further above it than before"
        if s.max_tilt < math.pi:
            assert self.tilt(pose) <= max(s.max_tilt + 2e-6, self.tilt(self.pose) + 1e-9), "tilted out of the cone"

    def tilt(self, pose: Pose) -> float:
        x, y, z, w = pose.quaternion
        matrix = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        axis = matrix @ np.array(self.settings.tool_axis)
        cone = np.array(self.settings.cone_axis)
        return math.atan2(float(np.linalg.norm(np.cross(axis, cone))), float(axis @ cone))

    def _check_derivatives(self) -> None:
        a, b, c = self.ticks
        t = (-a - b - c, -b - c, -c, 0.0)  # relative to now: sums of a long run would be less exact
        table = list(self.places)
        shortest = min(self.ticks)
        for order in (1, 2, 3):
            table = [
                (end - start) / (t[i + order] - t[i])
                for i, (start, end) in enumerate(zip(table[:-1], table[1:], strict=True))
            ]
            newest = math.factorial(order) * table[-1]
            rounding = 1e-7 + 1e-14 * (2.0 / shortest) ** order
            stopping = any(self.stops[-order:])
            for kind, value in (("", newest[:3].tolist()), ("angular ", newest[3:].tolist())):
                most = self.limit(kind, order, stopping)
                size = math.hypot(*value)
                assert size <= most * (1 + 1e-9) + rounding, (
                    f"{kind}{ORDERS[order - 1]} {size:.9g} above {most:g}, ticks {self.ticks}, stopping {stopping}"
                )

    def limit(self, kind: str, order: int, stopping: bool) -> float:
        name = kind.replace(" ", "_") + ORDERS[order - 1]
        most = getattr(self.settings, f"max_{name}")
        return max(most, getattr(self.settings, f"stop_{name}")) if stopping and order > 1 else most


def rotation_vector(end: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The rotation vector (3,), base axes, from start (4,) to end (4,), from the matrix logarithm in closed form."""
    ax, ay, az, aw = end
    bx, by, bz, bw = -start[0], -start[1], -start[2], start[3]
    v = np.array([aw * bx + ax * bw + ay * bz - az * by, aw * by - ax * bz + ay * bw + az * bx,
                  aw * bz + ax * by - ay * bx + az * bw])  # fmt: skip
    w = aw * bw - ax * bx - ay * by - az * bz
    sine = math.sqrt(float(v @ v))
    if sine == 0.0:
        return v
    half = math.atan2(sine, abs(w))
    return v * math.copysign(2.0 * half / sine, w)
