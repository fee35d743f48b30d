"""Openings from the finger joints that many robots report among their joint states."""

from dataclasses import replace

import numpy as np

from openvla_core.datasets.bags.stream import Stream

# End of a joint's name → its closed and open position: metres of one finger, or radians.
FINGERS = {
    "panda_finger_joint1": (0.0, 0.04),
    "panda_finger_joint2": (0.0, 0.04),
    "fr3_finger_joint1": (0.0, 0.04),
    "fr3_finger_joint2": (0.0, 0.04),
    "left_finger": (0.015, 0.037),  # Interbotix WidowX
    "right_finger": (-0.015, -0.037),
}
NO_JOINTS = ("gripper",)  # Interbotix reports its gripper motor as well


def opening_of_joints(joints: Stream) -> tuple[Stream | None, Stream]:
    """Splits joint states into the gripper's opening (N, 1), 0 closed to 1 open, and the joints of the arm.

    The opening is None when no finger is known by name.
    """
    ranges = [next((FINGERS[end] for end in FINGERS if name.endswith(end)), None) for name in joints.names]
    fingers = [i for i, known in enumerate(ranges) if known is not None]
    arm = [i for i, name in enumerate(joints.names) if i not in fingers and name not in NO_JOINTS]
    rest = replace(joints, values=joints.values[:, arm], names=tuple(joints.names[i] for i in arm))
    if not fingers:
        return None, rest
    closed, opened = np.array([ranges[i] for i in fingers], dtype=np.float64).T
    opening = np.clip((joints.values[:, fingers] - closed) / (opened - closed), 0.0, 1.0).mean(axis=1)
    return replace(joints, values=opening[:, None], names=("opening",)), rest
