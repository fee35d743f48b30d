"""Whether the arm may move at all: orders, the emergency stop, faults, and who else is there."""

from openvla_core.estop import EmergencyStop
from openvla_core.pose_watch import PoseWatch
from openvla_core.types import Problem
from openvla_core.verdict import State, Verdict, hold

STOPPED = Verdict(State.STANDBY, "STOPPED", "Stopped: nothing is sent until start.")
PAUSED = Verdict(State.HOLD, "PAUSED", "Paused: holding until start.")
MULTI_PUB = hold("MULTI_PUB", "more than one process publishes actions. Stop all but one.")


class Permission:
    """Separate facts, each kept for itself; what they amount to is read off them at every moment, worst first."""

    def __init__(self, estop: EmergencyStop, poses: PoseWatch) -> None:
        self.estop = estop
        self._poses = poses
        self.running = False
        self.paused = False
        self.fault: Verdict | None = None
        self.backend: Problem | None = None
        self.publishers = 1

    def latch(self, problem: Problem) -> None:
        """The first fault is the one to tell: the others may follow from it."""
        sentence = f"{problem.sentence[:1].upper()}{problem.sentence[1:].rstrip('.')}. Holding until reset is called."
        self.fault = self.fault or Verdict(State.FAULT, problem.code, sentence)

    def latched(self, now_s: float) -> Verdict | None:
        """What only a reset ends."""
        return self.estop.verdict(now_s) or self.fault

    def refusal(self, now_s: float) -> Verdict | None:
        """Why no action may be carried out, most serious reason first; None when one may."""
        latched = self.latched(now_s)
        if latched:
            return latched
        if not self.running:
            return Verdict(STOPPED.state, self.backend.code, self.backend.sentence) if self.backend else STOPPED
        if not self._poses.is_fresh(now_s):
            missing = self._poses.silence()
            return hold(missing.code, missing.sentence)
        if self.backend is not None:
            return hold(self.backend.code, self.backend.sentence)
        if self.publishers > 1:
            return MULTI_PUB
        return PAUSED if self.paused else None
