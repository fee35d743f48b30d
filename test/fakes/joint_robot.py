"""Joints that move to a target in a given time, for the pretend robots that are commanded by joint angles."""

import time

import numpy as np
from fake_robot import FakeRobot

from openvla_ros import conversions, topics


class JointRobot(FakeRobot):
    """Straight lines in joint space, one after the other."""

    def __init__(self, name: str, joints: dict[str, float], topic: str, **options) -> None:
        """joints: names and start angles, rad."""
        super().__init__(name, 100.0, **options)
        self.names = list(joints)
        self._from = self._to = np.array(list(joints.values()))
        self._start_s, self._duration_s = time.monotonic(), 0.0
        self._states_out = self.create_publisher(topics.JointState, topic, topics.COMMAND)

    @property
    def joints(self) -> np.ndarray:
        """The angles (n,) rad now."""
        share = (time.monotonic() - self._start_s) / self._duration_s if self._duration_s > 0 else 1.0
        return self._from + min(share, 1.0) * (self._to - self._from)

    def move_to(self, target: np.ndarray, duration_s: float) -> None:
        """Starts from where the joints are; ignored while the robot does not obey."""
        if self.obeys:
            self._from, self._to = self.joints, np.array(target, dtype=np.float64)
            self._start_s, self._duration_s = time.monotonic(), duration_s

    def put(self, joints: np.ndarray) -> None:
        """The joints are moved to these angles (n,) rad by hand."""
        self._from = self._to = np.array(joints, dtype=np.float64)

    def others(self) -> dict[str, float]:
        """Further joints that are shown, such as fingers."""
        return {}

    def publish_state(self) -> None:
        """The joint states."""
        others = self.others()
        positions = np.array([*self.shown(self.joints), *others.values()])
        names = [*self.names, *others]
        now_ns = self.now_ns()
        message = conversions.joint_state_message(names, positions, np.zeros(len(names)), now_ns)
        self.emit(self._states_out, message)
