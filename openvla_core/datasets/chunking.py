"""What a policy sees and answers at one step: a window of past frames and a chunk of future actions."""

import numpy as np

from openvla_core.errors import DatasetError


def window_indices(steps: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Which frames are seen at each of `steps` steps, the newest last.

    Returns indices (T, window) int64, the first frame repeated where there is no earlier one, and (T, window) bool,
    true where the frame is real.
    """
    _check(window, "window", 1)
    indices = np.arange(steps)[:, None] + np.arange(1 - window, 1)
    return np.maximum(indices, 0), indices >= 0


def chunk_actions(actions: np.ndarray, relative: np.ndarray, window: int = 1, future: int = 0) -> np.ndarray:
    """Actions (T, D) -> (T, window + future, D): those of the window's frames, then the `future` following ones.

    Past the end of the episode nothing moves any more: relative dimensions become 0 and absolute ones, such as the
    gripper, keep their last value. Before the beginning the first action is repeated.

    Args:
        relative: (D,) bool, true where the number is a change, false where it is a state to be in.
    """
    _check(window, "window", 1)
    _check(future, "future", 0)
    actions, relative = np.asarray(actions), np.asarray(relative)
    if actions.ndim != 2 or relative.shape != actions.shape[1:] or not len(actions):
        raise DatasetError(f"actions {actions.shape} and relative {relative.shape}; expected (T, D) and (D,), T > 0.")
    indices = np.arange(len(actions))[:, None] + np.arange(1 - window, 1 + future)
    beyond = indices >= len(actions)
    chunks = actions[np.clip(indices, 0, len(actions) - 1)]
    chunks[beyond[:, :, None] & relative] = 0
    return chunks


def relative_mask(dimensions: int, absolute: int = 1) -> np.ndarray:
    """(D,) bool for the usual action: changes, and at the end `absolute` numbers for the gripper."""
    return np.arange(dimensions) < dimensions - absolute


def _check(value: int, name: str, least: int) -> None:
    if value < least:
        raise DatasetError(f"{name} is {value}; expected {least} or more steps.")
