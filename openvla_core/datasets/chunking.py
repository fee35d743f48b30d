"""What a policy sees and answers at one step: a window of past frames and a chunk of future actions."""

import numpy as np

from openvla_core.errors import DatasetError


def window_indices(steps: int, window: int, segment: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Which frames are seen at each of `steps` steps, the newest last.

    Args:
        segment: (T,) int, equal for steps without a hole between them; None when there is none.

    Returns indices (T, window) int64, the first frame of the segment repeated where there is no earlier one, and
    (T, window) bool, true where the frame is real.
    """
    _check(window, "window", 1)
    first, _ = _ends(steps, segment)
    indices = np.arange(steps)[:, None] + np.arange(1 - window, 1)
    return np.maximum(indices, first), indices >= first


def chunk_actions(
    actions: np.ndarray, relative: np.ndarray, window: int = 1, future: int = 0, segment: np.ndarray | None = None
) -> np.ndarray:
    """Actions (T, D) -> (T, window + future, D): those of the window's frames, then the `future` following ones.

    A segment ends as an episode does: past its end nothing moves any more, relative dimensions become 0 and absolute
    ones, such as the gripper, keep their last value. Before its beginning the first action is repeated.

    Args:
        relative: (D,) bool, true where the number is a change, false where it is a state to be in.
        segment: (T,) int, equal for steps without a hole between them; None when there is none.
    """
    _check(window, "window", 1)
    _check(future, "future", 0)
    actions, relative = np.asarray(actions), np.asarray(relative)
    if actions.ndim != 2 or relative.shape != actions.shape[1:] or not len(actions):
        raise DatasetError(f"actions {actions.shape} and relative {relative.shape}; expected (T, D) and (D,), T > 0.")
    first, last = _ends(len(actions), segment)
    indices = np.arange(len(actions))[:, None] + np.arange(1 - window, 1 + future)
    beyond = indices > last
    chunks = actions[np.clip(indices, first, last)]
    chunks[beyond[:, :, None] & relative] = 0
    return chunks


def _ends(steps: int, segment: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(T, 1), (T, 1) int64: the first and the last step of the segment that each step is in."""
    segment = np.zeros(steps, dtype=np.int64) if segment is None else np.asarray(segment)
    if segment.shape != (steps,):
        raise DatasetError(f"segment has the shape {segment.shape}; expected ({steps},), a number for each step.")
    starts = np.flatnonzero(np.append(True, segment[1:] != segment[:-1]))
    place = np.searchsorted(starts, np.arange(steps), side="right") - 1
    ends = np.append(starts[1:], steps) - 1
    return starts[place][:, None], ends[place][:, None]


def relative_mask(dimensions: int, absolute: int = 1) -> np.ndarray:
    """(D,) bool for the usual action: changes, and at the end `absolute` numbers for the gripper."""
    return np.arange(dimensions) < dimensions - absolute


def _check(value: int, name: str, least: int) -> None:
    if value < least:
        raise DatasetError(f"{name} is {value}; expected {least} or more steps.")
