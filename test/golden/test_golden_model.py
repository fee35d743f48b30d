"""Towers, projector, logits and actions agree with the published code on its own tiny checkpoint."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from openvla_core import load_policy
from openvla_core.checkpoint import load_checkpoint
from openvla_core.decoding import generate

SAMPLES = range(5)
FIRST_ID = 31744


@pytest.fixture(scope="module")
def tensors(golden):
    return load_file(golden / "fused_mini" / "golden.safetensors")


@pytest.fixture(scope="module")
def samples(golden, golden_answers):
    """(image, task, expected) per sample."""
    folder = golden / "images"
    return [
        (np.asarray(Image.open(folder / entry["image"]).convert("RGB")), entry["task"], entry)
        for entry in golden_answers["samples"]
    ]


@pytest.fixture(scope="module")
def double_model(golden_checkpoint):
    """Float64 weights; the rotary frequencies stay float32, as everywhere."""
    model = load_checkpoint(golden_checkpoint).model
    frequencies = model.language_model.model.rotary_emb.inv_freq.clone()
    model.double().language_model.model.rotary_emb.inv_freq = frequencies
    return model


@pytest.mark.parametrize("index", SAMPLES)
def test_processor_agrees(golden_policy, samples, tensors, index):
    image, task, expected = samples[index]
    inputs = golden_policy.processor(image, task)
    assert inputs["input_ids"].tolist() == [expected["input_ids"]]
    assert inputs["attention_mask"].tolist() == [[1] * len(expected["input_ids"])]
    stride = 1 if index == 0 else 8
    assert torch.equal(inputs["pixel_values"][:, :, ::stride, ::stride], tensors[f"s{index}.pixel_values"])


@pytest.mark.parametrize("index", SAMPLES)
@torch.no_grad()
def test_towers_and_projector_agree(golden_policy, samples, tensors, index):
    image, task, _ = samples[index]
    pixels = golden_policy.processor(image, task)["pixel_values"]
    backbone = golden_policy.model.vision_backbone
    computed = {
        "featurizer": backbone.featurizer(pixels[:, :3]),
        "fused_featurizer": backbone.fused_featurizer(pixels[:, 3:]),
    }
    for name, features in computed.items():
        torch.testing.assert_close(features, tensors[f"s{index}.{name}"], rtol=0, atol=1e-5, msg=name)
    projected, expected = golden_policy.model.encode_image(pixels), tensors[f"s{index}.projector"]
    # Its values reach 50; the published float32 ones are themselves 3e-5 from the same sum in float64.
    torch.testing.assert_close(projected, expected, rtol=0, atol=1e-6 * float(expected.abs().max()) + 1e-5)


@pytest.mark.parametrize("index", SAMPLES)
@torch.no_grad()
def test_logits_of_every_generation_step_agree(golden_policy, samples, tensors, index):
    """A wrong norm epsilon or GELU moves logits by 1e-3 and flips no token, so tokens alone prove little."""
    image, task, expected = samples[index]
    inputs = golden_policy.processor(image, task)
    prompt = torch.tensor([expected["input_ids_for_generation"]])
    ids, logits = generate(golden_policy.model, golden_policy.decoder, prompt, inputs["pixel_values"], 7)
    assert ids.tolist() == expected["greedy_new_token_ids"][:7]
    torch.testing.assert_close(logits[:, FIRST_ID:], tensors[f"s{index}.action_region_logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(logits.logsumexp(dim=-1), tensors[f"s{index}.logsumexp"], rtol=0, atol=1e-4)
    top = logits.topk(5)
    torch.testing.assert_close(top.values, tensors[f"s{index}.top5_values"], rtol=0, atol=1e-4)
    assert torch.equal(top.indices, tensors[f"s{index}.top5_ids"])
    if index == 0:
        torch.testing.assert_close(logits[0], tensors["s0.first_step_logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("index", SAMPLES)
@torch.no_grad()
def test_plain_forward_agrees(golden_policy, double_model, samples, tensors, index):
    """In float64, because both float32 results are up to 1e-4 from it and twice that from each other."""
    image, task, expected = samples[index]
    logits = double_model(**golden_policy.processor(image, task)).logits.float()
    assert list(logits.shape) == expected["prompt_forward_logits_shape"]
    patches = golden_policy.config.patches
    at_patches = logits[0, [0, 1, 10, patches], FIRST_ID:]
    torch.testing.assert_close(at_patches, tensors[f"s{index}.patch_pos_logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(logits[0, -3:, FIRST_ID:], tensors[f"s{index}.prompt_tail_logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("decoding", ["reference", "constrained"])
def test_actions_agree(golden_checkpoint, samples, decoding):
    policy = load_policy(golden_checkpoint, decoding=decoding)
    for image, task, expected in samples:
        for key, action in expected["actions"].items():
            prediction = policy.predict(image, task, unnorm_key=key)
            assert prediction.tokens.ids.tolist() == expected["greedy_new_token_ids"][: len(action)]
            np.testing.assert_allclose(prediction.normalized.values, expected["normalized_actions"], rtol=0, atol=1e-9)
            np.testing.assert_allclose(prediction.action, action, rtol=0, atol=1e-9)


def test_probabilities_are_those_of_the_published_logits(golden_policy, samples, tensors):
    image, task, _ = samples[0]
    tokens = golden_policy.predict(image, task, "toy_arm").tokens
    best = tensors["s0.top5_values"][:, 0] - tensors["s0.logsumexp"]
    np.testing.assert_allclose(tokens.probabilities, best.exp().numpy(), rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_labelled_batch_agrees(golden_policy, golden_checkpoint, golden_answers, samples, tensors, attention):
    """Loss, accuracy and gradients: what training sees is what the published training code sees."""
    model = load_checkpoint(golden_checkpoint, attn_implementation=attention).model.train()
    expected = golden_answers["batch"]
    images = {entry["image"]: image for image, _, entry in samples}
    pixels = torch.cat([golden_policy.processor.pixel_values(images[s["image"]]) for s in expected["samples"]])
    ids, labels = tensors["batch.input_ids"], tensors["batch.labels"]

    output = model(ids, tensors["batch.attention_mask"], pixels, labels=labels)
    output.loss.backward()

    assert output.loss.item() == pytest.approx(expected["loss"], abs=1e-4)
    logits = output.logits[:, model.config.patches : -1]
    actions = labels[:, 1:] >= FIRST_ID
    torch.testing.assert_close(logits[actions][:, FIRST_ID:], tensors["batch.action_logits"], rtol=0, atol=1e-4)
    correct = logits.argmax(-1)[actions] == labels[:, 1:][actions]
    assert correct.float().mean().item() == pytest.approx(expected["action_accuracy"], abs=1e-6)

    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name, norm in expected["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-3), name
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert total.item() == pytest.approx(expected["total_grad_norm"], rel=1e-3)
    assert sorted({name for name, _ in model.named_parameters()} - set(gradients)) == expected["params_without_grad"]


def test_five_optimizer_steps_agree(golden_policy, golden_checkpoint, golden_answers, samples, tensors):
    model = load_checkpoint(golden_checkpoint).model.train()
    expected = golden_answers["batch"]
    images = {entry["image"]: image for image, _, entry in samples}
    pixels = torch.cat([golden_policy.processor.pixel_values(images[s["image"]]) for s in expected["samples"]])
    batch = (tensors["batch.input_ids"], tensors["batch.attention_mask"], pixels, tensors["batch.labels"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    losses = []
    for _ in expected["adamw_lr5e-4_losses"]:
        optimizer.zero_grad()
        loss = model(*batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, expected["adamw_lr5e-4_losses"], rtol=1e-3)


@pytest.mark.parametrize("merged", [False, True])
@torch.no_grad()
def test_a_lora_adapter_agrees(golden, golden_checkpoint, golden_answers, tensors, merged):
    from openvla_core.adapter import attach_adapter, merge_adapter

    model = load_checkpoint(golden_checkpoint).model
    names = set(model.state_dict())
    (merge_adapter if merged else attach_adapter)(model, golden / "fused_mini" / "lora_adapter")
    ids = torch.tensor([golden_answers["samples"][golden_answers["lora"]["sample"]]["input_ids"]])
    logits = model(ids, None, tensors["s0.pixel_values"]).logits[0, -1, FIRST_ID:]
    # The published code's own merged and attached logits differ by 7e-5: these weights amplify rounding.
    key = "lora.merged_last_pos_action_logits" if merged else "lora.last_pos_action_logits"
    torch.testing.assert_close(logits, tensors[key], rtol=0, atol=5e-4)
    assert (set(model.state_dict()) == names) is merged
