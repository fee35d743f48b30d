"""Checks the published stream of commands from the outside: poses, their stamps and what the controller says it does.

The n-th divided difference of positions is a weighted mean of the n-th derivative, so a stream that keeps its limits
passes at whatever times it is sampled. A stamp that is late by d is the same as a position that is off by v d: that
much is allowed for d = STAMP_ERROR_S. What a single late stamp would explain (a process that was not scheduled between
two lines) is counted apart and is no violation; a second one within LATE_APART_S cannot be explained.

Commands and states arrive on different topics, in any order. A command is therefore judged JUDGED_AFTER_S later, by its
stamp and the stamps of the states around it.
"""

import math
import threading
from collections import Counter, deque

import numpy as np

from fault_injection.derivatives import ORDERS, derivative_weights, distance_to_track
from openvla_core import rotations
from openvla_core.orientation_cone import OrientationCone
from openvla_core.supervisor import SupervisorSettings
from openvla_core.types import Pose

STAMP_ERROR_S = 0.0002
LONGEST_SHIFT_S = 0.015
LATE_APART_S = 0.5
JUDGED_AFTER_S = 0.3
PAUSE_S = 0.25  # a stream that was silent for this long starts anew, at rest
STILL_AFTER_S = 0.5  # of a hold: the stop itself takes 0.15 s
FOLLOWS_AFTER_S = 0.5  # of motion: what is left of a stop is carried out first, with its stronger limits
AT_MEASURED_M = 0.001
PROOF_S = 4.0  # within which the pose that a stream began at must be heard
DISCOVERED_M = 0.01  # how far the arm may have moved before the spy hears it for the first time
KNOWN_S = 1.0  # how old that pose may be
TOGGLE_S = 0.3
SENDING_S = 0.05  # from a decision to the message about it
OLDEST_IMAGE_S = 0.5


