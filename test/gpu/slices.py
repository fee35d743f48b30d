"""Models of the real width and two layers, with random weights made on the device; small ones for a CPU."""

from typing import Any

import torch
from torch import Tensor

from openvla_core.decoding import Decoder
from openvla_core.model import OpenVLA, OpenVLAConfig

COUNT = 7
REFERENCE = Decoder("reference", 31744, 32000)
SMALL_VISION: dict[str, Any] = {"embed_dim": 64, "num_heads": 4}
SMALL_LANGUAGE = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4}
REAL_LANGUAGE = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}


def slice_model(device: torch.device, dtype: torch.dtype) -> OpenVLA:
    """Both towers with three blocks and a Llama with two layers. The rotary frequencies stay float32, as always."""
    small = device.type == "cpu"
    config = {
        "model_type": "openvla",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "image_sizes": [56 if small else 224] * 2,
        "timm_model_kwargs": [{"depth": 3, **(SMALL_VISION if small else {})}] * 2,
        "pad_token_id": 32000,
        "text_config": {
            "vocab_size": 32064,
            "num_hidden_layers": 2,
            **(SMALL_LANGUAGE if small else REAL_LANGUAGE),
        },
    }
    torch.manual_seed(0)
    with device:
        model = OpenVLA(OpenVLAConfig.from_dict(config)).eval()
    with torch.no_grad():
        # Decided opinions: two tokens that are nearly alike may change places by a rounding.
        model.language_model.lm_head.weight.mul_(4.0)
    frequencies = model.language_model.model.rotary_emb.inv_freq.clone()
    model.to(dtype).language_model.model.rotary_emb.inv_freq = frequencies
    return model


def inputs(model: OpenVLA, words: int, seed: int) -> tuple[Tensor, Tensor]:
    """input_ids (1, words) and pixel_values (1, 6, S, S) on the device of the model."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 31000, (1, words), generator=generator)
    ids[0, 0] = 1
    size = model.config.towers[0].image_size
    pixels = torch.randn(1, 6, size, size, generator=generator)
    device = model.projector.fc1.weight.device
    return ids.to(device), pixels.to(device)


@torch.inference_mode()
def published(model: OpenVLA, ids: Tensor, pixels: Tensor, count: int = COUNT) -> list[int]:
    """Greedy ids of transformers' own `generate`."""
    embeddings = model.embed(ids, pixels)
    mask = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=ids.device)
    found = model.language_model.generate(
        inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False
    )
    return found[0].tolist()
