"""Keys and values of a sequence in tensors that are made once and stay where they are."""

import torch
from torch import Tensor


class StaticCache:
    """Keys and values of all layers for sequences of up to `length` positions.

    Every position is written before a row may look at it; the others are masked. What is masked must still be a finite
    number, since zero times NaN is NaN: `begin` wipes what an earlier sequence left behind the prompt.

    tensor: (layers, 2, B, kv_heads, length, head_dim), keys and values.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        kv_heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.tensor = torch.zeros(layers, 2, batch, kv_heads, length, head_dim, dtype=dtype, device=device)
        self.layers = [(layer[0], layer[1]) for layer in self.tensor]

    def begin(self, prompt: int) -> None:
        """Wipes the positions from `prompt` on; those before it are about to be written."""
        self.tensor[..., prompt:, :].zero_()

    def write_prompt(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """keys, values (B, kv_heads, T, head_dim) of positions 0 .. T - 1."""
        for cached, new in zip(self.layers[layer], (keys, values), strict=True):
            cached[:, :, : new.shape[2]] = new
