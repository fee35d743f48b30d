"""The model in its variants: sizes, one or two towers, shared key heads; against a second, plain implementation."""

from functools import partial

import numpy as np
import numpy_model
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig

from openvla_core import load_policy
from openvla_core.action_statistics import compute_statistics
from openvla_core.checkpoint import load_checkpoint, load_tokenizer, save_checkpoint
from openvla_core.decoding import Decoder, generate
from openvla_core.errors import ImageError
from openvla_core.image_processor import letterbox, preprocessor_config
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.model.config import LanguageConfig
from openvla_core.model.language_model import llama_config
from openvla_core.model.openvla import token_loss
from openvla_core.model.vision_backbone import attend
from openvla_core.prompt import build_prompt

TOWER = {"depth": 3, "embed_dim": 16, "num_heads": 2}
LANGUAGE = {"vocab_size": 576, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
FUSED = "dinosiglip-vit-so-224px"
SIGLIP = "siglip-vit-so400m"

# name: backbone, image size, overrides of the language model, overrides per tower
VARIANTS = {
    "fused": (FUSED, 98, {"num_attention_heads": 4}, [TOWER, TOWER]),
    "fused, two key heads for four": (FUSED, 98, {"num_attention_heads": 4, "num_key_value_heads": 2}, [TOWER, TOWER]),
    "fused, one key head for all": (FUSED, 56, {"num_attention_heads": 4, "num_key_value_heads": 1}, [TOWER, TOWER]),
    "fused, unequal towers": (
        FUSED,
        70,
        {"num_attention_heads": 2, "rope_theta": 500.0, "rms_norm_eps": 1e-5},
        [
            {"depth": 2, "embed_dim": 24, "num_heads": 3, "mlp_ratio": 1.5},
            {"depth": 4, "embed_dim": 40, "num_heads": 4},
        ],
    ),
    "SigLIP alone": (SIGLIP, 98, {"num_attention_heads": 4}, [TOWER]),
    "SigLIP alone, 384 pixels": ("siglip-vit-so400m-384px", 384, {"num_attention_heads": 4}, [TOWER]),
    "fused, 384 pixels": ("dinosiglip-vit-so-384px", 384, {"num_attention_heads": 4}, [TOWER, TOWER]),
    "DINOv2 alone": (["vit_large_patch14_reg4_dinov2.lvd142m"], 56, {"num_attention_heads": 4}, [TOWER]),
}


def config_json(variant):
    backbone, size, language, towers = VARIANTS[variant]
    named = {"vision_backbone_id": backbone} if isinstance(backbone, str) else {"timm_model_ids": backbone}
    return {
        "model_type": "openvla",
        "image_sizes": [size] * len(towers),
        "timm_model_kwargs": towers,
        "pad_token_id": 512,
        "text_config": LANGUAGE | language,
        **named,
    }


def random_model(variant="fused") -> OpenVLA:
    """Every parameter is drawn, so that none can be forgotten unseen. Computes in float64."""
    generator = torch.Generator().manual_seed(1)
    model = OpenVLA(OpenVLAConfig.from_dict(config_json(variant))).eval()
    for name, parameter in model.named_parameters():
        spread = 0.3 if parameter.ndim == 1 or "token" in name else 1.5 * parameter[0].numel() ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread + float("norm" in name)
    frequencies = model.language_model.model.rotary_emb.inv_freq.clone()
    model.double().language_model.model.rotary_emb.inv_freq = frequencies
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = partial(rms_norm, module)
    return model


def rms_norm(module, x):
    """What the library computes in float32 whatever the dtype of x."""
    return module.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)


