"""The label of a step: what was done after its frame, from what was commanded or from where the arm went.

Labels from measured states say what the arm did, whatever the commands were; BridgeV2 was labelled that way. All
of them are rows of the convention card: `ActionConvention.difference` makes them, `ActionConvention.action` reads them.
"""

from dataclasses import replace

import numpy as np

from openvla_core import rotations
from openvla_core.conventions import NO_ROTATION, ActionConvention
from openvla_core.errors import DatasetError
from openvla_core.types import Pose

SOURCES = ("measured", "target", "applied")
ROTATION_CHOICES = ("card", "rotation_vector")
LIBERO_NOOP_NORM = 1e-4
IDLE_TRANSLATION = 0.002  # metres per step that are no motion
IDLE_ROTATION = 0.01  # radians
GRIPPER_TRAVEL = 0.2  # openings that differ by less are one and the same state


def card_for(card: ActionConvention, rotation: str = "card") -> ActionConvention:
    """The card the labels follow: as it is, or with rotation vectors in place of its own rotation numbers.

    Euler differences are what BridgeV2 has, but they jump by a turn near gimbal lock and do not compose; a rotation
    vector does neither. A checkpoint trained on the changed labels needs the changed card, which has its own name.
    """
    if rotation not in ROTATION_CHOICES:
        raise DatasetError(f"rotation is {rotation!r}; choose one of {', '.join(ROTATION_CHOICES)}.")
    if rotation == "card" or card.rotation == rotation:
        return card
    return replace(card, name=f"{card.name}_rotation_vector", rotation=rotation, default_rotation=NO_ROTATION)


def to_poses(rows: np.ndarray) -> list[Pose]:
    """Rows (T, 7) of metres and x, y, z, w. Raises DatasetError where one is not a finite pose."""
    poses = []
    for i, row in enumerate(np.asarray(rows, dtype=np.float64)):
        pose = rotations.checked_pose(row[:3], row[3:7])
        if pose is None:
            raise DatasetError(f"pose {i} is {row.tolist()}; expected finite metres and a unit quaternion x, y, z, w.")
        poses.append(pose)
    return poses


def differences(card: ActionConvention, starts: np.ndarray, ends: np.ndarray, openings: np.ndarray) -> np.ndarray:
    """Labels (T, 7) float32 that move each start to its end.

    Args:
        starts, ends: poses (T, 7), metres and x, y, z, w, base frame.
        openings: (T,) gripper openings to ask for, 0 closed to 1 open.
    """
    pairs = zip(to_poses(starts), to_poses(ends), openings, strict=True)
    rows = [card.difference(start, end, float(opening)) for start, end, opening in pairs]
    return np.array(rows, dtype=np.float32).reshape(len(rows), 7)


def from_applied(card: ActionConvention, poses: np.ndarray, applied: np.ndarray) -> np.ndarray:
    """Labels (T, 7) float32 of the steps a controller says it carried out.

    Args:
        poses: measured (T, 7) at the frames. applied: (T, 7) translation m, rotation vector rad in base axes, opening.
    """
    rows = []
    for pose, action in zip(to_poses(poses), applied, strict=True):
        rows.append(card.difference(pose, rotations.moved(pose, action[:3], action[3:6]), float(action[6])))
    return np.array(rows, dtype=np.float32).reshape(len(rows), 7)


def binary_commands(openings: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Commanded openings (T,) -> 0.0 or 1.0: above the threshold is open."""
    return (np.asarray(openings) > threshold).astype(np.float64)


def binary_measured(openings: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Measured openings (T,) -> 0.0 or 1.0, in thirds of the travel seen: fingers around an object never read 0.

    The state changes when the opening enters the outer third on the other side, so noise does not make it flutter.
    A gripper that moved by less than a fifth of its range has one state, judged by the threshold.
    """
    openings = np.asarray(openings, dtype=np.float64)
    low, high = (float(openings.min()), float(openings.max())) if len(openings) else (0.0, 0.0)
    if high - low < GRIPPER_TRAVEL:
        return np.full(len(openings), float((low + high) / 2 > threshold))
    closed_below, open_above = low + (high - low) / 3, high - (high - low) / 3
    state = float(openings[0] > (low + high) / 2)
    result = np.empty(len(openings))
    for i, opening in enumerate(openings):
        state = 1.0 if opening > open_above else 0.0 if opening < closed_below else state
        result[i] = state
    return result


def noop_filter(actions: np.ndarray, norm: float = LIBERO_NOOP_NORM) -> np.ndarray:
    """Which steps (T,) bool to keep: those that move, or change the gripper from the last step that was kept.

    The rule of the published LIBERO data: a step goes when the norm of all but its last number is below `norm` and its
    gripper equals that of the last kept step; for the first step the norm alone decides.
    """
    keep = np.zeros(len(actions), dtype=bool)
    gripper: float | None = None
    for i, row in enumerate(np.asarray(actions, dtype=np.float64)):
        still = float(np.linalg.norm(row[:-1])) < norm
        keep[i] = not (still and (gripper is None or row[-1] == gripper))
        if keep[i]:
            gripper = float(row[-1])
    return keep


def is_idle(card: ActionConvention, actions: np.ndarray) -> np.ndarray:
    """(T,) bool: steps that neither move nor turn the tool nor change the gripper from the step before."""
    sizes = np.array([card.size(row) for row in np.asarray(actions, dtype=np.float64)]).reshape(len(actions), 2)
    changes = np.append(False, np.diff(actions[:, -1]) != 0) if len(actions) else np.empty(0, bool)
    return (sizes[:, 0] < IDLE_TRANSLATION) & (sizes[:, 1] < IDLE_ROTATION) & ~changes


def trim_idle(idle: np.ndarray, margin: int = 1) -> slice:
    """The steps between the idle ones at the beginning and at the end, with `margin` of them left on either side."""
    busy = np.flatnonzero(~idle)
    if not len(busy):
        return slice(0, 0)
    return slice(max(0, int(busy[0]) - margin), min(len(idle), int(busy[-1]) + 1 + margin))
