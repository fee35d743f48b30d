"""Where the arm was when the camera looked: measured poses kept for a short while and read back by time stamp."""

import bisect

from openvla_core.rotations import checked_pose, interpolate
from openvla_core.types import Pose

NS_PER_S = 1_000_000_000


class PoseBuffer:
    """The measured poses of the last seconds, oldest first.

    Args:
        duration_s: how long a pose is kept, seconds.
        lead_s: how far beyond the newest pose a stamp may lie and still get the newest pose, seconds.
    """

    def __init__(self, duration_s: float = 3.0, lead_s: float = 0.1) -> None:
        self._duration_ns = int(duration_s * NS_PER_S)
        self._lead_ns = int(lead_s * NS_PER_S)
        self._stamps: list[int] = []
        self._poses: list[Pose] = []

    def clear(self) -> None:
        """Forgets every pose."""
        self._stamps.clear()
        self._poses.clear()

    def newest(self) -> Pose | None:
        """The latest measured pose, or None before the first."""
        return self._poses[-1] if self._poses else None

    def add(self, stamp_ns: int, pose: Pose) -> bool:
        """Keeps a measured pose; False when it tells nothing new: not finite, not a rotation or not later.

        A stamp that went back by more than the buffer's length means that the clock restarted; so does the buffer then.
        """
        checked = checked_pose(pose.position, pose.quaternion)
        if checked is None:
            return False
        if self._stamps and stamp_ns <= self._stamps[-1]:
            if self._stamps[-1] - stamp_ns < self._duration_ns:
                return False
            self.clear()
        self._stamps.append(stamp_ns)
        self._poses.append(checked)
        expired = bisect.bisect_left(self._stamps, stamp_ns - self._duration_ns)
        del self._stamps[:expired], self._poses[:expired]
        return True

    def at(self, stamp_ns: int) -> Pose | None:
        """The pose at a time, interpolated between its neighbours; None when the buffer does not reach that time."""
        if not self._stamps or stamp_ns < self._stamps[0] or stamp_ns > self._stamps[-1] + self._lead_ns:
            return None
        after = bisect.bisect_left(self._stamps, stamp_ns)
        if after == len(self._stamps):
            return self._poses[-1]
        if self._stamps[after] == stamp_ns:
            return self._poses[after]
        start, end = self._stamps[after - 1], self._stamps[after]
        return interpolate(self._poses[after - 1], self._poses[after], (stamp_ns - start) / (end - start))
