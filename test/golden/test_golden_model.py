"""Towers, projector, logits and actions agree with the published code on its own tiny checkpoint.

Where a tolerance is wider than the published tensor's own error, the test shows that error: the distance of the
published float32 value from the same sum in float64.
"""

import json

import numpy as np
import pytest
import torch
from golden_tools import Sample, distance, row_distances, rows_allowed
from safetensors.torch import load_file

from openvla_core import load_policy
from openvla_core.decoding import generate
from openvla_core.json_file import read_json

FIRST_ID = 31744


def test_every_published_tensor_is_there(golden, tensors):
    index = json.loads((golden / "fused_mini" / "tensor_index.json").read_text(encoding="utf-8"))
    assert {key: [list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in tensors.items()} == index


def test_the_checkpoint_is_read_as_it_describes_itself(golden_policy, golden_checkpoint, golden_answers):
    config = read_json(golden_checkpoint / "config.json")
    generation = read_json(golden_checkpoint / "generation_config.json")
    language = golden_policy.config.language
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(language, key) == generation[key]
    assert golden_policy.statistics == read_json(golden_checkpoint / "dataset_statistics.json") == config["norm_stats"]
    assert golden_policy.config.prompt_style == {"pure": "openvla"}[golden_answers["prompt_style"]]
    assert golden_answers["compute_dtype"].startswith("float32")
    assert golden_answers["attn_implementation"] == "sdpa"
    stored = load_file(golden_checkpoint / "model.safetensors")
    loaded = golden_policy.model.state_dict()
    assert set(stored) == set(loaded)
    for name, tensor in stored.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor.float(), loaded[name]), name


def test_processor_agrees(golden_policy, sample: Sample):
    inputs = golden_policy.processor(sample.image, sample.task)
    assert inputs["input_ids"].tolist() == [sample.answers["input_ids"]]
    assert golden_policy.processor.tokenizer.encode(sample.answers["prompt"]).ids == sample.answers["input_ids"]
    assert golden_policy.processor.generation_ids(sample.task) == sample.answers["input_ids_for_generation"]
    assert inputs["attention_mask"].tolist() == [[1] * len(sample.answers["input_ids"])]
    published = sample.tensors["pixel_values"]
    stride = 224 // published.shape[-1]
    assert torch.equal(inputs["pixel_values"][:, :, ::stride, ::stride], published)


@torch.no_grad()
def test_towers_agree(golden_policy, sample: Sample):
    pixels = golden_policy.processor.pixel_values(sample.image)
    backbone = golden_policy.model.vision_backbone
    assert distance(backbone.featurizer(pixels[:, :3]), sample.tensors["featurizer"]) <= 1e-5
    assert distance(backbone.fused_featurizer(pixels[:, 3:]), sample.tensors["fused_featurizer"]) <= 1e-5


@torch.no_grad()
def test_projector_agrees(golden_policy, double_model, sample: Sample):
    """To 6e-5, some sixteen roundings of values near 50: float32 numbers between 32 and 64 are 3.8e-6 apart.

    1e-5 cannot be asked for. The published values are further than that from their own sum in float64, with the
    towers computed in float64, and also with the published features as input.
    """
    published = sample.tensors["projector"]
    pixels = golden_policy.processor.pixel_values(sample.image)
    exact = double_model.encode_image(pixels)
    features = torch.cat([sample.tensors["featurizer"], sample.tensors["fused_featurizer"]], dim=2).double()
    assert distance(published, exact) > 2e-5
    assert distance(published, double_model.projector(features)) > 1e-5

    computed = golden_policy.model.encode_image(pixels)
    assert distance(computed, published) <= 6e-5
    assert distance(computed, exact) <= 6e-5


