"""Tiny random models for the engine, and transformers' own answer to compare with."""

from typing import Any

import torch
from torch import Tensor

from openvla_core.decoding import Decoder
from openvla_core.model import OpenVLA, OpenVLAConfig

COUNT = 7
PATCHES = 16
VOCABULARY = 576
REFERENCE = Decoder("reference", 256, 512)


def tiny_model(kv_heads: int = 4, dtype: torch.dtype = torch.float32, hidden: int = 32, layers: int = 2) -> OpenVLA:
    """Random weights with decided opinions: the head is scaled up. The rotary frequencies stay float32, as always."""
    config: dict[str, Any] = {
        "model_type": "openvla",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "image_sizes": [56, 56],
        "timm_model_kwargs": [{"depth": 2, "embed_dim": 16, "num_heads": 2}] * 2,
        "pad_token_id": 512,
        "text_config": {
            "vocab_size": VOCABULARY, "hidden_size": hidden, "intermediate_size": 2 * hidden + 16,
            "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": kv_heads,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    model = OpenVLA(OpenVLAConfig.from_dict(config)).eval()
    with torch.no_grad():
        for name, weight in model.language_model.named_parameters():
            weight.mul_(1.5 if "norm" in name else 4.0)
    frequencies = model.language_model.model.rotary_emb.inv_freq.clone()
    model.to(dtype).language_model.model.rotary_emb.inv_freq = frequencies
    return model


def inputs(words: int, seed: int) -> tuple[Tensor, Tensor]:
    """input_ids (1, words) and pixel_values (1, 6, 56, 56)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 250, (1, words), generator=generator)
    ids[0, 0] = 1
    return ids, torch.randn(1, 6, 56, 56, generator=generator)


@torch.inference_mode()
def published(model: OpenVLA, ids: Tensor, pixels: Tensor, count: int = COUNT) -> tuple[Tensor, Tensor]:
    """Greedy ids (count,) and logits (count, vocabulary) of transformers' `generate`."""
    embeddings = model.embed(ids, pixels)
    found = model.language_model.generate(
        inputs_embeds=embeddings,
        attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return found.sequences[0], torch.stack(found.logits)[:, 0].float()


def partly_right(ids: Tensor, wrong: list[int]) -> Tensor:
    """The ids with those at `wrong` replaced by others."""
    draft = ids.clone()
    draft[wrong] = 256 + (draft[wrong] + 1) % 256
    return draft
