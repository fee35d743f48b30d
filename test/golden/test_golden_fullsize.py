"""The real 7B models: every parameter name, shape and count, and what each way of fine-tuning trains of them.

Nothing is allocated: the models are built on torch's meta device.
"""

import json
import math

import pytest
import torch

from openvla_core.checkpoint import expected_shapes
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.training.lora import LoraSettings
from openvla_core.training.strategies import choose_trainable

# What the published config.json files hold, apart from statistics and fields other loaders read.
CONFIGS = {
    "fused_openvla_7b": {
        "model_type": "openvla",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "llm_backbone_id": "llama2-7b-pure",
        "text_config": {"model_type": "llama", "pad_token_id": 32000, "vocab_size": 32064},
    },
    "siglip_openvla_v01_7b": {
        "model_type": "openvla",
        "vision_backbone_id": "siglip-vit-so400m",
        "llm_backbone_id": "vicuna-v15-7b",
        "image_resize_strategy": "letterbox",
        "text_config": {"model_type": "llama", "pad_token_id": 32000, "vocab_size": 32064},
    },
}
LLAMA = "language_model.model"
STRATEGIES = ("full", "last-layer", "frozen-vision", "sandwich")
PARTS = {
    "vision": "vision_backbone.",
    "vision.featurizer": "vision_backbone.featurizer.",
    "vision.fused_featurizer": "vision_backbone.fused_featurizer.",
    "projector": "projector.",
    "language_model": "language_model.",
    "embed_tokens": f"{LLAMA}.embed_tokens.",
    "lm_head": "language_model.lm_head.",
    "one_decoder_layer": f"{LLAMA}.layers.0.",
    "final_norm": f"{LLAMA}.norm.",
}
LORA_GROUPS = {
    "vision.featurizer": PARTS["vision.featurizer"],
    "vision.fused": PARTS["vision.fused_featurizer"],
    "projector": PARTS["projector"],
    "llm": PARTS["language_model"],
}


class Full:
    """One published model: its names and shapes, its counts, and ours built without memory."""

    def __init__(self, golden, name):
        self.published = json.loads((golden / "state_dict_shapes_fullsize.json").read_text())[name]
        self.counts = json.loads((golden / "param_counts_fullsize.json").read_text())[name]
        self.config = OpenVLAConfig.from_dict(CONFIGS[name])
        self.shapes = {key: list(shape) for key, shape in expected_shapes(self.config).items()}

        self._trained = {}

    def count(self, *prefixes):
        return sum(math.prod(shape) for name, shape in self.shapes.items() if name.startswith(prefixes))

    def trained(self, strategy, targets="reference"):
        """{name of a parameter: its size}, for what the trainer trains."""
        if (strategy, targets) not in self._trained:
            with torch.device("meta"):
                model = OpenVLA(self.config)
            chosen = choose_trainable(model, strategy, LoraSettings(rank=32, targets=targets))
            self._trained[strategy, targets] = {name: parameter.numel() for name, parameter in chosen.items()}
        return self._trained[strategy, targets]


@pytest.fixture(scope="module", params=CONFIGS)
def full(request, golden):
    return Full(golden, request.param)


def test_every_name_and_shape_is_the_published_one(full):
    assert full.shapes == full.published
    assert len(full.shapes) == full.counts["n_state_dict_keys"]


def test_parameters_per_part_are_the_published_ones(full):
    for part, prefix in PARTS.items():
        assert full.count(prefix) == full.counts.get(part, 0), part
    assert full.count(f"{LLAMA}.layers.") == 32 * full.counts["one_decoder_layer"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_trains_the_published_number_of_parameters(full, strategy):
    assert sum(full.trained(strategy).values()) == full.counts[f"strategy_{strategy.replace('-', '_')}"]


def test_lora_trains_the_published_number_of_parameters(full):
    sizes, counts = full.trained("lora"), full.counts
    assert sum(sizes.values()) == counts["strategy_lora_r32"]
    assert len(sizes) == counts["lora_tensors"]
    assert sum(sizes.values()) + counts["strategy_full"] == counts["lora_total_params_with_adapters"]
    for group, number in counts["lora_by_group"].items():
        assert lora_count(sizes, LORA_GROUPS[group]) == number, group


def test_lora_reaches_the_published_layers(full):
    """The patch embeddings, the head, and also layers that are never run: last blocks and SigLIP's pooling."""
    sizes, counts = full.trained("lora"), full.counts
    assert sorted({name.split(".")[-4] for name in sizes}) == counts["lora_target_names"]
    patch_embeddings = {name: size for name, size in sizes.items() if "patch_embed" in name}
    published = counts["lora_conv_patch_embed"]
    assert {f"base_model.model.{name}": size for name, size in patch_embeddings.items()} == published
    assert lora_count(sizes, *(f"{PARTS[p]}attn_pool." for p in PARTS if "featurizer" in p)) == counts["lora_attn_pool"]
    last_blocks = [
        f"vision_backbone.{name}.blocks.{tower.depth - 1}."
        for name, tower in zip(("featurizer", "fused_featurizer"), full.config.towers, strict=False)
    ]
    assert lora_count(sizes, *last_blocks) == counts["lora_last_vision_blocks"]
    assert ("language_model.lm_head.lora_A.default.weight" in sizes) is counts["lora_head_present"]


def test_modern_lora_is_what_a_library_of_today_chooses(full):
    """No head, no patch embedding; both numbers were counted with such a library."""
    fused = "vision_backbone.fused_featurizer.norm.weight" in full.shapes
    assert sum(full.trained("lora", "modern").values()) == (109_563_904 if fused else 96_391_168)


def test_every_published_count_is_compared(full):
    compared = set(PARTS) | {f"strategy_{name.replace('-', '_')}" for name in STRATEGIES} | {"n_state_dict_keys"}
    assert {key for key in full.counts if key not in compared} == {
        "strategy_lora_r32", "lora_tensors", "lora_total_params_with_adapters", "lora_by_group", "lora_target_names",
        "lora_conv_patch_embed", "lora_attn_pool", "lora_last_vision_blocks", "lora_head_present",
    }  # fmt: skip


def test_the_published_total(golden):
    assert Full(golden, "fused_openvla_7b").count("") == 7_541_237_184


def test_prompt_style_follows_the_language_model():
    assert OpenVLAConfig.from_dict(CONFIGS["fused_openvla_7b"]).prompt_style == "openvla"
    assert OpenVLAConfig.from_dict(CONFIGS["siglip_openvla_v01_7b"]).prompt_style == "openvla-v01"


def test_action_ids_end_at_32000():
    assert OpenVLAConfig.from_dict(CONFIGS["fused_openvla_7b"]).action_vocab_size == 32_000


def lora_count(sizes, *prefixes):
    return sum(size for name, size in sizes.items() if name.startswith(prefixes))