@torch.no_grad()
def test_logits_of_every_generation_step_agree(golden_policy, double_model, sample: Sample):
    """A wrong norm epsilon or GELU moves logits by 1e-3 and flips no token, so tokens alone prove little.

    To 1e-4, but for the one step of 35 whose published logits are further than that, 1.1e-4, from float64.
    """
    prompt = torch.tensor([sample.answers["input_ids_for_generation"]])
    pixels = golden_policy.processor.pixel_values(sample.image)
    ids, logits = generate(golden_policy.model, golden_policy.decoder, prompt, pixels, 7)
    exact_ids, exact = generate(double_model, golden_policy.decoder, prompt, pixels, 7)
    assert ids.tolist() == exact_ids.tolist() == sample.answers["greedy_new_token_ids"][:7]

    published = sample.tensors["action_region_logits"]
    allowed = rows_allowed(published, exact[:, FIRST_ID:])
    assert (allowed > 1e-4).sum() <= 1
    assert (row_distances(logits[:, FIRST_ID:], published) <= allowed).all()
    assert distance(logits.logsumexp(dim=-1), sample.tensors["logsumexp"]) <= 1e-4
    top = logits.topk(5)
    assert torch.equal(top.indices, sample.tensors["top5_ids"])
    assert distance(top.values, sample.tensors["top5_values"]) <= 1e-4
    margin = torch.tensor(sample.answers["top1_margin"])
    assert distance(top.values[:, 0] - top.values[:, 1], margin) <= 2e-4
    if "first_step_logits" in sample.tensors:
        assert distance(logits[0], sample.tensors["first_step_logits"]) <= 1e-4


def test_the_whole_vocabulary_is_published_for_one_step(samples):
    assert [s.tensors["first_step_logits"].shape for s in samples if "first_step_logits" in s.tensors] == [(32064,)]


@torch.no_grad()
def test_plain_forward_agrees(golden_policy, double_model, sample: Sample):
    """To 1e-4 in float64, but for one published row of 35, 1.4e-4 away. Ours are up to 1e-4 from float64 as well, so
    that the two float32 results may be 2e-4 apart."""
    inputs = golden_policy.processor(sample.image, sample.task)
    logits, exact = (model(**inputs).logits for model in (golden_policy.model, double_model))
    assert list(logits.shape) == sample.answers["prompt_forward_logits_shape"]
    patches = golden_policy.config.patches
    wide = 0
    for key, rows in (("patch_pos_logits", [0, 1, 10, patches]), ("prompt_tail_logits", [-3, -2, -1])):
        published = sample.tensors[key]
        wide += int((rows_allowed(published, exact[0, rows, FIRST_ID:]) > 1e-4).sum())
        assert distance(logits[0, rows, FIRST_ID:], exact[0, rows, FIRST_ID:]) <= 1.2e-4
        assert distance(logits[0, rows, FIRST_ID:], published) <= 2e-4
    assert wide <= 1


@pytest.mark.parametrize("decoding", ["reference", "constrained"])
def test_actions_agree(golden_checkpoint, samples, decoding):
    policy = load_policy(golden_checkpoint, decoding=decoding)
    for sample in samples:
        assert set(sample.answers["actions"]) == set(policy.statistics)
        for key, action in sample.answers["actions"].items():
            prediction = policy.predict(sample.image, sample.task, unnorm_key=key)
            assert prediction.unnorm_key == key
            assert prediction.tokens.ids.tolist() == sample.answers["greedy_new_token_ids"][: len(action)]
            normalized = sample.answers["normalized_actions"]
            np.testing.assert_allclose(prediction.normalized.values, normalized, rtol=0, atol=1e-9)
            np.testing.assert_allclose(prediction.action, action, rtol=0, atol=1e-9)


def test_probabilities_are_those_of_the_published_logits(golden_policy, sample: Sample):
    tokens = golden_policy.predict(sample.image, sample.task, "toy_arm").tokens
    best = sample.tensors["top5_values"][:, 0] - sample.tensors["logsumexp"]
    np.testing.assert_allclose(tokens.probabilities, best.exp().numpy(), rtol=2e-4)
