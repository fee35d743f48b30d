"""dataset_statistics.json: what [-1, 1] will mean for a data set, computed from its episodes in one pass."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openvla_core.action_statistics import compute_statistics
from openvla_core.datasets.episode import Episode
from openvla_core.errors import DatasetError

FILE_NAME = "dataset_statistics.json"
PROPRIO_PARTS = ("pose", "gripper")


def dataset_statistics(
    name: str, episodes: Iterable[Episode], proprio: tuple[str, ...] = PROPRIO_PARTS
) -> dict[str, Any]:
    """The entry of one data set, {name: {...}}, as checkpoints carry it.

    Args:
        name: the unnorm_key of the data set.
        episodes: read once, one at a time; their pictures are not touched.
        proprio: parts of the state, joined in this order; those that an episode lacks are left out for all.

    Returns:
        "action" and "proprio" with mean, std, min, max, q01, q99 (and mask for the action: all but the gripper are
        scaled), num_transitions and num_trajectories.

    Raises:
        DatasetError: there are no steps, or episodes with a different number of action dimensions.
        StatisticsError: an action is not finite.
    """
    actions: list[np.ndarray] = []
    states: list[dict[str, np.ndarray]] = []
    for episode in episodes:
        if actions and episode.actions.shape[1] != actions[0].shape[1]:
            raise DatasetError(
                f"episode {episode.name!r} has {episode.actions.shape[1]} numbers per action, others have "
                f"{actions[0].shape[1]}; statistics need one kind of action."
            )
        actions.append(np.asarray(episode.actions, dtype=np.float64))
        states.append({part: np.asarray(episode.state[part]) for part in proprio if part in episode.state})
    if not sum(map(len, actions)):
        raise DatasetError(f"the data set {name!r} has no steps, so it has no statistics.")
    entry: dict[str, Any] = {"action": compute_statistics(np.concatenate(actions))}
    parts = [part for part in proprio if all(part in state for state in states)]
    if parts:
        rows = [np.concatenate([state[part] for part in parts], axis=1) for state in states]
        entry["proprio"] = _without_mask(compute_statistics(np.concatenate(rows)))
    entry["num_transitions"] = sum(map(len, actions))
    entry["num_trajectories"] = len(actions)
    return {name: entry}


def _without_mask(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "mask"}


def write_statistics(folder: str | Path, statistics: Mapping[str, Any]) -> Path:
    """Writes dataset_statistics.json, where `load_policy` looks for it beside a checkpoint."""
    path = Path(folder) / FILE_NAME
    path.write_text(json.dumps(statistics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path
