"""Quantized decoders: close to the full model, smaller by as much as predicted, and nothing else touched."""

import numpy as np
import pytest
import torch

from openvla_core import load_policy
from openvla_core.adapter import attach_adapter
from openvla_core.checkpoint import load_checkpoint
from openvla_core.errors import CheckpointError, ConfigError
from openvla_core.memory import weight_bytes
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.quantization import (
    check_quantization,
    decoder_linears,
    group_size_for,
    is_quantized,
    linear_bytes,
    quantize_language_model,
    stored_bytes,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Largest difference of the logits over the largest logit; measured 0.012 (int8) and 0.155 (int4) at most.
TOLERANCE = {"int8": 0.03, "int4": 0.25}


def model_of(hidden=128, intermediate=352, dtype=torch.float32):
    """A random model with grouped key-value heads; the rotary frequencies stay float32, as everywhere."""
    config = {
        "model_type": "openvla",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "image_sizes": [56, 56],
        "timm_model_kwargs": [{"depth": 2, "embed_dim": 16, "num_heads": 2}] * 2,
        "pad_token_id": 512,
        "text_config": {
            "vocab_size": 576, "hidden_size": hidden, "intermediate_size": intermediate,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    model = OpenVLA(OpenVLAConfig.from_dict(config)).eval()
    frequencies = model.language_model.model.rotary_emb.inv_freq.clone()
    model.to(dtype).language_model.model.rotary_emb.inv_freq = frequencies
    return model


@torch.inference_mode()
def logits_of(model):
    pixels = torch.randn(1, 6, 56, 56, generator=torch.Generator().manual_seed(1))
    return model(torch.tensor([[1, 20, 30, 40]]), None, pixels).logits.float()


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_stay_close_and_memory_is_what_was_predicted(mode, dtype):
    model = model_of(dtype=DTYPES[dtype])
    full, full_bytes = logits_of(model), stored_bytes(model)
    predicted = weight_bytes(model, DTYPES[dtype], mode)
    quantize_language_model(model, mode)
    error = float((logits_of(model) - full).abs().max() / full.abs().max())
    assert 0 < error < TOLERANCE[mode]
    assert stored_bytes(model) == predicted < full_bytes


def test_int4_is_smaller_than_int8_and_int8_than_half_precision():
    model = model_of(dtype=torch.bfloat16)
    sizes = [weight_bytes(model, torch.bfloat16, mode) for mode in ("none", "int8", "int4")]
    assert sizes[0] == stored_bytes(model)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_only_the_linear_layers_of_the_decoder_change(mode):
    model = model_of()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inside = {f"language_model.model.{name}.weight" for name, _, _ in decoder_linears(model)}
    assert len(inside) == 2 * 7
    quantize_language_model(model, mode)
    changed = {f"{name}.weight" for name, module in model.named_modules() if is_quantized(module)}
    assert changed == inside
    after = model.state_dict()
    assert set(after) == set(before)
    for name in set(before) - inside:
        assert torch.equal(after[name], before[name]), name


def test_nothing_of_a_layer_remains_in_its_full_size():
    model = model_of()
    full = [getattr(parent, attribute).weight for _, parent, attribute in decoder_linears(model)]
    addresses = {weight.untyped_storage().data_ptr() for weight in full}
    quantize_language_model(model, "int8")
    for _, parent, attribute in decoder_linears(model):
        weight = getattr(parent, attribute).weight
        for part in weight.__tensor_flatten__()[0]:
            assert getattr(weight, part).untyped_storage().data_ptr() not in addresses


def test_none_changes_nothing():
    model = model_of()
    full = logits_of(model)
    quantize_language_model(model, "none", "cpu")
    assert torch.equal(logits_of(model), full)


def test_the_golden_model_answers_nearly_the_same(golden_checkpoint, golden_policy, golden, golden_answers):
    """How many tokens agree is a fact about one model, so only closeness is asked for here."""
    from PIL import Image

    policy = load_policy(golden_checkpoint, decoding="reference", quantization="int8")
    policy.check_vision()
    for entry in golden_answers["samples"]:
        image = np.asarray(Image.open(golden / "images" / entry["image"]).convert("RGB"))
        full = golden_policy.first_logits(image, entry["task"])
        error = (policy.first_logits(image, entry["task"]) - full).abs().max() / full.abs().max()
        assert 0 < float(error) < 0.05
        ids = policy.predict_action_tokens(image, entry["task"], unnorm_key="toy_arm")
        assert ((ids >= 31744) & (ids < 32000)).all()


def test_an_adapter_is_merged_before_the_model_is_quantized(golden, golden_checkpoint):
    adapter = golden / "fused_mini" / "lora_adapter"
    full = load_policy(golden_checkpoint, adapter=adapter)
    quantized = load_policy(golden_checkpoint, adapter=adapter, quantization="int8")
    assert not any("lora" in name for name, _ in quantized.model.named_modules())
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    first, second = (p.first_logits(noise, "pick up the cup") for p in (full, quantized))
    assert 0 < float((first - second).abs().max() / first.abs().max()) < 0.05
    quantized.check_vision()


def test_a_model_with_an_attached_adapter_is_not_quantized(golden, golden_checkpoint):
    model = load_checkpoint(golden_checkpoint).model
    attach_adapter(model, golden / "fused_mini" / "lora_adapter")
    with pytest.raises(CheckpointError, match="Merge the adapter before"):
        quantize_language_model(model, "int8")


def test_an_adapter_is_not_attached_to_a_quantized_model(golden, golden_checkpoint):
    model = load_checkpoint(golden_checkpoint).model
    quantize_language_model(model, "int8")
    with pytest.raises(CheckpointError, match="Merge the adapter first"):
        attach_adapter(model, golden / "fused_mini" / "lora_adapter")
    with pytest.raises(CheckpointError, match="quantized already"):
        quantize_language_model(model, "int8")


@pytest.mark.parametrize(("mode", "nearest"), [("int44", "int4"), ("nf", "nf4"), ("8bit", "int8"), ("NONE", "none")])
def test_an_unknown_mode_lists_the_choices_nearest_first(word_checkpoint, mode, nearest):
    with pytest.raises(ConfigError) as caught:
        load_policy(word_checkpoint, quantization=mode)
    choices = str(caught.value).split("choose one of: ")[1].rstrip(".").split(", ")
    assert sorted(choices) == ["int4", "int8", "nf4", "none"]
    assert choices[0] == nearest


@pytest.mark.parametrize("mode", [None, 8, ["int8"]])
def test_a_mode_that_is_no_text_is_refused(mode):
    with pytest.raises(ConfigError, match="choose one of"):
        check_quantization(mode)


def test_int4_takes_the_largest_group_that_fits():
    assert [group_size_for(n) for n in (4096, 11008, 192, 32, 96)] == [128, 128, 64, 32, 32]
    assert group_size_for(48) is None


@pytest.mark.parametrize(("sizes", "words"), [({"hidden": 48}, "48 inputs"), ({"intermediate": 360}, "360")])
def test_int4_refuses_sizes_its_kernels_cannot_handle_before_changing_anything(sizes, words):
    model = model_of(**sizes)
    with pytest.raises(ConfigError, match=f"{words}.*'int8' or 'none'"):
        quantize_language_model(model, "int4")
    assert not any(is_quantized(module) for module in model.modules())


def test_int4_in_a_dtype_that_is_slow_on_a_cpu_says_so(caplog):
    quantize_language_model(model_of(dtype=torch.bfloat16), "int4")
    assert not caplog.records
    quantize_language_model(model_of(), "int4")
    assert "set dtype to bfloat16" in caplog.text


def test_nf4_asks_for_a_cuda_device():
    with pytest.raises(ConfigError, match="nf4.*CUDA.*'int8' or 'int4'"):
        quantize_language_model(model_of(), "nf4")


def test_a_missing_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    for mode in ("int8", "int4"):
        with pytest.raises(CheckpointError, match="pip install torchao"):
            quantize_language_model(model_of(), mode)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    from openvla_core.quantization import nf4_on

    with pytest.raises(CheckpointError, match="pip install bitsandbytes"):
        nf4_on(torch.device("cuda"), torch.bfloat16)


def test_sizes_of_one_weight_of_the_7b_model():
    """Worked by hand: 4096 x 11008 is 45,088,768 weights in 352,256 groups of 128 and 704,512 blocks of 64."""
    shape = (4096, 11008)
    assert linear_bytes("none", *shape, torch.bfloat16) == 90_177_536
    assert linear_bytes("int8", *shape, torch.bfloat16) == 45_088_768 + 4096 * 5
    assert linear_bytes("int4", *shape, torch.bfloat16) == 22_544_384 + 352_256 * 4
    assert linear_bytes("int4", *shape, torch.bfloat16, on_cuda=True) == 23_068_672 + 360_448 * 4
    assert linear_bytes("nf4", *shape, torch.bfloat16) == 22_544_384 + 704_512 + 2752 * 4 + 273 * 4
