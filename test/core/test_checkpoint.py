"""Checkpoint directories: what loads, what is refused and why."""

import json
import logging
import os
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla_core import checkpoint_saving, load_policy
from openvla_core.checkpoint import load_checkpoint, load_model, save_checkpoint
from openvla_core.errors import CheckpointError
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.safetensors_file import read_header
from openvla_core.weights import read_tensors, write_weights


@pytest.fixture
def directory(word_checkpoint, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(word_checkpoint, tmp_path / "copy")


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


def resave(directory, target, **options):
    """Loads a checkpoint and saves it again, to be changed by a test."""
    loaded = load_checkpoint(directory)
    return save_checkpoint(
        target,
        loaded.model,
        loaded.config_json,
        loaded.tokenizer,
        loaded.statistics,
        loaded.preprocessor_config,
        **{"checksums": False, **options},
    )


def test_a_saved_checkpoint_loads_equal(word_checkpoint, tmp_path):
    first = load_checkpoint(word_checkpoint).model.state_dict()
    second = load_checkpoint(resave(word_checkpoint, tmp_path / "again")).model.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("with_index", [True, False])
def test_shards_load_with_and_without_an_index(word_checkpoint, tmp_path, with_index):
    target = resave(word_checkpoint, tmp_path / "sharded", max_shard_bytes=20_000)
    assert len(list(target.glob("model-*.safetensors"))) > 2
    if not with_index:
        (target / "model.safetensors.index.json").unlink()
    config = OpenVLAConfig.from_dict(json.loads((target / "config.json").read_text()))
    expected = load_checkpoint(word_checkpoint).model.state_dict()
    for name, tensor in load_model(target, config).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("loaded", ["float32", "bfloat16"])
def test_weights_of_any_precision_load_in_the_one_asked_for(word_checkpoint, tmp_path, stored, loaded):
    target = resave(word_checkpoint, tmp_path / stored, dtype=stored)
    model = load_checkpoint(target, dtype=loaded).model
    assert {tensor.dtype for tensor in model.parameters()} == {getattr(torch, loaded)}
    # Rotary frequencies stay float32: rounded, they shift distant positions.
    assert model.language_model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_loaded_model_computes_what_a_built_one_does(word_checkpoint):
    """Loading builds without memory; buffers outside the state dict must not stay empty."""
    loaded = load_checkpoint(word_checkpoint).model
    built = OpenVLA(loaded.config).eval()
    built.load_state_dict(loaded.state_dict())
    ids, pixels = torch.tensor([[1, 4, 5, 3]]), torch.rand(1, 6, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids, None, pixels).logits, built(ids, None, pixels).logits, rtol=0, atol=0)


def test_dataset_statistics_replace_those_of_the_base(directory):
    edit_json(directory / "config.json", norm_stats={"base": {}})
    assert set(load_checkpoint(directory).statistics) == {"table"}
    (directory / "dataset_statistics.json").unlink()
    assert set(load_checkpoint(directory).statistics) == {"base"}


def test_remote_code_is_ignored_with_one_line(directory, caplog):
    edit_json(directory / "config.json", auto_map={"AutoConfig": "evil.Config"})
    (directory / "evil.py").write_text("raise SystemExit('executed')")
    with caplog.at_level(logging.INFO):
        load_checkpoint(directory)
    assert len([r for r in caplog.records if "auto_map" in r.getMessage()]) == 1


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(directory, name):
    path = directory / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(directory)
    path.unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(directory)


def test_a_missing_weight_is_named(directory):
    edit_weights(directory, lambda state: state.pop("projector.fc2.bias"))
    with pytest.raises(CheckpointError, match=r"lacks 1 weights.*projector\.fc2\.bias"):
        load_checkpoint(directory)


