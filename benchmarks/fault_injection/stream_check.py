"""Checks the published stream of commands from the outside: poses, their stamps and what the controller says it does.

The n-th divided difference of positions is a weighted mean of the n-th derivative, so a stream that keeps its limits
passes at whatever times it is sampled. A stamp that is late by d is the same as a position that is off by v d: that
much is allowed for d = STAMP_ERROR_S. What a single late stamp would explain (a process that was not scheduled between
two lines) is counted apart and is no violation; a second one within LATE_APART_S cannot be explained.

Commands and states arrive on different topics, in any order. A command is therefore judged JUDGED_AFTER_S later, by its
stamp and the stamps of the states around it.

A stream has to begin where the arm is measured. Commands that were not heard (numbering.py) are put in from what the
controller shows beside the robot's topic, if it was heard there without a gap and agrees with what was heard of both.
What is first heard of an arm that moves already, without that, is no beginning: it is counted in `joined_late`, and
everything after it is judged.
"""

import math
import threading
from collections import Counter, deque

import numpy as np

from fault_injection.derivatives import ORDERS, derivative_weights
from fault_injection.gripper_check import GripperCheck
from fault_injection.measured import Measured
from fault_injection.numbering import Heard, Numbers, Shown
from fault_injection.states import States
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
AT_MEASURED_M = 0.001
PROOF_S = 4.0  # within which the pose that a stream began at must be heard
OLDEST_IMAGE_S = 0.5


