"""A small model with random weights, and its config."""

import json
from pathlib import Path

import pytest

from openvla_core.model import OpenVLAConfig

# The smallest shapes with everything in them: two towers, their prefix tokens, a shared key-value head.
SMALL = {
    "model_type": "openvla",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "image_sizes": [56, 56],
    "timm_model_kwargs": [{"depth": 2, "embed_dim": 16, "num_heads": 2}] * 2,
    "pad_token_id": 512,
    "text_config": {
        "vocab_size": 576, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip


@pytest.fixture
def small() -> dict:
    """A config.json."""
    return SMALL


@pytest.fixture(scope="session")
def golden_config(golden_checkpoint: Path) -> OpenVLAConfig:
    return OpenVLAConfig.from_dict(json.loads((golden_checkpoint / "config.json").read_text(encoding="utf-8")))
