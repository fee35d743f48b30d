"""Which data sets a policy with one arm, one outside camera and end-effector actions can learn from, and which steps.

Data sets are chosen by what they say of themselves, before any of their frames is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from openvla_core.errors import DatasetError

END_EFFECTOR = "end_effector"
THIRD_PERSON = "third_person"
VIEWS = (THIRD_PERSON, "wrist")
CONTROLS = (END_EFFECTOR, "joints", "base", "other")
MOTION_NUMBERS = {6, 7}  # position and rotation, with or without the gripper
DROP_STILL_STEPS = "drop_still_steps"  # in an episode's metadata: true where training leaves steps without motion out

# The published training compares actions that are normalised with zero, to within 1e-5. DROID's quantiles span 1.2 to
# 1.8, so in the units of the data set these are:
STILL = 1e-5 / 2 * np.array([1.5374, 1.1530, 1.3146, 1.3170, 1.3506, 1.7793])


@dataclass(frozen=True)
class Description:
    """arms: how many move. views: camera -> "third_person" or "wrist". control: what the actions move, of CONTROLS.

    labelled: whether episodes come with an instruction at all.
    """

    name: str
    arms: int
    views: Mapping[str, str]
    control: str
    labelled: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Description":
        """Reads {"name", "arms", "views", "control", "labelled"}. Raises DatasetError for anything not understood."""
        name = str(values.get("name", "unnamed"))
        arms, views, control = values.get("arms"), values.get("views"), values.get("control")
        labelled = values.get("labelled", True)
        if type(arms) is not int or arms < 0:
            raise DatasetError(f"{name}: arms is {arms!r}; say how many arms move, 1 for most.")
        if not isinstance(views, Mapping) or not set(views.values()) <= set(VIEWS):
            raise DatasetError(f"{name}: views is {views!r}; give each camera one of {', '.join(VIEWS)}.")
        if control not in CONTROLS:
            raise DatasetError(f"{name}: control is {control!r}; choose one of {', '.join(CONTROLS)}.")
        if not isinstance(labelled, bool):
            raise DatasetError(f"{name}: labelled is {labelled!r}; expected true or false.")
        return cls(name, arms, dict(views), control, labelled)


def reasons_to_leave_out(description: Description) -> list[str]:
    """Why this data set does not fit, as sentences; none when it does."""
    reasons = []
    if description.arms != 1:
        reasons.append(f"{description.arms} arms move; the policy moves one.")
    if THIRD_PERSON not in description.views.values():
        reasons.append("no camera looks from outside; the policy sees through a third-person camera.")
    if description.control != END_EFFECTOR:
        reasons.append(f"actions move {description.control!r}; the policy moves the end effector.")
    if not description.labelled:
        reasons.append("episodes have no instruction; the policy is told what to do.")
    return reasons


def moving_steps(chunks: np.ndarray) -> np.ndarray:
    """Chunks (T, K, 7) of actions in the units of DROID -> (T,) bool: false where none of the K moves the arm."""
    return (np.abs(chunks[..., :6]) > STILL).any(axis=(1, 2))


def trained_steps(metadata: Mapping[str, Any], chunks: np.ndarray) -> np.ndarray:
    """(T,) bool: which steps of an episode are trained on, given its metadata and the chunks (T, K, D) of its actions.

    Decided last, as in the published training: steps that are left out still count in the statistics, in the chunks of
    the steps before them, and in how often the data set is drawn from.
    """
    return moving_steps(chunks) if metadata.get(DROP_STILL_STEPS) else np.ones(len(chunks), dtype=bool)
