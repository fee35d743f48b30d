"""A LoRA adapter of the published training script gives its logits, attached and merged."""

import pytest
import torch
from golden_tools import distance, to_double

from openvla_core.adapter import attach_adapter, merge_adapter
from openvla_core.checkpoint import load_checkpoint
from openvla_core.json_file import read_json

FIRST_ID = 31744
APPLY = {"attached": attach_adapter, "merged": merge_adapter}
KEYS = {"attached": "lora.last_pos_action_logits", "merged": "lora.merged_last_pos_action_logits"}


@pytest.fixture(scope="module")
def facts(golden_answers):
    return golden_answers["lora"]


@pytest.fixture(scope="module")
def logits(golden, golden_checkpoint, samples, facts):
    """{way: {dtype: logits of the 320 last ids at the last position of the prompt}}"""
    sample = samples[facts["sample"]]
    ids, pixels = torch.tensor([sample.answers["input_ids"]]), sample.tensors["pixel_values"]

    @torch.no_grad()
    def run(apply, double):
        model = load_checkpoint(golden_checkpoint).model
        if double:
            to_double(model)
        apply(model, golden / "fused_mini" / "lora_adapter")
        if double:
            to_double(model)
        return model(ids, None, pixels).logits[0, -1, FIRST_ID:]

    return {way: {dtype: run(APPLY[way], dtype == "float64") for dtype in ("float32", "float64")} for way in APPLY}


def test_the_adapter_is_the_described_one(golden, golden_checkpoint, facts):
    config = read_json(golden / "fused_mini" / "lora_adapter" / "adapter_config.json")
    assert (config["r"], config["lora_alpha"]) == (facts["r"], facts["alpha"])
    model = load_checkpoint(golden_checkpoint).model
    attach_adapter(model, golden / "fused_mini" / "lora_adapter")
    added = {f"base_model.model.{name}": p for name, p in model.named_parameters() if ".lora_" in name}
    assert set(added) == set(facts["trainable_tensor_names"])
    assert sum(p.numel() for p in added.values()) == facts["n_trainable_params"]
    assert all(bool(p.any()) for p in added.values())


def test_logits_agree_in_float64(logits, tensors, facts):
    """Attached and merged are one function, and both published float32 results of it are within 1e-4."""
    attached, merged = (logits[way]["float64"] for way in ("attached", "merged"))
    assert distance(attached, merged) <= 1e-9
    for key in KEYS.values():
        assert distance(attached, tensors[key]) <= 1e-4
    apart = distance(*(tensors[key] for key in KEYS.values()))
    assert apart == pytest.approx(facts["merge_max_abs_diff"])


@pytest.mark.parametrize("way", APPLY)
def test_logits_agree_in_float32(logits, tensors, way):
    """Each float32 result, theirs and ours, is up to 1e-4 from float64: these weights amplify rounding."""
    assert distance(logits[way]["float32"], tensors[KEYS[way]]) <= 2e-4
    assert distance(logits[way]["float32"], logits[way]["float64"]) <= 1.2e-4


def test_merging_leaves_the_published_parameter_names(golden, golden_checkpoint):
    model = load_checkpoint(golden_checkpoint).model
    names = set(model.state_dict())
    merge_adapter(model, golden / "fused_mini" / "lora_adapter")
    assert set(model.state_dict()) == names
