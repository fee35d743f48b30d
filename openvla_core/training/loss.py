"""Cross entropy of the tokens that are to be predicted, action tokens and end of sequence, on their rows alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_core.datasets.examples import PixelNormalizer
from openvla_core.image_processor import ImageProcessor
from openvla_core.model import OpenVLA


class RowModel(nn.Module):
    """An OpenVLA that computes its head only for the rows it is asked for; what is sharded over many processes."""

    def __init__(self, model: OpenVLA) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, pixel_values: Tensor, places: Tensor) -> Tensor:
        """input_ids (B, T), padded on the right, pixel_values (B, C, S, S), places (N,) -> logits (N, vocabulary)."""
        embeddings = self.model.embed(input_ids, pixel_values)
        hidden = decoder_states(self.model, embeddings)
        return self.model.language_model.lm_head(hidden.flatten(0, 1)[places])


def decoder_states(model: OpenVLA, embeddings: Tensor) -> Tensor:
    """(B, L, D_llm) -> (B, L, D_llm) behind the final norm, in plain causal order.

    The decoder's own loop, run from here: transformers looks into masks and positions first, and waits for the GPU.
    """
    llama = model.language_model.model
    length = embeddings.shape[1]
    positions = torch.arange(length, device=embeddings.device)[None]
    rotary = llama.rotary_emb(embeddings, positions)
    mask = None
    if llama.config._attn_implementation == "eager":  # which knows no causal order of its own
        hidden_from = torch.ones(length, length, dtype=torch.bool, device=embeddings.device).triu(1)
        lowest = torch.finfo(embeddings.dtype).min
        mask = torch.zeros(length, length, dtype=embeddings.dtype, device=embeddings.device)
        mask = mask.masked_fill(hidden_from, lowest)[None, None]
    hidden = embeddings
    for layer in llama.layers:
        hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
    return llama.norm(hidden)


def row_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean float32 cross entropy; logits (N, vocabulary), targets (N,)."""
    return F.cross_entropy(logits.float(), targets)


class Pixels(nn.Module):
    """The pictures of a batch as the model takes them, from grey levels or already normalised."""

    def __init__(self, image_processor: ImageProcessor) -> None:
        super().__init__()
        self._normalizer = PixelNormalizer(image_processor)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """-> pixel_values (B, C, S, S) float32."""
        return self._normalizer(batch["pixels"]) if "pixels" in batch else batch["pixel_values"]
