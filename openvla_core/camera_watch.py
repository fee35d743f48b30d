"""Which camera frames may be acted on: in order, from now, from the right camera, and not the same one for ever."""

import math
from collections import Counter

import numpy as np

from openvla_core.types import Problem

FUTURE_S = 0.05  # clocks of one machine agree better than this
FROZEN_S = 1.0
MOVED_M = 0.005
MOVED_RAD = 0.02
FRESH_FRAMES = 3  # in a row, before a camera that failed is believed again
DARK, BRIGHT, FLAT = 4.0, 251.0, 1.5  # of 255: mean and standard deviation of a picture that shows nothing


class CameraWatch:
    """Looks at every frame as it arrives. `now_s` is monotonic seconds; nanoseconds are the ROS clock.

    Args:
        max_age_s: oldest stamp that counts, and longest silence.
        frame_id: the only camera whose frames count; empty for any.
        topic: for the sentences.
    """

    def __init__(self, max_age_s: float, frame_id: str, topic: str) -> None:
        self._max_age_s = max_age_s
        self._frame_id = frame_id
        self._topic = topic
        self.dropped: Counter[str] = Counter()  # reason -> frames
        self._last_ns: int | None = None
        self._arrived_s = -math.inf
        self._dropped_s = -math.inf
        self._dropped_for = ""
        self._wrong_camera = ""
        self._bytes: np.ndarray | None = None
        self._same_since_s = math.inf
        self._measured: dict[str, np.ndarray] = {}
        self._measured_then: dict[str, np.ndarray] = {}
        self._to_prove = 0

    def on_frame(self, stamp_ns: int, frame_id: str, data: np.ndarray, ros_now_ns: int, now_s: float) -> bool:
        """Whether this frame may be acted on; data (n,) uint8 are its bytes as they came."""
        reason = self._reason_against(stamp_ns, frame_id, ros_now_ns)
        if reason:
            self.dropped[reason] += 1
            self._dropped_for, self._dropped_s = reason, now_s
            if reason != "repeated":
                self._to_prove = FRESH_FRAMES
            return False
        self._last_ns = stamp_ns
        if now_s - self._arrived_s > self._max_age_s and self._arrived_s > -math.inf:
            self._to_prove = FRESH_FRAMES
        self._arrived_s = now_s
        if self._bytes is None or not np.array_equal(self._bytes, data):
            self._bytes, self._same_since_s = data, now_s
            self._measured_then = dict(self._measured)
        elif self._is_frozen(now_s):
            self._to_prove = FRESH_FRAMES
            return False
        self._to_prove = max(self._to_prove - 1, 0)
        return self._to_prove == 0

    def on_motion(self, name: str, values: np.ndarray) -> None:
        """Notes what the robot measures: "position" in metres, or joints in radians."""
        self._measured[name] = values

    def problem(self, now_s: float) -> Problem | None:
        """Why no frame may be acted on now; None when frames are good, or a good one is about to come."""
        if self._wrong_camera and now_s - self._dropped_s <= self._max_age_s and self._dropped_for == "frame_id":
            return Problem(
                "CAM_FRAME",
                f"images on {self._topic} come from {self._wrong_camera!r}, expected {self._frame_id!r}. Check which "
                "camera is connected, or set camera_frame_id.",
            )
        if self._is_frozen(now_s) and now_s - self._arrived_s <= self._max_age_s:
            return Problem(
                "CAM_FROZEN",
                f"{self._topic} shows the same picture for more than {FROZEN_S:g} s although the robot moves. "
                "Restart the camera.",
            )
        if now_s - self._arrived_s <= self._max_age_s:
            return None
        what = "No image"
        if now_s - self._dropped_s <= self._max_age_s:
            what = {
                "old": "Images arrive, but none with a stamp",
                "future": "Images arrive, but with stamps in the future: none",
                "backwards": "Images arrive, but their stamps go back: none",
            }.get(self._dropped_for, "Images arrive, but always with the same stamp: no new one")
        return Problem(
            "CAM_STALE",
            f"{what} on {self._topic} within {self._max_age_s:g} s of now. Check the camera, its topic name and its "
            "clock.",
        )

    def _reason_against(self, stamp_ns: int, frame_id: str, ros_now_ns: int) -> str:
        if self._frame_id and frame_id != self._frame_id:
            self._wrong_camera = frame_id or "no frame"
            return "frame_id"
        last_ns = self._last_ns
        if last_ns is not None and last_ns > ros_now_ns + FUTURE_S * 1e9:
            last_ns = None  # our own clock went back
        age_s = (ros_now_ns - stamp_ns) * 1e-9
        if stamp_ns == last_ns:
            return "repeated"
        if age_s < -FUTURE_S:
            return "future"
        if age_s > self._max_age_s:
            return "old"
        if last_ns is not None and stamp_ns < last_ns:
            return "backwards"
        return ""

    def _is_frozen(self, now_s: float) -> bool:
        return now_s - self._same_since_s >= FROZEN_S and any(
            _moved(name, self._measured_then[name], values)
            for name, values in self._measured.items()
            if name in self._measured_then
        )


def _moved(name: str, before: np.ndarray, after: np.ndarray) -> bool:
    threshold = MOVED_M if name == "position" else MOVED_RAD
    return before.shape == after.shape and float(np.abs(after - before).max(initial=0.0)) > threshold


def picture_warning(rgb: np.ndarray) -> str:
    """What is wrong with a picture (H, W, 3) uint8 that shows next to nothing; empty when it shows something."""
    sample = rgb[::8, ::8]
    mean, spread = float(sample.mean()), float(sample.std())
    if mean < DARK:
        return "The camera's picture is black."
    if mean > BRIGHT:
        return "The camera's picture is white."
    return "The camera's picture has one colour only." if spread < FLAT else ""
