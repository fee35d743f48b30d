"""What the data sets mean by "gripper", brought to one meaning: 1 open, 0 closed, absolute."""

import numpy as np

OPEN_ABOVE, CLOSED_BELOW = 0.95, 0.05
COMMAND_THRESHOLD = 0.1


def invert(values: np.ndarray) -> np.ndarray:
    """Open becomes closed: 1 - values."""
    return 1.0 - values


def clipped(values: np.ndarray) -> np.ndarray:
    """Any number -> from 0 to 1."""
    return np.clip(values, 0.0, 1.0)


def binarize(values: np.ndarray) -> np.ndarray:
    """Openings (T,) -> 0 or 1, same shape and dtype: a moving gripper already counts as what it is moving to.

    Above 0.95 is open, below 0.05 closed; anything between takes the next decided value. Steps after the last decided
    one have no such value: they keep the last number of the recording, as in the published pipeline.
    """
    values = np.asarray(values)
    decided = (values > OPEN_ABOVE) | (values < CLOSED_BELOW)
    following = _next_index(decided)
    known = following < len(values)
    result = np.full_like(values, values[-1] if len(values) else 0)
    result[known] = values[following[known]] > OPEN_ABOVE
    return result


def absolute_from_relative(commands: np.ndarray) -> np.ndarray:
    """Commands (T,), above 0.1 for "close now" and below -0.1 for "open now" -> (T,) float32, 1 open or 0 closed.

    A command holds until the next one. Before the first, the gripper is taken to be in the opposite state; without any
    command it is open.
    """
    commands = np.asarray(commands)
    state = np.where(commands < -COMMAND_THRESHOLD, 1.0, np.where(commands > COMMAND_THRESHOLD, 0.0, np.nan))
    given = np.flatnonzero(~np.isnan(state))
    if not len(given):
        return np.ones(len(commands), dtype=np.float32)
    latest = np.searchsorted(given, np.arange(len(commands)), side="right") - 1
    held = state[given[np.maximum(latest, 0)]]
    return np.where(latest < 0, 1.0 - held, held).astype(np.float32)


def _next_index(marked: np.ndarray) -> np.ndarray:
    """(T,) bool -> for every step, the index of the first marked step from there on; T when there is none."""
    places = np.flatnonzero(marked)
    following = np.searchsorted(places, np.arange(len(marked)))
    return np.append(places, len(marked))[following]
