"""Checkpoint directories: what loads, what is refused and why."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla_core.checkpoint import load_checkpoint, load_model, save_checkpoint
from openvla_core.errors import CheckpointError
from openvla_core.model import OpenVLA, OpenVLAConfig


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
    """Loads a checkpoint and saves it again."""
    loaded = load_checkpoint(directory)
    return save_checkpoint(
        target,
        loaded.model,
        loaded.config_json,
        loaded.tokenizer,
        loaded.statistics,
        loaded.preprocessor_config,
        **options,
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
