"""From a few goals per second to a target at any moment: straight lines and shortest rotations between goals.

A policy gives 2 to 20 goals per second, a robot wants 50 to 100 poses. Between two goals the target moves at constant
speed on SE(3); after the last one it stays, and the limiter that follows it comes to rest there: silence of the policy
is a smooth stop at the last goal, until its time-out makes it a stop where the arm is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from openvla_core.rotations import interpolate
from openvla_core.types import Pose


@dataclass(frozen=True)
class Goal:
    """What one action asks for: a pose in the base frame and a gripper opening in [0, 1], None to leave it alone."""

    pose: Pose
    gripper: float | None


class RateAdapter:
    """Answers "where should the arm be aiming now?" between the goals that a policy gives a few times per second.

    Times are seconds of one monotonic clock. New goals replace the ones not reached yet: the newest image knows best.

    The goals of a chunk are consumed in time order from its arrival, not from the stamp of its image. They are places,
    found from where the arm was at the image, so lateness does not move them; and counting from the image would skip
    the first ones of every chunk of a slow policy, with their gripper commands.
    """

    def __init__(self, pose: Pose) -> None:
        self.reset(pose)

    def reset(self, pose: Pose) -> None:
        """Aims at the pose and forgets every goal."""
        self._waypoints: list[tuple[float, Goal]] = [(0.0, Goal(pose, None))]

    @property
    def last(self) -> Pose:
        """The pose of the last goal taken."""
        return self._waypoints[-1][1].pose

    def take(self, start: Pose, goals: Sequence[Goal], now_s: float, first_s: float, period_s: float) -> None:
        """Takes the goals of one chunk, in time order, in place of all earlier ones.

        Args:
            start: where the stream is now.
            goals: at least one, one per action of the chunk.
            first_s: time in which the first goal is to be reached, seconds; 0 aims at it at once.
            period_s: time between two actions of the chunk, seconds.
        """
        self._waypoints = [(now_s, Goal(start, None))]
        for index, goal in enumerate(goals):
            self._waypoints.append((now_s + first_s + index * period_s, goal))

    def target(self, now_s: float) -> Goal:
        """The pose to aim at now and the gripper of the action in progress; the last goal once its time has passed."""
        while len(self._waypoints) > 1 and self._waypoints[1][0] <= now_s:
            self._waypoints.pop(0)
        start_s, start = self._waypoints[0]
        if len(self._waypoints) == 1:
            return start
        end_s, end = self._waypoints[1]
        return Goal(interpolate(start.pose, end.pose, (now_s - start_s) / (end_s - start_s)), end.gripper)
