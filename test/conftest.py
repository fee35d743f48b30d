"""Fixtures several test folders share: the golden files and a policy loaded from the golden checkpoint."""

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from openvla_core.sim.rendering import prepare_headless  # noqa: E402

prepare_headless()

# A busy machine may take its time over an example: no law is broken by that. Every push tries the same examples, so it
# cannot fail by chance; OPENVLA_HYPOTHESIS=nightly looks for new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("nightly", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("OPENVLA_HYPOTHESIS", "ci"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of files that the published code produced."""
    return Path(__file__).parent / "golden" / "data"


@pytest.fixture(scope="session")
def golden_checkpoint(golden: Path) -> Path:
    """A complete tiny checkpoint: both towers, the Llama vocabulary, two data sets."""
    return golden / "fused_mini" / "checkpoint"


@pytest.fixture(scope="session")
def golden_answers(golden: Path) -> dict:
    """What the published code computed with the golden checkpoint."""
    return json.loads((golden / "fused_mini" / "golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def golden_policy(golden_checkpoint: Path):
    """The golden checkpoint as a policy with reference decoding."""
    from openvla_core import load_policy

    return load_policy(golden_checkpoint, decoding="reference")


@pytest.fixture(scope="session")
def word_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights, whose tokenizer knows a handful of whole words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    from openvla_core.action_statistics import compute_statistics
    from openvla_core.checkpoint import save_checkpoint
    from openvla_core.image_processor import preprocessor_config
    from openvla_core.model import OpenVLA, OpenVLAConfig

    words = {"in", ":", "what", "action", "should", "the", "robot", "take", "to", "?", "out"}
    words |= {"pick", "up", "red", "blue", "cube"}
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "▁", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = {
        "model_type": "openvla",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "image_sizes": [112, 112],
        "timm_model_kwargs": [{"depth": 2, "embed_dim": 16, "num_heads": 2}] * 2,
        "pad_token_id": 512,
        "text_config": {
            "vocab_size": 576, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2,
        },
    }  # fmt: skip
    actions = torch.rand(200, 7, generator=torch.Generator().manual_seed(1)).numpy() - 0.5
    torch.manual_seed(0)
    return save_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "words",
        OpenVLA(OpenVLAConfig.from_dict(config)),
        config,
        tokenizer,
        {"table": {"action": compute_statistics(actions)}},
        preprocessor_config(112),
        {
            "action_convention.json": {"name": "test"},
            "training_card.json": {"instructions": ["pick up the red cube", "pick up the blue cube"]},
        },
        checksums=False,  # tests change files of its copies
    )
