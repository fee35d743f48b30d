"""What each strategy trains, on a tiny model; the published counts are in test/golden/test_golden_fullsize.py."""

import json

import pytest
import torch
from safetensors.torch import save_file

from openvla_core.adapter import attach_adapter, merge_adapter
from openvla_core.checkpoint import load_checkpoint
from openvla_core.errors import ConfigError
from openvla_core.training.distributed import Ranks
from openvla_core.training.lora import LoraSettings, adapter_config, adapter_tensors, initial_value, target_names
from openvla_core.training.loss import RowModel
from openvla_core.training.recipe import Recipe, resolved
from openvla_core.training.setup import fingerprint, prepare_model
from openvla_core.training.strategies import choose_trainable
from openvla_core.weights import stored_tensors

HEAD, EMBEDDING = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"


def prepared(checkpoint, **values):
    base = load_checkpoint(checkpoint, read_weights=False, attn_implementation="eager")
    return prepare_model(base, resolved(Recipe(**values)), Ranks())


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[1, 5, 6, 7, 3, 300, 301, 2]])
    return ids, torch.randn(1, 6, 112, 112, generator=generator), torch.arange(60, 70)


def test_parts_are_trained_as_named(word_checkpoint):
    def starts(strategy):
        base = load_checkpoint(word_checkpoint, read_weights=False)
        return {".".join(name.split(".")[:2]) for name in choose_trainable(base.model, strategy)}

    language = {"language_model.model", "language_model.lm_head"}
    projector = {"projector.fc1", "projector.fc2", "projector.fc3"}
    vision = {"vision_backbone.featurizer", "vision_backbone.fused_featurizer"}
    assert starts("full") == vision | projector | language
    assert starts("frozen-vision") == projector | language
    assert starts("sandwich") == vision | projector | language
    assert starts("last-layer") == language


def test_of_the_decoder_the_ends_are_trained_but_not_the_final_norm(word_checkpoint):
    base = load_checkpoint(word_checkpoint, read_weights=False)
    names = set(choose_trainable(base.model, "last-layer"))
    assert {HEAD, EMBEDDING} <= names
    assert {name.split(".")[3] for name in names if ".layers." in name} == {"1"}
    assert "language_model.model.norm.weight" not in names


def test_unknown_names_are_refused(word_checkpoint):
    base = load_checkpoint(word_checkpoint, read_weights=False)
    with pytest.raises(ConfigError, match="last-layer"):
        choose_trainable(base.model, "last_layer")
    with pytest.raises(ConfigError, match="reference, modern"):
        target_names(base.model, "all")


def test_weights_are_those_of_the_checkpoint(word_checkpoint, inputs):
    whole = RowModel(load_checkpoint(word_checkpoint, attn_implementation="eager").model)
    for strategy in ("full", "lora"):
        module, _ = prepared(word_checkpoint, strategy=strategy)
        assert torch.equal(module(*inputs), whole(*inputs)), strategy


def test_frozen_weights_are_of_the_computed_kind_and_trained_ones_exact(word_checkpoint):
    module, trainable = prepared(word_checkpoint, strategy="last-layer", dtype="bfloat16")
    kinds = {name: parameter.dtype for name, parameter in module.model.named_parameters()}
    assert {kinds[name] for name in trainable} == {torch.float32}
    assert {kind for name, kind in kinds.items() if name not in trainable} == {torch.bfloat16}


def test_adapters_begin_as_nothing_and_depend_on_name_and_seed():
    settings, name = LoraSettings(rank=4), "projector.fc1.lora_A.default.weight"
    first = initial_value(name, torch.Size([4, 1000]), settings, seed=1)
    assert torch.equal(first, initial_value(name, torch.Size([4, 1000]), settings, seed=1))
    assert not torch.equal(first, initial_value(name, torch.Size([4, 1000]), settings, seed=2))
    assert first.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert initial_value(name.replace("_A", "_B"), torch.Size([1000, 4]), settings, seed=1) is None


@pytest.mark.parametrize("targets", ["reference", "modern"])
def test_adapters_are_read_again_by_the_policy(word_checkpoint, inputs, tmp_path, targets):
    module, trainable = prepared(word_checkpoint, strategy="lora", lora_rank=4, lora_targets=targets)
    with torch.no_grad():
        for parameter in trainable.values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter)))
    expected = module(*inputs)
    settings = LoraSettings(rank=4, alpha=4.0, targets=targets)
    save_file(adapter_tensors(dict(module.model.named_parameters())), tmp_path / "adapter_model.safetensors")
    values = adapter_config(module.model, settings, "words")
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    for put in (attach_adapter, merge_adapter):
        model = load_checkpoint(word_checkpoint, attn_implementation="eager").model
        put(model, tmp_path)
        assert (RowModel(model)(*inputs) - expected).abs().max() <= 1e-5
    assert ("language_model.lm_head" in values["target_modules"]) is (targets == "reference")


def test_quantized_training_needs_a_gpu_and_whole_copies(word_checkpoint):
    with pytest.raises(ConfigError, match="GPU"):
        prepared(word_checkpoint, strategy="qlora")
    with pytest.raises(ConfigError, match="spread"):
        prepared(word_checkpoint, strategy="qlora", sharding="node")


def test_another_checkpoint_of_the_same_sizes_has_another_fingerprint(word_checkpoint, tmp_path):
    first = load_checkpoint(word_checkpoint)
    same, other = first.save(tmp_path / "same"), tmp_path / "other"
    with torch.no_grad():
        first.model.projector.fc1.bias[0] += 1.0
    first.save(other)
    prints = [fingerprint(stored_tensors(path)) for path in (word_checkpoint, same, other)]
    assert prints[0] == prints[1] != prints[2]
