"""What can be told about the way through Megatron-Energon without it: its files, and what comes back from a shard."""

import sys
import tarfile

import numpy as np
import pytest
import yaml
from made_episodes import made

from openvla_core.datasets.oxe.mixture import mixture_of
from openvla_core.datasets.streaming.energon import PREPARED, step_of, task_encoder, write_metadataset
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.datasets.streaming.shards import ShardSource
from openvla_core.errors import DatasetError


def test_samples_of_a_shard_are_the_same_steps(tmp_path):
    write_shards(made("cubes", [4, 3]), tmp_path / "cubes", "cubes", shard_steps=100)
    source = ShardSource(tmp_path / "cubes")
    with tarfile.open(tmp_path / "cubes" / "cubes-000000.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    for index in range(7):
        direct = source[index]
        key = f"{direct.episode:08d}_{direct.index:05d}"
        step = step_of({"__key__": key, "jpg": files[f"{key}.jpg"], "json": files[f"{key}.json"]})
        assert (step.dataset, step.episode, step.index, step.image) == (
            "cubes",
            direct.episode,
            direct.index,
            direct.image,
        )
        np.testing.assert_array_equal(step.actions, direct.actions)
        np.testing.assert_array_equal(step.state["pose"], direct.state["pose"])


def test_a_decoded_sample_is_refused():
    with pytest.raises(DatasetError, match="undecoded"):
        step_of({"jpg": np.zeros((2, 2, 3)), "json": b"{}"})


def test_the_metadataset_has_the_mixture_s_shares(tmp_path):
    mixture = mixture_of(["one", "two"], [100, 50], [1.0, 2.0])
    folders = {name: tmp_path / name for name in mixture.names}
    with pytest.raises(DatasetError, match="energon prepare` on the shards of one, two"):
        write_metadataset(tmp_path / "mixture.yaml", mixture, folders)
    for folder in folders.values():
        (folder / PREPARED).parent.mkdir(parents=True)
        (folder / PREPARED).write_text("{}", encoding="utf-8")
    write_metadataset(tmp_path / "mixture.yaml", mixture, folders)
    written = yaml.safe_load((tmp_path / "mixture.yaml").read_text(encoding="utf-8"))
    blend = written["splits"]["train"]["blend"]
    assert [(entry["weight"], entry["path"]) for entry in blend] == [
        (0.5, str(folders["one"])),
        (0.5, str(folders["two"])),
    ]


def test_without_energon_it_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "megatron", None)
    with pytest.raises(DatasetError, match="pip install megatron-energon"):
        task_encoder(lambda step, rng: step, list)