def random_inputs(model, batch=1, tokens=9):
    generator = torch.Generator().manual_seed(2)
    config = model.config
    size = config.towers[0].image_size
    ids = torch.randint(3, 256, (batch, tokens), generator=generator)
    return ids, torch.randn(batch, config.channels, size, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_the_model_is_its_description(variant):
    """To 1e-6 of the largest logit: rotary sines and cosines are float32 numbers, all else is float64."""
    model = random_model(variant)
    ids, pixels = random_inputs(model)
    language = model.config.language
    keys = ("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "rms_norm_eps", "rope_theta")
    towers = [{key: getattr(t, key) for key in ("depth", "num_heads", "prefix_tokens")} for t in model.config.towers]
    expected = numpy_model.logits(
        {name: value.numpy() for name, value in model.state_dict().items()},
        towers,
        {key: getattr(language, key) for key in keys},
        ids[0].tolist(),
        pixels[0].numpy(),
    )
    computed = model(ids, None, pixels).logits[0].numpy()
    assert computed.shape == (model.config.patches + ids.shape[1], language.vocab_size)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_but_the_unused_ones_matters(variant):
    model = random_model(variant)
    ids, pixels = random_inputs(model)
    model(ids, None, pixels).logits.square().sum().backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())}
    unused = set()
    for name, tower in zip(("featurizer", "fused_featurizer"), model.config.towers, strict=False):
        start = f"vision_backbone.{name}."
        parts = tuple(f"{start}{part}." for part in (f"blocks.{tower.depth - 1}", "norm", "attn_pool"))
        unused |= {key for key in model.state_dict() if key.startswith(parts)}
    assert still == unused


def test_unused_layers_are_kept_and_never_run():
    model = random_model()
    ran = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(random_inputs(model)[0], None, random_inputs(model)[1])
    towers = [f"vision_backbone.{name}" for name in ("featurizer", "fused_featurizer")]
    assert {f"{tower}.blocks.{index}" for tower in towers for index in (0, 1)} <= set(ran)
    kept = model.state_dict()
    for part in ("blocks.2", "norm", "attn_pool"):
        assert not [name for name in ran if name.startswith(tuple(f"{tower}.{part}" for tower in towers))]
        assert [name for name in kept if name.startswith(f"{towers[1]}.{part}.")]


