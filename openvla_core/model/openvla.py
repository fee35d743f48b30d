"""The whole model: image patches are slipped into the sentence right after its first token."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_core.model.config import OpenVLAConfig
from openvla_core.model.language_model import build_llama
from openvla_core.model.projector import Projector
from openvla_core.model.vision_backbone import VisionBackbone

IGNORE_INDEX = -100


@dataclass
class OpenVLAOutput:
    """logits (B, P + T, vocabulary); loss is a float32 scalar, or None without labels."""

    logits: Tensor
    loss: Tensor | None = None


class OpenVLA(nn.Module):
    """Vision backbone, projector and Llama, with parameter names equal to the published state dict.

    B batch, P image patches, T text tokens, D_llm width of the language model. The sequence the Llama sees is
    [first text token, P patches, the other text tokens], in plain causal order with positions 0 .. P + T - 1.

    Change the device with `.to(device)`, but the dtype by loading the checkpoint in it: `.to(dtype)` would also round
    the rotary frequencies, which stay float32.
    """

    def __init__(self, config: OpenVLAConfig, attn_implementation: str = "sdpa") -> None:
        """Random weights. attn_implementation: of the Llama, "sdpa" or "eager" (faster to train on a CPU)."""
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config)
        fused = len(config.towers) == 2
        self.projector = Projector(config.vision_dim, config.language.hidden_size, fused)
        self.language_model = build_llama(config.language, attn_implementation)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (B, 3 per tower, S, S) -> projected patches (B, P, D_llm), in the dtype of the weights."""
        pixel_values = pixel_values.to(self.projector.fc1.weight.dtype)
        return self.projector(self.vision_backbone(pixel_values))

    def embed(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """input_ids (B, T), pixel_values (B, 3 per tower, S, S) -> input embeddings (B, P + T, D_llm)."""
        text = self.language_model.model.embed_tokens(input_ids)
        patches = self.encode_image(pixel_values)
        return torch.cat([text[:, :1], patches.to(text.dtype), text[:, 1:]], dim=1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        pixel_values: Tensor,
        labels: Tensor | None = None,
    ) -> OpenVLAOutput:
        """One pass over image and sentence.

        Args:
            input_ids: (B, T) int64, padded on the right.
            attention_mask: (B, T), nonzero where there is text, or None when nothing is padded.
            pixel_values: (B, 3 per tower, S, S), normalised by the image processor.
            labels: (B, T) int64, -100 where no token is to be predicted.

        Returns:
            logits (B, P + T, vocabulary) and, with labels, the mean cross entropy over all labelled tokens.
        """
        embeddings = self.embed(input_ids, pixel_values)
        patches = embeddings.shape[1] - input_ids.shape[1]
        mask = None if attention_mask is None else insert_after_first(attention_mask.bool(), patches, True)
        logits = self.language_model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).logits
        if labels is None:
            return OpenVLAOutput(logits)
        return OpenVLAOutput(logits, token_loss(logits, insert_after_first(labels, patches, IGNORE_INDEX)))


def insert_after_first(values: Tensor, count: int, fill: int | bool) -> Tensor:
    """(B, T) -> (B, count + T) with `fill` at the image patches."""
    patches = values.new_full((len(values), count), fill)
    return torch.cat([values[:, :1], patches, values[:, 1:]], dim=1)


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean float32 cross entropy of predicting labels[:, 1:] from logits[:, :-1], ignoring -100."""
    predicted, target = logits[:, :-1], labels[:, 1:]
    kept = target != IGNORE_INDEX
    return F.cross_entropy(predicted[kept].float(), target[kept])
