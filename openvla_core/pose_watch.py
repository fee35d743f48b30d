"""The measured pose of the tool: kept for looking back, refused when it makes no sense, missed when it is silent."""

import math

import numpy as np

from openvla_core import rotations
from openvla_core.observation_buffer import PoseBuffer
from openvla_core.supervisor_settings import SupervisorSettings
from openvla_core.types import Pose, Problem

INVALID_IN_A_ROW = 3
# A measured pose that moves faster than twice the commanded speed, and by more than noise, did not move: it jumped.
JUMP_FACTOR = 2.0
JUMP_SLACK_M = 0.01
JUMP_SLACK_RAD = 0.05


class PoseWatch:
    """The newest measured poses and how long the robot has been silent. `now_s` is monotonic seconds."""

    def __init__(self, settings: SupervisorSettings) -> None:
        self._settings = settings
        self._buffer = PoseBuffer()
        self._invalid = 0
        self._other_frame = ""
        self._last_stamp_ns = 0
        self._delay_s = 0.0  # of the newest pose, when that is too much
        self.last_s = -math.inf  # when the newest pose arrived
        self.measured_s = -math.inf  # when it was measured, by its stamp

    @property
    def newest(self) -> Pose | None:
        """The latest measured pose, or None before the first."""
        return self._buffer.newest()

    def at(self, stamp_ns: int) -> Pose | None:
        """The pose at a time of the ROS clock; None when it is not known."""
        return self._buffer.at(stamp_ns)

    def is_fresh(self, now_s: float) -> bool:
        """Whether the robot has spoken recently."""
        return now_s - self.last_s <= self._settings.max_pose_age_s

    def add(self, pose: Pose, stamp_ns: int, frame: str, now_s: float, delay_s: float = 0.0) -> Problem | None:
        """Keeps a measured pose; one in another frame, too late or not newer than the last does not count.

        Args:
            delay_s: ROS time of now minus its stamp, seconds.

        Returns:
            Why nothing may be moved by these poses any more: three invalid ones in a row, or a jump.
        """
        if frame != self._settings.base_frame:
            self._other_frame = frame or "no frame"
            return None
        checked = rotations.checked_pose(pose.position, pose.quaternion)
        if checked is None:
            return self.invalid()
        self._delay_s = delay_s if abs(delay_s) > self._settings.max_pose_delay_s else 0.0
        if self._delay_s:
            return None
        before, passed_s = self.newest, (stamp_ns - self._last_stamp_ns) * 1e-9
        if not self._buffer.add(stamp_ns, checked):
            return None
        self._invalid = 0
        self._last_stamp_ns, self.last_s, self.measured_s = stamp_ns, now_s, now_s - max(delay_s, 0.0)
        if before is None or passed_s <= 0.0 or not self._jumped(before, checked, passed_s):
            return None
        # Nothing may be interpolated across the jump.
        self._buffer.clear()
        self._buffer.add(stamp_ns, checked)
        distance = float(np.linalg.norm(checked.position - before.position))
        return Problem(
            "POSE_JUMP",
            f"The measured pose jumped by {distance * 1e3:.0f} mm within {passed_s * 1e3:.0f} ms; check the robot's "
            "state estimate and its frames.",
            latched=True,
        )

    def invalid(self) -> Problem | None:
        """Counts a message that is no pose (NaN, no unit quaternion); the third in a row is a problem."""
        self._invalid += 1
        if self._invalid < INVALID_IN_A_ROW:
            return None
        return Problem(
            "POSE_INVALID",
            f"{INVALID_IN_A_ROW} measured poses in a row were not finite or had no unit quaternion; check the driver.",
            latched=True,
        )

    def forget(self) -> None:
        """Forgets every pose, as their stamps belong to a clock that has jumped."""
        self._buffer.clear()
        self.last_s = self.measured_s = -math.inf

    def silence(self) -> Problem:
        """Why there is no fresh pose, and what to check."""
        if not self._delay_s:
            return Problem("POSE_STALE", self._silence())
        when = f"{abs(self._delay_s):.2f} s {'ago' if self._delay_s > 0 else 'ahead'}"
        return Problem(
            "POSE_OLD",
            f"robot poses arrive with stamps {when} by the ROS clock of this node, more than "
            f"{self._settings.max_pose_delay_s:g} s apart (max_pose_delay_s). Either the driver is late, or its clock "
            "is another one: set use_sim_time the same for both, and synchronise the clocks of the machines.",
        )

    def _silence(self) -> str:
        wanted = self._settings.base_frame
        if self._other_frame and self.last_s == -math.inf:
            return f"robot poses arrive in frame {self._other_frame!r}, expected {wanted!r}; set base_frame."
        return (
            f"no robot pose in frame {wanted!r} within {self._settings.max_pose_age_s:g} s; "
            "check that the robot driver publishes it."
        )

    def _jumped(self, before: Pose, after: Pose, passed_s: float) -> bool:
        limits = self._settings
        distance = np.linalg.norm(after.position - before.position)
        angle = np.linalg.norm(rotations.rotation_between(before.quaternion, after.quaternion))
        return bool(
            distance > JUMP_FACTOR * limits.max_speed * passed_s + JUMP_SLACK_M
            or angle > JUMP_FACTOR * limits.max_angular_speed * passed_s + JUMP_SLACK_RAD
        )