class StreamCheck:
    """Feed it all commands and states; `violations` tells what was wrong, `late_stamps` what was only late."""

    def __init__(self, limits: SupervisorSettings) -> None:
        self.limits = limits
        self.stamp_error_s = STAMP_ERROR_S
        self.commands = 0
        self.late_stamps = 0
        self.violations: Counter[str] = Counter()
        self.examples: list[str] = []
        self._lock = threading.Lock()
        self._cone = OrientationCone(limits.tool_axis, limits.cone_axis, limits.max_tilt)
        self._waiting: deque[tuple[float, Pose, str] | None] = deque()  # None: the stream ends here
        self._grippers: deque[tuple[float, float]] = deque()
        self._states: deque[tuple[float, bool]] = deque(maxlen=500)  # stamp of a change, whether it is to ACTIVE
        self._samples: deque[tuple[float, np.ndarray]] = deque(maxlen=4)  # stamp, position and accumulated turn (6,)
        self._late_s = -math.inf  # the newest stamp when a late one was first seen
        self._last: Pose | None = None
        self._beginnings: list[tuple[float, np.ndarray]] = []  # stamp and place, to be found among the measured
        self._measured: deque[tuple[float, np.ndarray]] = deque(maxlen=1500)
        self._gripper: tuple[float, float] | None = None
        self.knows_poses = True  # False while the measured poses cannot be heard

    # What is heard ----------------------------------------------------------------------------------------------

    def on_measured(self, at_s: float, pose: Pose) -> None:
        """A measured pose with the stamp it carries, seconds: where a stream may begin after that."""
        with self._lock:
            self._measured.append((at_s, pose.position))

    def on_status(self, stamp_s: float, is_active: bool) -> None:
        """What the controller says it does from this moment on."""
        with self._lock:
            self._states.append((stamp_s, is_active))

    def on_command(self, stamp_s: float, pose: Pose, frame: str = "") -> None:
        """One command with the stamp it carries, seconds, and its frame ("" when that is not of interest)."""
        with self._lock:
            self._waiting.append((stamp_s, pose, frame))
            self._judge(stamp_s - JUDGED_AFTER_S)

    def on_gripper(self, at_s: float, value: float) -> None:
        """One command of the gripper's opening; at_s when it was sent, in the clock of the stamps."""
        with self._lock:
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                self._report("gripper beyond 0 to 1", str(value))
                return
            before, changed = self._gripper, self._gripper is None or self._gripper[1] != value
            if not changed:
                return
            self._gripper = (at_s, value)
            if before is not None and at_s - before[0] < TOGGLE_S - SENDING_S:
                self._report("gripper toggled too soon", f"{at_s - before[0]:.3f} s")
            if before is not None:
                self._grippers.append((at_s, value))

    def on_applied(self, age_s: float) -> None:
        """An action was begun by an image of this age, seconds."""
        with self._lock:
            if not age_s <= OLDEST_IMAGE_S + 0.03:
                self._report("acted on an old image", f"{age_s:.3f} s")

    def forget(self) -> None:
        """The process that made the stream has ended; the next command is the first of a new one."""
        with self._lock:
            self._waiting.append(None)

    def flush(self) -> None:
        """Judges everything that was heard, without waiting for states that may still come."""
        with self._lock:
            self._judge(math.inf)

    def finish(self) -> None:
        """Flush at the end of everything: what is not proven by now will not be."""
        self.flush()
        with self._lock:
            self._check_beginnings(math.inf)

    # Judgement --------------------------------------------------------------------------------------------------

    def _judge(self, until_s: float) -> None:
        while self._waiting and (self._waiting[0] is None or self._waiting[0][0] <= until_s):
            command = self._waiting.popleft()
            if command is None:
                self._samples.clear()
                continue
            following = next((one[0] for one in self._waiting if one is not None), math.inf)
            self._judge_command(*command, following)
        while self._grippers and self._grippers[0][0] <= until_s:
            at_s, value = self._grippers.popleft()
            held_since_s = self._held_since(at_s - 0.1)
            if held_since_s is not None and self._held_since(at_s + 0.1) == held_since_s:
                self._report("gripper moved in a hold", f"to {value:g}")

    def _judge_command(self, stamp_s: float, pose: Pose, frame: str, following_s: float) -> None:
        """following_s: the stamp of the next command, infinite when there is none yet."""
        self.commands += 1
        self._check_beginnings(stamp_s - PROOF_S)
        if not (np.isfinite(pose.position).all() and np.isfinite(pose.quaternion).all()):
            self._report("not finite", str(pose))
            return
        if frame and frame != self.limits.base_frame:
            self._report("another frame", frame)
        if abs(float(np.linalg.norm(pose.quaternion)) - 1.0) > 1e-6:
            self._report("not a unit quaternion", str(pose.quaternion))
            return
        if not self._samples or self._last is None:
            self._begin(stamp_s, pose, proven=False)
            return
        before_s, place = self._samples[-1]
        if stamp_s <= before_s:
            self._report("stamps not increasing", f"{stamp_s - before_s:.6f} s")
            return
        moved = float(np.linalg.norm(pose.position - place[:3]))
        turned = rotations.rotation_between(self._last.quaternion, pose.quaternion)
        moves = moved + float(np.linalg.norm(turned)) > 1e-9
        if stamp_s - before_s > PAUSE_S:
            self._begin(stamp_s, pose, proven=not moves)
            return
        self._check_box_and_cone(pose)
        slack_s = 20 * self.stamp_error_s
        held_before_s = self._held_since(stamp_s + slack_s)
        held_after_s = self._held_since(following_s - 1e-6 + slack_s)
        rested = self._rests()
        self._samples.append((stamp_s, np.concatenate([pose.position, place[3:] + turned])))
        before, self._last = self._last, pose
        follows = self._follows(stamp_s, following_s + slack_s)
        excess = self._excess(list(self._samples), follows)
        in_hold = held_before_s is not None or held_after_s is not None
        if rested and moves and in_hold and (excess or self._is_measured(stamp_s, pose.position, 1e-9)):
            self._begin(stamp_s, pose, proven=False)  # re-based, at rest and in a hold, to where the arm is
            return
        if float(pose.quaternion @ before.quaternion) < 0.0:
            self._report("the quaternion changed its sign", str(pose.quaternion))
        # The first command of a motion comes just before the state that tells of it.
        if moves and held_before_s is not None and held_after_s is not None and stamp_s - held_before_s > STILL_AFTER_S:
            self._report("motion in a hold", f"{moved * 1e3:.2f} mm, {stamp_s - held_before_s:.2f} s into it")
        if excess is None:
            return
        if not self._one_late_stamp_explains(follows):
            stamps = [round((at_s - stamp_s) * 1e3, 2) for at_s, _ in self._samples]
            self._report(excess[0], f"{excess[0]} {excess[1]:.3g} above {excess[2]:.3g}, stamps {stamps} ms")

    def _begin(self, stamp_s: float, pose: Pose, proven: bool) -> None:
        self._last = pose
        self._samples.clear()
        place = np.concatenate([pose.position, np.zeros(3)])
        self._samples.extend((stamp_s - back_s, place) for back_s in (3.0, 2.0, 1.0, 0.0))
        if not proven and self.knows_poses:
            self._beginnings.append((stamp_s, pose.position))

    def _check_beginnings(self, before_s: float) -> None:
        while self._beginnings and self._beginnings[0][0] < before_s:
            stamp_s, place = self._beginnings.pop(0)
            if not self._is_measured(stamp_s, place, AT_MEASURED_M):
                self._report("did not begin at the measured pose", f"{place}")

    def _is_measured(self, stamp_s: float, place: np.ndarray, within_m: float) -> bool:
        """Whether the arm was measured there in the second before a command."""
        if not self._measured:  # a robot that publishes joint angles only: nothing to compare with here
            return True
        from_s, to_s = stamp_s - KNOWN_S, stamp_s + 20 * self.stamp_error_s
        track = [position for at_s, position in self._measured if from_s <= at_s <= to_s]
        if len(track) < 2:
            # The controller may discover a new robot a moment before the spy does: then what is heard first counts.
            track = [position for at_s, position in self._measured if at_s >= from_s][:2]
            within_m = max(within_m, DISCOVERED_M)
        return len(track) > 1 and distance_to_track(place, np.array(track)) <= within_m

    def _held_since(self, at_s: float) -> float | None:
        """When the hold began that is in force at a time; None in motion and before the first state."""
        since_s: float | None = None
        for stamp_s, is_active in self._states:
            if stamp_s > at_s:
                break
            since_s = None if is_active else stamp_s if since_s is None else since_s
        return since_s

    def _follows(self, stamp_s: float, until_s: float) -> bool:
        """Whether the controller has followed actions for long, and still does: then the lower limits hold."""
        in_force, begun = False, False
        for at_s, is_active in self._states:
            if at_s > until_s:
                break
            begun = begun or (is_active and at_s <= stamp_s - FOLLOWS_AFTER_S)
            if at_s <= stamp_s - FOLLOWS_AFTER_S:
                in_force = is_active
            elif not is_active:
                return False
        return begun and in_force

    def _rests(self) -> bool:
        (from_s, a), (to_s, b) = list(self._samples)[-2:]
        # The last step of a stop is shorter than what stop_acceleration takes away in a tick.
        return float(np.linalg.norm(b[:3] - a[:3])) <= self.limits.stop_acceleration * (to_s - from_s) ** 2

    def _check_box_and_cone(self, pose: Pose) -> None:
        assert self._last is not None
        rows = (self.limits.workspace_low, self.limits.workspace_high, self._last.position, pose.position)
        for low, high, before, now in zip(*rows, strict=True):
            if now < min(low, before) - 1e-9 or now > max(high, before) + 1e-9:
                self._report("outside the workspace box", str(pose.position))
        tilt = self._cone.tilt(pose.quaternion)
        if tilt > max(self.limits.max_tilt, self._cone.tilt(self._last.quaternion)) + 1e-6:
            self._report("outside the orientation cone", f"{tilt:.3f} rad")

    def _excess(self, samples: list[tuple[float, np.ndarray]], follows: bool) -> tuple[str, float, float] | None:
        """The first limit that the newest of up to four samples exceeds: name, value, limit; None when it does not."""
        times = np.array([at_s for at_s, _ in samples]) - samples[-1][0]
        if (np.diff(times) <= 0).any():
            return "stamps not increasing", 0.0, 0.0
        places = np.array([place for _, place in samples])
        speeds = np.diff(places, axis=0) / np.diff(times)[:, None]
        for order in range(1, len(samples)):
            weights = derivative_weights(times[-order - 1 :])
            value = weights @ places[-order - 1 :]
            for kind, part in (("", slice(0, 3)), ("angular ", slice(3, 6))):
                local = float(np.linalg.norm(speeds[-order:, part], axis=1).max())
                slack = float(np.abs(weights).sum()) * local * self.stamp_error_s + 1e-6
                size, most = float(np.linalg.norm(value[part])), self._limit(kind, order, follows)
                if size > most * (1 + 1e-6) + slack:
                    return kind + ORDERS[order - 1], size, most
        return None

    def _limit(self, kind: str, order: int, follows: bool) -> float:
        name = kind.replace(" ", "_") + ORDERS[order - 1]
        most = float(getattr(self.limits, f"max_{name}"))
        return most if follows or order == 1 else max(most, float(getattr(self.limits, f"stop_{name}")))

    def _one_late_stamp_explains(self, follows: bool) -> bool:
        """Whether these four samples would be right with another stamp of one of them. It is seen four times."""
        samples = list(self._samples)
        since_s = samples[-1][0] - self._late_s
        if since_s < LATE_APART_S and self._late_s < samples[0][0]:
            return False
        for index in range(4):
            for shift_s in np.linspace(-LONGEST_SHIFT_S, LONGEST_SHIFT_S, 61):
                tried = [(at_s + shift_s * (i == index), place) for i, (at_s, place) in enumerate(samples)]
                if not any(self._excess(tried[:count], follows) for count in (2, 3, 4)):
                    if since_s >= LATE_APART_S:
                        self.late_stamps += 1
                        self._late_s = samples[-1][0]
                    return True
        return False

    def _report(self, what: str, example: str) -> None:
        self.violations[what] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{what}: {example}")
