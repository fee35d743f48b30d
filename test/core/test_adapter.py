"""LoRA adapters: what does not fit or could run code is refused, and nothing is looked up anywhere."""

import json
import shutil
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from openvla_core import load_policy
from openvla_core.adapter import attach_adapter, describe_adapter, merge_adapter
from openvla_core.checkpoint import load_model
from openvla_core.errors import CheckpointError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def adapter(golden, tmp_path):
    """A copy of the golden adapter, to be damaged."""
    return shutil.copytree(golden / "fused_mini" / "lora_adapter", tmp_path / "adapter")


@pytest.fixture
def model(golden_checkpoint, golden_policy):
    """The golden model without its tokenizer, which takes longer to read."""
    return load_model(golden_checkpoint, golden_policy.config)


@pytest.fixture(scope="module")
def untouched_model(golden_checkpoint, golden_policy):
    """For adapters that are refused before any layer is added; the last test of the file looks whether that is so."""
    return load_model(golden_checkpoint, golden_policy.config)


def change_config(adapter, **changes):
    path = adapter / CONFIG
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def change_weights(adapter, change):
    state = load_file(adapter / WEIGHTS)
    change(state)
    save_file(state, adapter / WEIGHTS)


def test_attached_and_merged_answer_with_the_same_tokens(golden, golden_checkpoint, golden_answers, golden_policy):
    folder = golden / "fused_mini" / "lora_adapter"
    attached = load_policy(golden_checkpoint, decoding="constrained", adapter=folder)
    merged = load_policy(golden_checkpoint, decoding="constrained")
    merge_adapter(merged.model, folder)
    changed = 0
    for entry in golden_answers["samples"][:3]:
        image = np.asarray(Image.open(golden / "images" / entry["image"]).convert("RGB"))
        ids = attached.predict_action_tokens(image, entry["task"], unnorm_key="toy_arm")
        np.testing.assert_array_equal(merged.predict_action_tokens(image, entry["task"], unnorm_key="toy_arm"), ids)
        changed += int((ids != golden_policy.predict_action_tokens(image, entry["task"], unnorm_key="toy_arm")).sum())
    assert changed > 0, "an adapter that changes no answer shows nothing"
    attached.check_vision()


def test_no_network_is_touched_whatever_base_the_adapter_names(adapter, model, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("an adapter was looked up on the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    change_config(adapter, base_model_name_or_path="openvla/openvla-7b", revision="main", task_type="CAUSAL_LM")
    attach_adapter(model, adapter)


def test_code_that_the_configuration_names_is_never_imported(adapter, model):
    change_config(adapter, auto_mapping={"base_model_class": "Exploit", "parent_library": "module_that_is_not_there"})
    attach_adapter(model, adapter)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "only 'LORA'"),
        ({"peft_type": ...}, "only 'LORA'"),
        ({"peft_type": ["LORA"]}, "only 'LORA'"),
        ({"r": ...}, "lacks r"),
        ({"lora_alpha": ...}, "lacks lora_alpha"),
        ({"target_modules": ...}, "lacks target_modules"),
        ({"r": 0}, "ranks"),
        ({"r": 10**9}, "ranks"),
        ({"r": "32"}, "r '32'; expected int"),
        ({"r": True}, "r 'True'; expected int"),
        ({"lora_alpha": None}, "lora_alpha 'None'; expected int or float"),
        ({"target_modules": 7}, "target_modules"),
        ({"target_modules": [["q_proj"]]}, "target_modules"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": "a"}}, "ranks"),
        ({"use_dora": "yes"}, "use_dora"),
        ({"bias": "all"}, "more than plain LoRA"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"a_field_of_the_future": {"on": True}}, "a_field_of_the_future"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_refused(adapter, untouched_model, changes, words):
    change_config(adapter, **changes)
    with pytest.raises(CheckpointError, match=words):
        attach_adapter(untouched_model, adapter)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_modules": []}, "does not fit"),
        ({"target_modules": ["q_proj", "nonsense"]}, "nonsense, which this checkpoint does not have"),
        ({"target_modules": "no_such_layer"}, "does not fit"),
        ({"target_modules": "(((("}, "does not fit"),
        ({"target_modules": ["q_proj"]}, "holds unknown"),
        ({"use_dora": True}, "lacks"),
        ({"r": 16}, "does not fit"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_or_the_model_is_refused(adapter, model, changes, words):
    change_config(adapter, **changes)
    with pytest.raises(CheckpointError, match=words):
        attach_adapter(model, adapter)


@pytest.mark.parametrize("text", ["", "[]", "7", "{", '{"peft_type": NaN}'])
def test_a_configuration_that_is_no_object_is_refused(adapter, untouched_model, text):
    (adapter / CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match=CONFIG):
        attach_adapter(untouched_model, adapter)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_an_incomplete_directory_is_refused(adapter, untouched_model, name):
    (adapter / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        attach_adapter(untouched_model, adapter)


def test_a_directory_that_is_not_there_is_refused(untouched_model, tmp_path):
    with pytest.raises(CheckpointError, match="openvla/some-adapter"):
        attach_adapter(untouched_model, "openvla/some-adapter")


def test_pickled_weights_are_refused_with_advice(adapter, untouched_model):
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"could run code.*safe_serialization=True"):
        attach_adapter(untouched_model, adapter)


def first_name(state):
    return sorted(name for name in state if "q_proj.lora_A" in name)[0]


def remove_one(state):
    del state[first_name(state)]


def rename_one(state):
    state["base_model.model.elsewhere.lora_A.weight"] = state.pop(first_name(state))


def widen_one(state):
    state[first_name(state)] = torch.zeros(32, 17)


def make_whole_numbers(state):
    state[first_name(state)] = state[first_name(state)].to(torch.int32)


def make_nan(state):
    state[first_name(state)][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove_one, "lacks 1 weights"),
        (rename_one, "elsewhere|lacks 1 weights"),
        (widen_one, "does not fit.*size mismatch"),
        (make_whole_numbers, "expected bf16, fp16 or fp32"),
        (make_nan, "not finite"),
        (dict.clear, "holds no weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused(adapter, model, change, words):
    change_weights(adapter, change)
    with pytest.raises(CheckpointError, match=words) as caught:
        attach_adapter(model, adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 7, 100, 20_000])
def test_truncated_weights_are_refused(adapter, untouched_model, size):
    data = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(data[:size])
    with pytest.raises(CheckpointError, match=WEIGHTS):
        merge_adapter(untouched_model, adapter)


def test_an_adapter_of_another_base_is_refused(adapter, word_checkpoint):
    """The same layers in other sizes."""
    with pytest.raises(CheckpointError, match="does not fit"):
        load_policy(word_checkpoint, adapter=adapter)


def test_an_adapter_is_described_without_its_base(adapter):
    facts = describe_adapter(adapter)
    assert (facts.rank, facts.alpha, facts.parameters) == (32, 16.0, 1_279_680)
    assert "q_proj" in facts.targets


def test_merging_an_adapter_that_adds_nothing_changes_nothing(model, adapter):
    """With every B matrix at zero an adapter adds nothing, to the last bit."""
    change_weights(adapter, lambda state: [tensor.zero_() for name, tensor in state.items() if "lora_B" in name])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merge_adapter(model, adapter)
    after = model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_an_adapter_refused_while_reading_adds_nothing(adapter, untouched_model):
    change_config(adapter, r=0)
    with pytest.raises(CheckpointError, match="ranks"):
        attach_adapter(untouched_model, adapter)
    assert not any("lora" in name for name, _ in untouched_model.named_modules())
