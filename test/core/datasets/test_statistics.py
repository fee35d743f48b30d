"""The statistics of a data set are those a checkpoint carries."""

import json
import shutil

import numpy as np
import pytest

from openvla_core import load_policy
from openvla_core.action_statistics import statistics_of
from openvla_core.datasets.episode import Episode
from openvla_core.datasets.statistics import dataset_statistics, write_statistics
from openvla_core.errors import DatasetError, StatisticsError


def episode(name: str, actions, **state) -> Episode:
    actions = np.asarray(actions, dtype=np.float32)
    return Episode(name, "x", {}, actions, state, np.arange(len(actions)) * 0.2, 5.0)


@pytest.fixture
def episodes():
    rng = np.random.default_rng(0)
    return [
        episode(f"e{i}", rng.normal(0, 0.02, (30 + i, 7)), pose=rng.normal(0, 1, (30 + i, 7)),
                gripper=rng.uniform(0, 1, (30 + i, 1)))
        for i in range(10)
    ]  # fmt: skip


def test_they_describe_all_steps_together(episodes):
    entry = dataset_statistics("lab", iter(episodes))["lab"]
    rows = np.concatenate([e.actions for e in episodes]).astype(np.float64)
    np.testing.assert_allclose(entry["action"]["mean"], rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(entry["action"]["q99"], np.quantile(rows, 0.99, axis=0), rtol=1e-12)
    assert entry["action"]["mask"] == [True] * 6 + [False]
    assert (entry["num_transitions"], entry["num_trajectories"]) == (345, 10)
    assert len(entry["proprio"]["mean"]) == 8
    assert "mask" not in entry["proprio"]


def test_a_checkpoint_takes_them(episodes, golden_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(golden_checkpoint, folder)
    write_statistics(folder, dataset_statistics("lab", episodes))
    policy = load_policy(folder, unnorm_key="lab")
    row = episodes[0].actions[0].astype(np.float64)
    there = statistics_of(policy.statistics, "lab")
    inside = np.clip(row, there.q01, there.q99)
    inside[6] = row[6]
    np.testing.assert_allclose(there.unnormalize(there.normalize(row)), inside, atol=1e-6)


def test_the_file_is_plain_json(episodes, tmp_path):
    path = write_statistics(tmp_path, dataset_statistics("lab", episodes))
    assert list(json.loads(path.read_text())) == ["lab"]


def test_a_part_that_one_episode_lacks_is_left_out_for_all(episodes):
    entry = dataset_statistics("lab", [*episodes, episode("bare", np.ones((3, 7)), pose=np.ones((3, 7)))])["lab"]
    assert len(entry["proprio"]["mean"]) == 7


def test_no_steps_no_statistics():
    with pytest.raises(DatasetError, match="no steps"):
        dataset_statistics("lab", [])
    with pytest.raises(DatasetError, match="no steps"):
        dataset_statistics("lab", [episode("e", np.empty((0, 7)))])


def test_one_kind_of_action(episodes):
    with pytest.raises(DatasetError, match="14 numbers"):
        dataset_statistics("lab", [*episodes, episode("two arms", np.ones((3, 14)))])


def test_nan_is_refused(episodes):
    with pytest.raises(StatisticsError):
        dataset_statistics("lab", [*episodes, episode("nan", np.full((3, 7), np.nan))])