@pytest.mark.parametrize("variant", ["fused", "fused, two key heads for four", "SigLIP alone"])
@torch.no_grad()
def test_the_cache_changes_nothing(variant):
    """Each step of the generation equals a forward pass over everything before it."""
    model = random_model(variant)
    ids, pixels = random_inputs(model)
    chosen, logits = generate(model, Decoder("reference", 256, 512), ids, pixels, 6)
    for step in range(6):
        whole = model(torch.cat([ids, chosen[None, :step]], dim=1), None, pixels).logits[0, -1]
        torch.testing.assert_close(logits[step].double(), whole, rtol=0, atol=1e-5)
        assert chosen[step] == whole.argmax()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_padding_on_the_right_changes_nothing(attention):
    model = random_model("fused, two key heads for four")
    model.language_model.set_attn_implementation(attention)
    ids, pixels = random_inputs(model, batch=2)
    ids[1, 6:] = model.config.pad_token_id
    together = model(ids, ids != model.config.pad_token_id, pixels).logits
    for row, length in ((0, 9), (1, 6)):
        alone = model(ids[row : row + 1, :length], None, pixels[row : row + 1]).logits[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_loss_is_the_mean_over_labelled_tokens_of_the_whole_batch():
    """Neither patches nor padding are to be predicted, and a row with more labels weighs more."""
    model = random_model()
    ids, pixels = random_inputs(model, batch=2)
    labels = torch.full_like(ids, -100)
    labels[0, 5:], labels[1, 3:5] = ids[0, 5:], ids[1, 3:5]
    output = model(ids, None, pixels, labels)
    patches = model.config.patches
    losses = []
    for row, token in (labels != -100).nonzero().tolist():
        scores = output.logits[row, patches + token - 1].log_softmax(dim=-1)
        losses.append(-scores[ids[row, token]].item())
    assert len(losses) == 6
    assert output.loss.item() == pytest.approx(np.mean(losses), abs=1e-6)
    assert output.loss.dtype == torch.float32


def test_the_first_token_has_nothing_that_predicts_it():
    logits, labels = torch.randn(1, 4, 8), torch.tensor([[3, -100, -100, 5]])
    assert token_loss(logits, labels) == F.cross_entropy(logits[:, 2], labels[:, 3])


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_on_the_processor_equals_torch_s(heads, dtype):
    q, k, v = (torch.randn(2, heads, 11, 24, dtype=dtype) for _ in range(3))
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend(q, k, v), expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@torch.no_grad()
def test_half_precision_is_finite_and_near(golden_policy, golden_checkpoint, dtype):
    model = load_checkpoint(golden_checkpoint, dtype=dtype).model
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    inputs = golden_policy.processor(np.zeros((224, 224, 3), np.uint8), "pick up the red block")
    half, full = model(**inputs).logits.float(), golden_policy.model(**inputs).logits
    assert torch.isfinite(half).all()
    assert F.cosine_similarity(half[0, -1], full[0, -1], dim=0) > 0.999


@pytest.mark.parametrize(
    "shape", [(1, 3, 98, 98), (1, 12, 98, 98), (1, 6, 224, 224), (1, 6, 14, 14), (1, 6, 105, 105), (1, 6, 98, 112)]
)
def test_pixels_of_another_shape_are_refused(shape):
    """One patch would be repeated and a border cut off, without an error of torch's."""
    with pytest.raises(ImageError, match="6, 98, 98"):
        random_model().encode_image(torch.zeros(shape))


def test_the_language_model_has_the_published_settings():
    """The published config.json leaves them out and means these; they differ from Llama-2's own."""
    published = {
        "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 32000,
    }  # fmt: skip
    ours = llama_config(LanguageConfig(), "sdpa")
    assert {key: getattr(ours, key) for key in published} == published
    assert ours.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    defaults = LlamaConfig()
    assert {key: getattr(defaults, key) for key in published if key not in ("vocab_size", "pad_token_id")} == {
        key: value for key, value in published.items() if key not in ("vocab_size", "pad_token_id")
    }


def test_every_norm_of_the_language_model_uses_the_epsilon_of_the_checkpoint():
    epsilons = [m.variance_epsilon for m in random_model().modules() if hasattr(m, "variance_epsilon")]
    assert epsilons == [1e-6] * 5
    assert {m.eps for m in random_model().modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_a_first_generation_checkpoint_is_saved_loaded_and_run(golden_checkpoint, tmp_path):
    """SigLIP alone, two-layer projector, letterbox and the Vicuna prompt."""
    values = config_json("SigLIP alone") | {
        "llm_backbone_id": "vicuna-v15-7b",
        "image_resize_strategy": "letterbox",
        "pad_token_id": 32000,
        "text_config": LANGUAGE | {"vocab_size": 32064, "num_attention_heads": 4},
    }
    config = OpenVLAConfig.from_dict(values)
    model = OpenVLA(config).eval()
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 7))
    target = save_checkpoint(
        tmp_path / "v01",
        model,
        values,
        load_tokenizer(golden_checkpoint, config),
        {"bridge": {"action": compute_statistics(actions)}},
        preprocessor_config(98, towers=1, strategy="letterbox"),
    )
    policy = load_policy(target)
    assert set(dict(model.projector.named_parameters())) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert config.prompt_style == policy.config.prompt_style == "openvla-v01"
    prompt = build_prompt("Wipe", "openvla-v01")
    ids = policy.processor.generation_ids("Wipe")
    assert ids == [*policy.processor.tokenizer.encode(prompt).ids, 29871]
    image = np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8)
    pixels = policy.processor.pixel_values(image)
    assert torch.equal(pixels, policy.processor.pixel_values(letterbox(image, (127, 127, 127))))
    assert pixels.shape == (1, 3, 98, 98)
    with torch.no_grad():
        first, second = (m(torch.tensor([ids]), None, pixels).logits for m in (model, policy.model))
    assert torch.equal(first, second)
    assert policy.predict(image, "Wipe").action.shape == (7,)
