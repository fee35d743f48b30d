"""The real 7B models: every parameter name, shape and count, without allocating a weight."""

import json
import math

import pytest

from openvla_core.checkpoint import expected_shapes
from openvla_core.model import OpenVLAConfig

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


@pytest.fixture(scope="module", params=CONFIGS)
def full(request, golden):
    """(shapes of the model, published shapes, published counts)"""
    shapes = json.loads((golden / "state_dict_shapes_fullsize.json").read_text())[request.param]
    counts = json.loads((golden / "param_counts_fullsize.json").read_text())[request.param]
    config = OpenVLAConfig.from_dict(CONFIGS[request.param])
    return {name: list(shape) for name, shape in expected_shapes(config).items()}, shapes, counts


def test_every_name_and_shape_is_the_published_one(full):
    ours, published, counts = full
    assert ours == published
    assert len(ours) == counts["n_state_dict_keys"]


def test_parameter_counts_are_the_published_ones(full):
    ours, _, counts = full

    def total(prefix):
        return sum(math.prod(shape) for name, shape in ours.items() if name.startswith(prefix))

    assert total("") == counts["strategy_full"]
    assert total("vision_backbone.") == counts["vision"]
    assert total("projector.") == counts["projector"]
    assert total("language_model.") == counts["language_model"]


def test_prompt_style_follows_the_language_model():
    assert OpenVLAConfig.from_dict(CONFIGS["fused_openvla_7b"]).prompt_style == "openvla"
    assert OpenVLAConfig.from_dict(CONFIGS["siglip_openvla_v01_7b"]).prompt_style == "openvla-v01"


def test_action_ids_end_at_32000():
    assert OpenVLAConfig.from_dict(CONFIGS["fused_openvla_7b"]).action_vocab_size == 32_000