def test_an_unknown_weight_is_named(directory):
    edit_weights(directory, lambda state: state.update({"projector.fc9.bias": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"projector\.fc9\.bias"):
        load_checkpoint(directory)


def test_a_weight_of_another_shape_is_named_with_both(directory):
    edit_weights(directory, lambda state: state.update({"projector.fc2.bias": torch.zeros(5)}))
    with pytest.raises(CheckpointError, match=r"projector\.fc2\.bias with shape \(5,\).*\(16,\)"):
        load_checkpoint(directory)


def test_integer_weights_are_refused(directory):
    edit_weights(directory, lambda state: state.update({"projector.fc2.bias": torch.zeros(16, dtype=torch.int8)}))
    with pytest.raises(CheckpointError, match="I8"):
        load_checkpoint(directory)


def test_stored_rotary_frequencies_are_ignored(directory):
    """Files written by old versions of transformers carry them."""
    name = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(directory, lambda state: state.update({name: torch.zeros(4)}))
    load_checkpoint(directory)


@pytest.fixture
def shards(word_checkpoint, tmp_path):
    """A copy in shards with an index."""
    return resave(word_checkpoint, tmp_path / "shards", max_shard_bytes=20_000)


def test_a_weight_in_two_shards_is_refused(shards):
    first, second = sorted(shards.glob("model-*.safetensors"))[:2]
    name = next(iter(load_file(first)))
    save_file({**load_file(second), name: load_file(first)[name]}, second)
    for has_index in (True, False):
        with pytest.raises(CheckpointError, match=f"{first.name} and again in {second.name}"):
            load_checkpoint(shards)
        if has_index:
            (shards / "model.safetensors.index.json").unlink()


def test_an_index_that_names_another_shard_is_refused(shards):
    index = shards / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    name, other = next(iter(weight_map)), sorted(set(weight_map.values()))[-1]
    edit_json(index, weight_map={**weight_map, name: other})
    with pytest.raises(CheckpointError, match=f"holds {re.escape(name)}; .* says it is in {other}"):
        load_checkpoint(shards)
    edit_json(index, weight_map={**weight_map, "projector.fc9.bias": other})
    with pytest.raises(CheckpointError, match=r"'projector\.fc9\.bias', which no shard holds"):
        load_checkpoint(shards)


def test_a_missing_shard_is_named_without_an_index_too(shards):
    (shards / "model.safetensors.index.json").unlink()
    last = sorted(shards.glob("model-*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {last.name}"):
        load_checkpoint(shards)


def test_two_sets_of_weights_are_ambiguous(shards, word_checkpoint):
    """A merged model saved beside the shards of its base once left the choice to the loader."""
    shutil.copy(word_checkpoint / "model.safetensors", shards)
    with pytest.raises(CheckpointError, match="both model.safetensors and"):
        load_checkpoint(shards)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(directory):
    """Mapped into memory it would end the process with a bus error."""
    path = directory / "model.safetensors"
    stored = read_header(path)
    last = max(stored, key=lambda name: stored[name].start)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="became shorter"):
        dict(read_tensors({last: stored[last]}, "cpu", torch.float32))


def test_large_tensors_are_converted_piece_by_piece(tmp_path):
    """The last piece is shorter than the others."""
    tensor = torch.randn(3, (1 << 22) + 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    save_file({"x": tensor, "empty": torch.zeros(0, 4), "scalar": torch.tensor(2.0)}, tmp_path / "x.safetensors")
    stored = read_header(tmp_path / "x.safetensors")
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        read = dict(read_tensors(stored, "cpu", dtype))
        assert torch.equal(read["x"], tensor.to(dtype))
        assert read["empty"].shape == (0, 4)
        assert read["scalar"] == 2.0


def test_files_are_equal_to_those_of_the_reference_library(directory):
    """The same bytes for every tensor, whoever wrote them."""
    state = load_checkpoint(directory, dtype="bfloat16").model.state_dict()
    write_weights(directory, state, None, 10**9)
    theirs = load_file(directory / "model.safetensors")
    assert theirs.keys() == state.keys()
    assert all(torch.equal(theirs[name], state[name]) for name in state)
    assert all(tensor.dtype == torch.bfloat16 for tensor in theirs.values())


@pytest.mark.parametrize("shard_bytes", [10**9, 700_000])
def test_the_published_files_survive_a_round_trip(golden_checkpoint, tmp_path, shard_bytes):
    """Everything but code is there again: tensors to the bit, tokenizer to the byte, settings of other programs."""
    first = load_checkpoint(golden_checkpoint, dtype="bfloat16")
    second = load_checkpoint(first.save(tmp_path / "again", max_shard_bytes=shard_bytes), dtype="bfloat16")
    names = {path.name for path in golden_checkpoint.iterdir() if path.suffix != ".py"}
    saved = {path.name for path in second.directory.iterdir()}
    assert names - {"model.safetensors"} <= saved
    assert ("model.safetensors.index.json" in saved) is (shard_bytes < 10**9)
    state = second.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.model.state_dict().items())
    assert {tensor.dtype for path in second.directory.glob("*.safetensors") for tensor in load_file(path).values()} == {
        torch.bfloat16
    }
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        assert (second.directory / name).read_bytes() == (golden_checkpoint / name).read_bytes()
    for name in ("config.json", "preprocessor_config.json", "dataset_statistics.json"):
        assert json.loads((second.directory / name).read_text()) == json.loads((golden_checkpoint / name).read_text())
    policies = [load_policy(path, decoding="reference") for path in (golden_checkpoint, second.directory)]
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    tokens = [policy.predict_action_tokens(image, "pick up the cup", "toy_arm") for policy in policies]
    assert np.array_equal(*tokens)


def test_a_saved_config_says_what_was_saved(word_checkpoint, tmp_path):
    """The published code takes class, precision and statistics from config.json alone."""
    saved = load_checkpoint(word_checkpoint).save(tmp_path / "half", dtype="bfloat16")
    config = json.loads((saved / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    assert config["architectures"] == ["OpenVLAForActionPrediction"]
    assert config["norm_stats"] == json.loads((saved / "dataset_statistics.json").read_text())


def test_code_is_not_copied_along(directory, tmp_path):
    (directory / "modeling_prismatic.py").write_text("raise SystemExit")
    saved = load_checkpoint(directory).save(tmp_path / "again")
    assert not list(saved.glob("*.py"))


def test_statistics_that_are_not_finite_are_not_saved(word_checkpoint, tmp_path):
    checkpoint = load_checkpoint(word_checkpoint)
    checkpoint.statistics = {"table": {"action": {"q01": [float("nan")]}}}
    with pytest.raises(
        CheckpointError, match=r"dataset_statistics\.json cannot be written|config\.json cannot be written"
    ):
        checkpoint.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_disagreeing_vocabularies_are_named(directory):
    """Says which of config.json, tokenizer and weights stands alone."""
    edit_json(directory / "config.json", text_config={**text_config(directory), "vocab_size": 640})
    with pytest.raises(CheckpointError, match=r"vocab_size 640, but .*embed_tokens\.weight has 576 rows and .*lm_head"):
        load_checkpoint(directory)
    edit_json(directory / "config.json", text_config={**text_config(directory), "vocab_size": 576})
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    edit_json(
        directory / "tokenizer.json", model={**tokenizer["model"], "vocab": {**tokenizer["model"]["vocab"], "x": 900}}
    )
    with pytest.raises(CheckpointError, match=r"576 \(as .*rows\), but tokenizer\.json has ids up to 900"):
        load_checkpoint(directory)


def text_config(directory):
    return json.loads((directory / "config.json").read_text())["text_config"]


def test_a_tokenizer_that_ends_the_prompt_is_refused(directory):
    """The model would see the end of the sentence before it answers."""
    template = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    special = {token: {"id": token, "ids": [i], "tokens": [token]} for i, token in ((1, "<s>"), (2, "</s>"))}
    post = {**tokenizer["post_processor"], "single": [*template, end], "special_tokens": special}
    edit_json(directory / "tokenizer.json", post_processor=post)
    with pytest.raises(CheckpointError, match="nothing else added"):
        load_checkpoint(directory)


def test_a_panic_inside_the_tokenizer_is_our_error(directory):
    """It raises what `except Exception` does not catch, when a template names a token that is not listed."""
    post = json.loads((directory / "tokenizer.json").read_text())["post_processor"]
    post["special_tokens"] = {}
    edit_json(directory / "tokenizer.json", post_processor=post)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        load_checkpoint(directory)


def test_everything_cheap_is_checked_before_a_weight_is_read(directory, monkeypatch):
    """A 15 GB checkpoint with a damaged card fails in a moment, not in a minute."""
    monkeypatch.setattr("openvla_core.checkpoint.read_tensors", lambda *_: pytest.fail("weights were read"))
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "dataset_statistics.json",
                 "action_convention.json", "training_card.json"):  # fmt: skip
        whole = (directory / name).read_bytes()
        (directory / name).write_bytes(whole[:-5])
        with pytest.raises(CheckpointError, match=re.escape(name)):
            load_checkpoint(directory)
        (directory / name).write_bytes(whole)
    edit_weights(directory, lambda state: state.pop("projector.fc2.bias"))
    with pytest.raises(CheckpointError, match=r"projector\.fc2\.bias"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a":' * 70 + "1" + "}" * 70, "deeper than 64"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": 1e999}', "too large"),
        ('{"a": 99999999999999999999}', "too large"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{"a": "\\ud800"}', "surrogates"),
        ('["a"]', "holds a list"),
        ("", "Expecting value"),
        ('{"a": "' + "x" * 16_000_000 + '"}', "more than 16 MB"),
    ],
)
def test_json_that_a_checkpoint_never_has_is_refused(directory, text, reason):
    (directory / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(directory)


def test_text_in_another_encoding_is_refused(directory):
    (directory / "config.json").write_bytes('{"name": "é"}'.encode("latin-1"))
    with pytest.raises(CheckpointError, match="utf-8"):
        load_checkpoint(directory)


def test_a_file_that_is_a_pipe_is_not_waited_for(directory):
    for name in ("config.json", "dataset_statistics.json", "model.safetensors", "tokenizer.json"):
        whole = (directory / name).read_bytes()
        (directory / name).unlink()
        os.mkfifo(directory / name)
        with pytest.raises(CheckpointError, match=re.escape(name)):
            load_checkpoint(directory)
        (directory / name).unlink()
        (directory / name).write_bytes(whole)


def test_a_device_that_is_not_there_is_an_error(word_checkpoint):
    with pytest.raises(CheckpointError, match="'cuda:99' cannot be used"):
        load_checkpoint(word_checkpoint, device="cuda:99")


def test_a_missing_shard_is_named(word_checkpoint, tmp_path):
    target = resave(word_checkpoint, tmp_path / "sharded", max_shard_bytes=20_000)
    shard = sorted(target.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        load_checkpoint(target)


def test_an_index_cannot_point_outside_the_checkpoint(directory):
    weight_map = {"projector.fc2.bias": "../secret.safetensors"}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="outside"):
        load_checkpoint(directory)


def test_pickles_are_not_read(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*could run code"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"n_action_bins": 128}, "n_action_bins"),
        ({"vision_backbone_id": "resnet"}, "resnet"),
        ({"timm_model_ids": ["resnet50"]}, "equally many"),
        ({"timm_model_ids": ["resnet50", "resnet50"]}, "resnet50"),
        ({"timm_model_kwargs": [{"patch_size": 7}, {}]}, "patch_size"),
        ({"timm_model_kwargs": [{"depth": 1}, {}]}, "depth"),
        ({"image_sizes": [112, 224]}, "patch grids"),
        ({"image_sizes": ["a", "b"]}, "image_sizes"),
        ({"pad_to_multiple_of": 576}, "do not fit"),
        ({"text_config": {"model_type": "qwen2"}}, "qwen2"),
        ({"text_config": {"vocab_size": 576, "hidden_size": 30}}, "hidden_size"),
        ({"text_config": {"vocab_size": 576, "tie_word_embeddings": True}}, "tie_word_embeddings"),
        ({"timm_override_act_layers": ["quick_gelu", None]}, "quick_gelu"),
        ({"image_sizes": [224, 224]}, "preprocessor_config"),
        ({"text_config": []}, r"text_config \[\]; expected an object"),
        ({"text_config": {"vocab_size": "576"}}, "vocab_size '576'"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers 1000000000"),
        ({"text_config": {"hidden_size": 10**12}}, "hidden_size"),
        ({"text_config": {"rms_norm_eps": "abc"}}, "rms_norm_eps 'abc'"),
        ({"text_config": {"rms_norm_eps": -1e-6}}, "rms_norm_eps -1e-06"),
        ({"text_config": {"num_attention_heads": 32, "num_key_value_heads": 5}}, "5 for key_value"),
        ({"text_config": {"rope_theta": 0}}, "rope_theta 0"),
        ({"text_config": {"rope_parameters": {"rope_type": "yarn"}}}, "yarn"),
        ({"text_config": {"vocab_size": 576, "eos_token_id": 576}}, "eos_token_id 576"),
        ({"pad_token_id": 5_000_000}, "pad_token_id"),
        ({"timm_model_kwargs": [1, {}]}, "timm_model_kwargs 1; expected an object"),
        ({"timm_model_kwargs": 7}, "timm_model_kwargs 7; expected a list"),
        ({"timm_model_kwargs": [{"depth": 10**9}, {}]}, "depth 1000000000"),
        ({"timm_model_kwargs": [{"mlp_ratio": True}, {}]}, "mlp_ratio True"),
        ({"timm_model_ids": [["a"], "b"]}, "not known"),
        ({"image_sizes": [10**9, 10**9]}, "image_sizes has image_size 1000000000"),
        ({"image_resize_strategy": 3}, "image_resize_strategy 3"),
        ({"norm_stats": [1], "vision_backbone_id": ["x"]}, "vision_backbone_id"),
    ],
)
def test_a_configuration_this_model_cannot_follow_is_refused(directory, changes, reason):
    edit_json(directory / "config.json", **changes)
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(directory)


def test_a_tokenizer_without_the_beginning_token_is_refused(directory):
    edit_json(directory / "tokenizer.json", post_processor=None)
    with pytest.raises(CheckpointError, match="beginning-of-sequence"):
        load_checkpoint(directory)


def test_a_name_on_a_hub_is_not_downloaded():
    with pytest.raises(CheckpointError, match="nothing is downloaded"):
        load_checkpoint("openvla/openvla-7b")


def test_an_adapter_directory_is_recognised(golden):
    with pytest.raises(CheckpointError, match="adapter="):
        load_checkpoint(golden / "fused_mini" / "lora_adapter")


def test_an_unknown_precision_is_refused(word_checkpoint):
    with pytest.raises(CheckpointError, match="float64"):
        load_checkpoint(word_checkpoint, dtype="float64")


def test_saving_never_replaces_a_directory_unasked(directory, word_checkpoint):
    with pytest.raises(CheckpointError, match="already exists"):
        resave(word_checkpoint, directory)
    (directory / "stale.txt").write_text("old")
    resave(word_checkpoint, directory, overwrite=True)
    assert not (directory / "stale.txt").exists()


def test_a_failed_save_leaves_nothing_behind(word_checkpoint, tmp_path):
    loaded = load_checkpoint(word_checkpoint)
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer"):
        save_checkpoint(
            tmp_path / "out", loaded.model, loaded.config_json, broken, loaded.statistics, loaded.preprocessor_config
        )
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_state_dict_that_could_not_be_loaded_is_not_saved(word_checkpoint, tmp_path):
    loaded = load_checkpoint(word_checkpoint)
    state = {f"module.{name}": tensor for name, tensor in loaded.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"module\."):
        save_checkpoint(tmp_path / "out", state, loaded.config_json, loaded.tokenizer, {}, loaded.preprocessor_config)


def test_every_file_of_a_checkpoint_is_as_readable_as_the_next(word_checkpoint):
    """The weights were once private to their writer: another user on the robot could not load the checkpoint."""
    assert len({path.stat().st_mode & 0o777 for path in word_checkpoint.iterdir()}) == 1


def test_an_overwrite_that_is_interrupted_leaves_the_old_checkpoint(word_checkpoint, tmp_path, monkeypatch):
    directory = tmp_path / "mine"
    resave(word_checkpoint, directory)
    before = sorted(path.name for path in directory.iterdir())
    rename = checkpoint_saving.os.rename
    calls = []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(checkpoint_saving.os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resave(word_checkpoint, directory, overwrite=True)
    assert sorted(path.name for path in directory.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
