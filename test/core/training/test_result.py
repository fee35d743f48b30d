"""What a training leaves is loaded as it is, and only when all of it is there."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch

from openvla_core import load_policy
from openvla_core.checkpoint import load_checkpoint
from openvla_core.errors import CheckpointError
from openvla_core.training.lora import LoraSettings, adapter_config, adapter_tensors, add_adapters
from openvla_core.training.result import Adapter, Result, write_result

STATISTICS = {"mine": {"action": {"q01": [-0.5] * 7, "q99": [0.5] * 7, "mask": [True] * 6 + [False]}}}
CARD = {"steps": 3, "instructions": ["pick up the red cube"]}


@pytest.fixture
def base(word_checkpoint):
    return load_checkpoint(word_checkpoint)


@pytest.fixture
def result(base):
    """All weights, each a little larger than before."""
    weights = {name: tensor * 1.01 for name, tensor in base.model.state_dict().items()}
    return Result(base=base, weights=weights, statistics=STATISTICS, card=CARD, report="<!doctype html>")


@pytest.fixture
def adapter(word_checkpoint):
    """The adapter of a model whose every factor B is not zero any more."""
    settings = LoraSettings(rank=4, alpha=4.0)
    model = load_checkpoint(word_checkpoint, read_weights=False).model
    add_adapters(model, settings)
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) * 0.05
        for name, tensor in adapter_tensors(model.state_dict()).items()
    }
    return Adapter(adapter_config(model, settings, "words"), tensors)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_result_is_a_policy_with_the_trained_weights_and_the_statistics_of_the_data(result, tmp_path):
    policy = load_policy(write_result(tmp_path / "out", result), verify=True)
    state = policy.model.state_dict()
    assert [name for name in state if not torch.equal(state[name], result.weights[name])] == []
    assert policy.statistics == STATISTICS
    assert policy.training_instructions == ("pick up the red cube",)
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert policy.predict_action(picture, "pick up the red cube").shape == (7,)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["norm_stats"] == STATISTICS
    assert not [name for name in names(tmp_path / "out") if name.startswith(".")]


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_lands_merged_or_beside_its_base(result, adapter, word_checkpoint, tmp_path, merge):
    adapter = dataclasses.replace(adapter, merge=merge)
    out = write_result(tmp_path / "out", dataclasses.replace(result, weights=adapter))
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    alone = out / "adapter" if merge else out
    attached = load_policy(word_checkpoint, adapter=alone)
    expected = attached.predict(picture, "pick up the red cube", unnorm_key=next(iter(attached.statistics)))
    given = load_policy(out).predict(picture, "pick up the red cube")
    assert given.unnorm_key == "mine"
    np.testing.assert_array_equal(given.tokens.ids, expected.tokens.ids)
    np.testing.assert_allclose(given.tokens.probabilities, expected.tokens.probabilities, rtol=1e-3)
    plain = load_policy(word_checkpoint).predict(picture, "pick up the red cube", unnorm_key=expected.unnorm_key)
    assert not np.allclose(plain.tokens.probabilities, expected.tokens.probabilities, rtol=1e-2)
    assert (out / "model.safetensors").is_symlink() is not merge


def test_interrupted_between_any_two_files_it_is_refused_or_complete(result, tmp_path, monkeypatch):
    """An earlier result is there; what is loaded is never half of each."""
    out = tmp_path / "out"
    write_result(out, result)
    later = dataclasses.replace(result, weights={name: -t for name, t in result.weights.items()}, card={"steps": 9})
    replace, refused = os.replace, 0
    for survived in range(20):
        left = [survived]

        def dies(source, target, left=left):
            if str(target).startswith(str(out)) and "SHA256" not in str(source.name)[1:7]:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return replace(source, target)

        monkeypatch.setattr(os, "replace", dies)
        try:
            write_result(out, later)
        except KeyboardInterrupt:
            refused += 1
            with pytest.raises(CheckpointError):
                load_checkpoint(out)
            assert not [name for name in names(out) if name.startswith(".")]
            continue
        finally:
            monkeypatch.setattr(os, "replace", replace)
        break
    assert refused > 5
    checkpoint = load_checkpoint(out)
    assert checkpoint.training_card == {"steps": 9}
    assert torch.equal(checkpoint.model.projector.fc1.weight, later.weights["projector.fc1.weight"])


def test_a_new_result_leaves_nothing_of_the_old_one_and_everything_else(result, adapter, tmp_path):
    out = tmp_path / "out"
    write_result(out, dataclasses.replace(result, weights=dataclasses.replace(adapter, merge=False)))
    (out / "checkpoints").mkdir()
    write_result(out, result)
    assert not {"adapter_config.json", "adapter_model.safetensors", "adapter"} & set(names(out))
    assert {"checkpoints", "model.safetensors", "report.html"} <= set(names(out))
    load_policy(out, verify=True)


def test_weights_are_stored_as_the_base_stores_its_own(result, word_checkpoint, tmp_path):
    """A training keeps its weights in float32; the file shall not become twice as large."""
    load_checkpoint(word_checkpoint, dtype="bfloat16").save(tmp_path / "half")
    half = load_checkpoint(tmp_path / "half")
    out = write_result(tmp_path / "out", dataclasses.replace(result, base=half))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", out)]
    assert sizes[0] == sizes[1]


def test_incomplete_weights_are_not_written(result, tmp_path):
    weights = {name: tensor for name, tensor in result.weights.items() if name != "projector.fc1.weight"}
    with pytest.raises(CheckpointError, match="projector.fc1.weight"):
        write_result(tmp_path / "out", dataclasses.replace(result, weights=weights))
    assert names(tmp_path / "out") == []