class StreamCheck:
    """Feed it all commands and states; `violations` tells what was wrong, `late_stamps` what was only late.

    Of `beginnings` of the stream, `joined_late` could not be judged. Of `commands`, `filled_in` were not heard on the
    robot's topic and are judged as the controller showed them.
    """

    def __init__(self, limits: SupervisorSettings) -> None:
        self.limits = limits
        self.stamp_error_s = STAMP_ERROR_S
        self.commands = 0
        self.late_stamps = 0
        self.beginnings = 0
        self.joined_late = 0
        self.filled_in = 0
        self.violations: Counter[str] = Counter()
        self.examples: list[str] = []
        self._lock = threading.Lock()
        self._cone = OrientationCone(limits.tool_axis, limits.cone_axis, limits.max_tilt)
        self._waiting: deque[Heard | None] = deque()  # None: the stream ends here
        self._numbers = Numbers()
        self._shown = Shown()
        self._states = States()
        self._gripper = GripperCheck(self._states, self._report)
        self._samples: deque[tuple[float, np.ndarray]] = deque(maxlen=4)  # stamp, position and accumulated turn (6,)
        self._judged_s = -math.inf  # the stamp of the command that was judged last
        self._late_s = -math.inf  # the newest stamp when a late one was first seen
        self._last: Pose | None = None
        self._beginnings: list[tuple[float, np.ndarray]] = []  # stamp and place, to be found among the measured
        self._measured = Measured()
        self.knows_poses = True  # False while the measured poses cannot be heard

    # What is heard ----------------------------------------------------------------------------------------------

    def on_measured(self, at_s: float, pose: Pose) -> None:
        """A measured pose with the stamp it carries, seconds: where a stream may begin after that."""
        with self._lock:
            self._measured.add(at_s, pose.position)

    def on_status(self, stamp_s: float, is_active: bool) -> None:
        """What the controller says it does from this moment on."""
        with self._lock:
            self._states.add(stamp_s, is_active)

    def on_command(self, stamp_s: float, pose: Pose, frame: str = "", number: int | None = None) -> None:
        """One command with the stamp it carries, seconds, its frame and its number among those of its publisher."""
        with self._lock:
            self._waiting.append(Heard(stamp_s, pose, frame, number))
            self._judge(stamp_s - JUDGED_AFTER_S)

    def on_shown(self, stamp_s: float, pose: Pose, number: int | None) -> None:
        """One command as the controller shows it beside the robot's topic, as above."""
        with self._lock:
            self._shown.add(Heard(stamp_s, pose, "", number))

    def on_gripper(self, at_s: float, value: float, number: int | None = None) -> None:
        """One command of the gripper's opening; at_s when it was sent, in the clock of the stamps."""
        with self._lock:
            self._gripper.add(at_s, value, number)

    def on_applied(self, age_s: float) -> None:
        """An action was begun by an image of this age, seconds."""
        with self._lock:
            if not age_s <= OLDEST_IMAGE_S + 0.03:
                self._report("acted on an old image", f"{age_s:.3f} s")

    def forget(self) -> None:
        """The process that made the stream has ended; the next command is the first of a new one."""
        with self._lock:
            self._waiting.append(None)
            self._gripper.forget()

    def flush(self) -> None:
        """Judges everything that was heard, without waiting for states that may still come."""
        with self._lock:
            self._judge(math.inf)

    def finish(self) -> None:
        """Flush at the end of everything: what is not proven by now will not be."""
        self.flush()
        with self._lock:
            self._check_beginnings(math.inf, at_last=True)

    # Judgement --------------------------------------------------------------------------------------------------

    def _judge(self, until_s: float) -> None:
        while self._waiting and (self._waiting[0] is None or self._waiting[0].stamp_s <= until_s):
            command = self._waiting.popleft()
            if command is None:
                self._samples.clear()
                self._numbers.restart()
                continue
            missed = self._numbers.missed(command.number)
            known = self._shown.before(command, missed) if missed else []
            if known and known[0].stamp_s > self._judged_s:
                self.filled_in += len(known)
                self._waiting.extendleft(reversed([*known, command]))
                continue
            following_s = next((one.stamp_s for one in self._waiting if one is not None), math.inf)
            if self._shown.disagrees(command):
                self._report("shown otherwise than sent", str(command.pose))
            self._judge_command(command.stamp_s, command.pose, command.frame, following_s, missed > 0)
            self._numbers.note(command.number)
            self._judged_s = command.stamp_s
        self._gripper.judge(until_s)

    def _judge_command(self, stamp_s: float, pose: Pose, frame: str, following_s: float, missed: bool) -> None:
        """following_s: the stamp of the next command, infinite when there is none yet; missed: some before it were."""
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
            self._begin(stamp_s, pose, missed=missed)
            return
        before_s, place = self._samples[-1]
        if stamp_s <= before_s:
            self._report("stamps not increasing", f"{stamp_s - before_s:.6f} s")
            return
        moved = float(np.linalg.norm(pose.position - place[:3]))
        turned = rotations.rotation_between(self._last.quaternion, pose.quaternion)
        moves = moved + float(np.linalg.norm(turned)) > 1e-9
        if stamp_s - before_s > PAUSE_S:
            self._begin(stamp_s, pose, proven=not moves, missed=missed)
            return
        self._check_box_and_cone(pose)
        slack_s = 20 * self.stamp_error_s
        held_before_s = self._states.held_since(stamp_s + slack_s)
        held_after_s = self._states.held_since(following_s - 1e-6 + slack_s)
        rested = self._rests()
        self._samples.append((stamp_s, np.concatenate([pose.position, place[3:] + turned])))
        before, self._last = self._last, pose
        follows = self._states.follows(stamp_s, following_s + slack_s)
        excess = self._excess(list(self._samples), follows)
        in_hold = held_before_s is not None or held_after_s is not None
        # Whether it was at rest before is not known when the last commands were missed; where the arm is, is.
        if (
            (rested or missed)
            and moves
            and in_hold
            and (excess or self._measured.has(pose.position, stamp_s, 1e-9, slack_s))
        ):
            self._begin(stamp_s, pose)  # re-based, at rest and in a hold, to where the arm is
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

    def _begin(self, stamp_s: float, pose: Pose, proven: bool = False, missed: bool = False) -> None:
        self._last = pose
        self._samples.clear()
        place = np.concatenate([pose.position, np.zeros(3)])
        held_since_s = self._states.held_since(stamp_s)
        # After so long in a hold the arm is where it is commanded, whichever command of the hold is heard first.
        rests = not missed or (held_since_s is not None and stamp_s - held_since_s > STILL_AFTER_S)
        self._samples.extend((stamp_s - back_s, place) for back_s in ((3.0, 2.0, 1.0, 0.0) if rests else (0.0,)))
        if proven or not self.knows_poses:
            return
        self.beginnings += 1
        self.joined_late += not rests
        if rests:
            self._beginnings.append((stamp_s, pose.position))

    def _check_beginnings(self, before_s: float, at_last: bool = False) -> None:
        slack_s = 20 * self.stamp_error_s
        while self._beginnings and self._beginnings[0][0] < before_s:
            stamp_s, place = self._beginnings[0]
            if self._measured.until_s < stamp_s and not at_last:
                return  # a listener that is late with the measured poses judges later
            self._beginnings.pop(0)
            if not self._measured.has(place, stamp_s, AT_MEASURED_M, slack_s):
                far = self._measured.describe(place, stamp_s, slack_s)
                self._report("did not begin at the measured pose", f"{place}, {far}")

    def _rests(self) -> bool:
        if len(self._samples) < 2:
            return False
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
