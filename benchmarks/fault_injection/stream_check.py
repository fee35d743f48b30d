"""Checks the published stream of commands from the outside: poses, their stamps and what the controller says it does.

The n-th divided difference of positions is a weighted mean of the n-th derivative, so a stream that keeps its limits
passes at whatever times it is sampled. A stamp that is late by d is the same as a position that is off by v d: that
much is allowed for d = STAMP_ERROR_S. What a single late stamp would explain (a process that was not scheduled between
two lines) is counted apart and is no violation; two in a row cannot be explained.
"""

import math
from collections import Counter, deque

import numpy as np

from openvla_core import rotations
from openvla_core.supervisor import SupervisorSettings
from openvla_core.types import Pose

STAMP_ERROR_S = 0.0002
LONGEST_SHIFT_S = 0.015
PAUSE_S = 0.25  # a stream that was silent for this long starts anew, at rest
STILL_AFTER_S = 0.5  # of a hold: the stop itself takes 0.15 s
ORDERS = ("speed", "acceleration", "jerk")
AT_MEASURED_M = 0.001
PROOF_S = 2.0  # within which the pose that a stream began at must be heard


class StreamCheck:
    """Feed it every command and every status; `violations` tells what was wrong, `late_stamps` what was only late."""

    def __init__(self, limits: SupervisorSettings) -> None:
        self.limits = limits
        self.stamp_error_s = STAMP_ERROR_S
        self.commands = 0
        self.late_stamps = 0
        self.violations: Counter[str] = Counter()
        self.examples: list[str] = []
        self._samples: deque[tuple[float, np.ndarray]] = deque(
            maxlen=4
        )  # stamp, position and accumulated rotation (6,)
        self._last: Pose | None = None
        self._forget = False
        self._unproven: list[tuple[float, np.ndarray]] = []  # stamp and place of a beginning that was not measured yet
        self._doubtful: deque[tuple[float, str]] = deque()  # stamp of a motion, and what to say of it
        self._measured: deque[np.ndarray] = deque(maxlen=60)
        self._not_active_since_s = -math.inf
        self._stopping_until_s = -math.inf

    def on_measured(self, pose: Pose) -> None:
        """A measured pose: where a stream may begin."""
        if np.isfinite(pose.position).all():
            self._measured.append(pose.position)
            self._unproven = [
                (at_s, place) for at_s, place in self._unproven if np.linalg.norm(place - pose.position) > AT_MEASURED_M
            ]

    def on_status(self, stamp_s: float, is_active: bool) -> None:
        """What the controller says it does from this moment on."""
        if is_active:
            self._not_active_since_s = math.inf
            while self._doubtful and self._doubtful[-1][0] > stamp_s - 0.03 - 20 * self.stamp_error_s:
                self._doubtful.pop()
        elif self._not_active_since_s == math.inf:
            self._not_active_since_s = stamp_s
        self._stopping_until_s = stamp_s + 0.3 if not is_active else self._stopping_until_s

    def forget(self) -> None:
        """The process that made the stream has ended; the next command is the first of a new one."""
        self._forget = True  # by the thread that feeds us

    def on_command(self, stamp_s: float, pose: Pose) -> None:
        """One command with the stamp it carries, seconds."""
        self.commands += 1
        if self._unproven and self._is_measured(Pose(self._unproven[0][1], pose.quaternion)):
            self._unproven.pop(0)
        while self._unproven and self._unproven[0][0] < stamp_s - PROOF_S:
            self._report("did not begin at the measured pose", str(self._unproven.pop(0)[1]))
        if not (np.isfinite(pose.position).all() and np.isfinite(pose.quaternion).all()):
            self._report("not finite", str(pose))
            return
        if abs(float(np.linalg.norm(pose.quaternion)) - 1.0) > 1e-6:
            self._report("not a unit quaternion", str(pose.quaternion))
        if self._forget or not self._samples:
            self._forget = False
            self._begin(stamp_s, pose)
            self._unproven.append((stamp_s, pose.position))
            return
        before_s, place = self._samples[-1]
        if stamp_s <= before_s:
            self._report("stamps not increasing", f"{stamp_s - before_s:.6f} s")
            return
        moved = float(np.linalg.norm(pose.position - place[:3]))
        turned = rotations.rotation_between(self._last.quaternion, pose.quaternion)
        if stamp_s - before_s > PAUSE_S:
            self._begin(stamp_s, pose)
            return
        rested = self._rests()
        self._check_box(pose)
        self._samples.append((stamp_s, np.concatenate([pose.position, place[3:] + turned])))
        before, self._last = self._last, pose
        in_hold = stamp_s >= self._not_active_since_s
        if rested and moved > 0.0 and in_hold and (self._is_measured(pose, 1e-9) or self._excess(list(self._samples))):
            self._begin(stamp_s, pose)  # re-based, at rest and in a hold, to where the arm is
            self._unproven.append((stamp_s, pose.position))
            return
        if float(pose.quaternion @ before.quaternion) < 0.0:
            self._report("the quaternion changed its sign", str(pose.quaternion))
        held_s = stamp_s - self._not_active_since_s
        if STILL_AFTER_S < held_s < math.inf and moved + float(np.linalg.norm(turned)) > 1e-9:
            # The status that tells the end of the hold comes just after the first command.
            self._doubtful.append((stamp_s, f"{moved * 1e3:.2f} mm, {held_s:.2f} s into it"))
        while self._doubtful and self._doubtful[0][0] < stamp_s - PAUSE_S:
            self._report("motion in a hold", self._doubtful.popleft()[1])
        worst = self._excess(list(self._samples))
        if worst is None:
            return
        if self._one_late_stamp_explains():
            self.late_stamps += 1
        else:
            stamps = [round((at_s - stamp_s) * 1e3, 2) for at_s, _ in self._samples]
            self._report(worst[0], f"{worst[0]} {worst[1]:.3g} above {worst[2]:.3g}, stamps {stamps} ms")

    def _begin(self, stamp_s: float, pose: Pose) -> None:
        self._last = pose
        self._samples.clear()
        place = np.concatenate([pose.position, np.zeros(3)])
        self._samples.extend((stamp_s - back_s, place) for back_s in (3.0, 2.0, 1.0, 0.0))

    def _is_measured(self, pose: Pose, within_m: float = AT_MEASURED_M) -> bool:
        # A robot that publishes joint angles only: nothing to compare with here.
        return not self._measured or any(np.linalg.norm(pose.position - at) <= within_m for at in self._measured)

    def _rests(self) -> bool:
        (from_s, a), (to_s, b) = list(self._samples)[-2:]
        # The last step of a stop is shorter than what stop_acceleration takes away in a tick.
        return float(np.linalg.norm(b[:3] - a[:3])) <= self.limits.stop_acceleration * (to_s - from_s) ** 2

    def _check_box(self, pose: Pose) -> None:
        rows = (self.limits.workspace_low, self.limits.workspace_high, self._last.position, pose.position)
        for low, high, before, now in zip(*rows, strict=True):
            if now < min(low, before) - 1e-9 or now > max(high, before) + 1e-9:
                self._report("outside the workspace box", str(pose.position))

    def _excess(self, samples: list[tuple[float, np.ndarray]]) -> tuple[str, float, float] | None:
        """The first limit that these four samples exceed: name, value, limit; None when there is none."""
        times = np.array([at_s for at_s, _ in samples]) - samples[-1][0]
        if (np.diff(times) <= 0).any():
            return "stamps not increasing", 0.0, 0.0
        places = np.array([place for _, place in samples])
        speeds = np.diff(places, axis=0) / np.diff(times)[:, None]
        stopping = samples[-1][0] <= self._stopping_until_s or samples[-1][0] > self._not_active_since_s
        for order in (1, 2, 3):
            weights = _weights(times[-order - 1 :])
            value = weights @ places[-order - 1 :]
            for kind, part in (("", slice(0, 3)), ("angular ", slice(3, 6))):
                local = float(np.linalg.norm(speeds[-order:, part], axis=1).max())
                slack = float(np.abs(weights).sum()) * local * self.stamp_error_s + 1e-6
                size, most = float(np.linalg.norm(value[part])), self._limit(kind, order, stopping)
                if size > most * (1 + 1e-6) + slack:
                    return kind + ORDERS[order - 1], size, most
        return None

    def _limit(self, kind: str, order: int, stopping: bool) -> float:
        name = kind.replace(" ", "_") + ORDERS[order - 1]
        most = float(getattr(self.limits, f"max_{name}"))
        # The first braking command comes a moment before the status that tells of it, so both are allowed there.
        return max(most, float(getattr(self.limits, f"stop_{name}"))) if order > 1 else most

    def _one_late_stamp_explains(self) -> bool:
        samples = list(self._samples)
        for index in range(4):
            for shift_s in np.linspace(-LONGEST_SHIFT_S, LONGEST_SHIFT_S, 121):
                tried = [(at_s + shift_s * (i == index), place) for i, (at_s, place) in enumerate(samples)]
                if self._excess(tried) is None:
                    return True
        return False

    def _report(self, what: str, example: str) -> None:
        self.violations[what] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{what}: {example}")


def _weights(times: np.ndarray) -> np.ndarray:
    """Weights that turn positions at these times into their (len - 1)-th derivative."""
    order = len(times) - 1
    return np.array(
        [
            math.factorial(order) / math.prod(times[i] - times[j] for j in range(order + 1) if j != i)
            for i in range(order + 1)
        ]
    )
