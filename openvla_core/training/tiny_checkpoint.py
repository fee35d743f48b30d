"""The fixed parts of the tiny OpenVLA: config.json, word tokenizer, image processing and convention card."""

import re
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from openvla_core.errors import ConfigError
from openvla_core.image_processor import preprocessor_config
from openvla_core.prompt import SPACE, build_prompt
from openvla_core.sim.tasks import all_sentences

UNNORM_KEY = "sim_tabletop"
IMAGE_SIZE = 112
ACTION_BASE = 512  # first id above the action ids; the 256 below are actions, words stay under 256
PADDING = 64


def tiny_config(width: int = 128, layers: int = 4, tower_width: int = 64, tower_depth: int = 5) -> dict[str, Any]:
    """config.json of a tiny OpenVLA: published fields, small sizes; `tower_depth` counts the unused last block."""
    tower = {"depth": tower_depth, "embed_dim": tower_width, "num_heads": 2}
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "timm_override_act_layers": [None, None],
        "timm_model_kwargs": [tower, {**tower, "mlp_ratio": 4.0}],
        "image_sizes": [IMAGE_SIZE, IMAGE_SIZE],
        "image_resize_strategy": "resize-naive",
        "use_fused_vision_backbone": True,
        "llm_backbone_id": "llama2-7b-pure",
        "llm_max_length": 256,
        "n_action_bins": 256,
        "pad_token_id": ACTION_BASE,
        "pad_to_multiple_of": PADDING,
        "output_projector_states": False,
        "torch_dtype": "float32",
        "text_config": {
            "model_type": "llama",
            "vocab_size": ACTION_BASE + PADDING,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "pad_token_id": ACTION_BASE,
        },
    }


def tiny_tokenizer() -> Tokenizer:
    """Every word of the prompt and of the known sentences has an id; any other word becomes <unk>."""
    words = dict.fromkeys(re.findall(r"\n|\w+|[^\w\s]", " ".join(build_prompt(text) for text in all_sentences())))
    tokens = ["<unk>", "<s>", "</s>", SPACE, *words]
    if len(tokens) > ACTION_BASE - 256:
        raise ConfigError(f"the sentences need {len(tokens)} words; the tiny vocabulary has room for 256.")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|[^\w\s]"), "isolated"),
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def tiny_preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json: plain resize to 112 x 112, one normalisation per tower."""
    return preprocessor_config(IMAGE_SIZE)


def tiny_convention() -> dict[str, Any]:
    """action_convention.json: what the seven numbers of this checkpoint mean."""
    return {
        "name": UNNORM_KEY,
        "frame": "base",
        "composition": "base_axes",
        "rotation": "rotation_vector",
        "translation_scale": 1.0,
        "rotation_scale": 1.0,
        "reference": "measured",
        "gripper": {"open": 1.0, "closed": 0.0, "threshold": 0.5},
        "rate_hz": 5.0,
        "tool_link": "panda_hand_tcp",
        "image": {"width": IMAGE_SIZE, "height": IMAGE_SIZE, "preprocessing": "none"},
    }
