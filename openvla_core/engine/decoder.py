"""The Llama of the model written out over a static cache: the prompt in one pass, then a few rows at a time.

B sequences, M rows of each, T prompt positions, D width, S cached positions. The mathematics is that of transformers'
LlamaForCausalLM; what is left out is what nobody reads: of the last layer the prompt needs keys and values only, except
at its last token.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openvla_core.engine.cache import StaticCache
from openvla_core.engine.compiled import compile_layer
from openvla_core.engine.fused import Watched
from openvla_core.engine.layers import Heads, Layer, norm, project, prompt_layer, row_layer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


class Tables:
    """Rotary angles and causal masks for `length` positions, looked up by position.

    rotary: (length, 2 d), cosines and then sines. The sines carry the sign of "rotate half", so that rotating is a swap
    of the halves of a head. mask: (length, length), 0 or -inf.
    """

    def __init__(self, rotary: Any, length: int, dtype: torch.dtype, device: torch.device) -> None:
        positions = torch.arange(length, device=device)
        angles = positions[:, None].float() * rotary.inv_freq.to(device, torch.float32)
        cos, sin = angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
        self.rotary = torch.cat([cos, cos, -sin, sin], dim=-1).to(dtype)
        hidden = positions[None, :] > positions[:, None]
        self.mask = torch.zeros(length, length, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


class LlamaPasses:
    """The decoder of a model over static caches. The weights stay the model's own."""

    def __init__(self, llama: "LlamaForCausalLM", compile_layers: bool = False) -> None:
        config: Any = llama.config
        first: Any = llama.model.layers[0]
        self.llama = llama
        self.heads = Heads(config.num_attention_heads, config.num_key_value_heads, first.self_attn.head_dim)
        self.layers = [Layer(layer) for layer in llama.model.layers]
        self.dtype, self.device = first.input_layernorm.weight.dtype, first.input_layernorm.weight.device
        self._watched = [Watched(llama, "lm_head"), *(part for layer in self.layers for part in layer.watched)]
        self._prompt_layer, self._row_layer = prompt_layer, row_layer
        if compile_layers:
            self._prompt_layer = compile_layer(prompt_layer, self.device)
            self._row_layer = compile_layer(row_layer, self.device)

    @property
    def current(self) -> bool:
        """False when linear layers were replaced, or weights moved elsewhere, since this object was made."""
        return all(watched.current for watched in self._watched)

    def new_cache(self, batch: int, length: int) -> StaticCache:
        """An empty cache for it."""
        sizes = (len(self.layers), batch, self.heads.pairs, length, self.heads.width)
        return StaticCache(*sizes, self.dtype, self.device)

    def new_tables(self, length: int) -> Tables:
        """Angles and masks for a cache of this length."""
        return Tables(self.llama.model.rotary_emb, length, self.dtype, self.device)

    def prompt(self, x: Tensor, lengths: Tensor, cache: StaticCache, tables: Tables) -> Tensor:
        """Reads the prompts into the cache.

        Args:
            x: (B, T, D) embeddings, padded on the right. No real token ever sees a pad: it lies behind it.
            lengths: (B,) int64, how much of each is real.

        Returns:
            Logits (B, vocabulary) float32 after the last real token.
        """
        cache.begin(x.shape[1])
        rotary = tables.rotary[: x.shape[1], None]
        for number, layer in enumerate(self.layers[:-1]):
            x, keys, values = self._prompt_layer(layer, self.heads, x, rotary)
            cache.write_prompt(number, keys, values)
        _, keys, values = project(self.layers[-1], self.heads, x, rotary)
        cache.write_prompt(len(self.layers) - 1, keys, values)
        last = (lengths - 1)[:, None]
        x = x.gather(1, last[..., None].expand(-1, -1, x.shape[2]))
        return self._head(self._rows(x, last, cache, tables, first_layer=len(self.layers) - 1))[:, 0]

    def rows(self, ids: Tensor, positions: Tensor, cache: StaticCache, tables: Tables) -> Tensor:
        """Reads M tokens more of each sequence.

        Args:
            ids: (B, M) int64.
            positions: (B, M) int64 where they stand; a row sees all positions up to its own.

        Returns:
            Logits (B, M, vocabulary) float32 after each of them.
        """
        return self._head(self._rows(self.llama.model.embed_tokens(ids), positions, cache, tables))

    def _rows(self, x: Tensor, positions: Tensor, cache: StaticCache, tables: Tables, first_layer: int = 0) -> Tensor:
        rotary = F.embedding(positions, tables.rotary)[:, :, None]
        mask = F.embedding(positions, tables.mask)[:, None]
        if self.heads.groups > 1:
            mask = mask.repeat(1, 1, self.heads.groups, 1)
        index = positions[:, None, :, None].expand(-1, self.heads.pairs, -1, self.heads.width)
        for number in range(first_layer, len(self.layers)):
            x = self._row_layer(self.layers[number], self.heads, x, rotary, mask, index, *cache.layers[number])
        return x

    def _head(self, x: Tensor) -> Tensor:
        return self.llama.lm_head(norm(self.llama.model.norm, x)).float()
