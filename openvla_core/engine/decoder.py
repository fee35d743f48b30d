"""The Llama of the model written out over a static cache: the prompt in one pass, then a few rows at a time.

B sequences, M rows of each, T prompt positions, D width, H heads of width d, K key-value heads, S cached positions.
The mathematics is that of transformers' LlamaForCausalLM; what is left out is what nobody reads. Of the last layer the
prompt needs keys and values only, except at its last token.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_core.engine.cache import StaticCache
from openvla_core.engine.fused import Joined

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


class Layer:
    """One decoder layer, its projections joined where that is possible."""

    def __init__(self, layer: Any) -> None:
        self.input_norm, self.output_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = Joined(layer.self_attn, "q_proj", "k_proj", "v_proj")
        self.gate_up = Joined(layer.mlp, "gate_proj", "up_proj")
        self._layer = layer

    @property
    def current(self) -> bool:
        """False once parts of the layer were replaced or moved."""
        return self.qkv.current and self.gate_up.current

    def out(self, x: Tensor) -> Tensor:
        """Heads (B, M, H * d) -> (B, M, D)."""
        return self._layer.self_attn.o_proj(x)

    def mlp(self, x: Tensor) -> Tensor:
        """(B, M, D) -> (B, M, D), the whole second half of the layer with its residual."""
        gate, up = self.gate_up(norm(self.output_norm, x)).chunk(2, dim=-1)
        return x + self._layer.mlp.down_proj(F.silu(gate) * up)


class Tables:
    """Rotary angles and causal masks for `length` positions, looked up by position."""

    def __init__(self, rotary: Any, length: int, dtype: torch.dtype, device: torch.device) -> None:
        positions = torch.arange(length, device=device)
        angles = positions[:, None].float() * rotary.inv_freq.to(device, torch.float32)
        cos, sin = angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
        # The sign of "rotate half" is in the table, so that rotating is a swap of the halves.
        self.rotary = torch.cat([cos, cos, -sin, sin], dim=-1).to(dtype)
        hidden = positions[None, :] > positions[:, None]
        self.mask = torch.zeros(length, length, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


class LlamaPasses:
    """The decoder of a model over static caches. The weights stay the model's own."""

    def __init__(self, llama: "LlamaForCausalLM") -> None:
        config: Any = llama.config
        self.llama = llama
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.groups = self.heads // self.kv_heads
        first: Any = llama.model.layers[0]
        self.head_dim: int = first.self_attn.head_dim
        self.layers = [Layer(layer) for layer in llama.model.layers]
        self.dtype, self.device = first.input_layernorm.weight.dtype, first.input_layernorm.weight.device

    @property
    def current(self) -> bool:
        """False when weights were replaced or moved since this object was made."""
        weight: Tensor = self.llama.model.layers[0].input_layernorm.weight  # type: ignore[assignment, union-attr]
        same = weight.dtype == self.dtype and weight.device == self.device
        return same and len(self.layers) == len(self.llama.model.layers) and all(layer.current for layer in self.layers)

    def new_cache(self, batch: int, length: int) -> StaticCache:
        """An empty cache for it."""
        sizes = (len(self.layers), batch, self.kv_heads, length, self.head_dim)
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
            q, k, v = self._project(layer, x, rotary)
            cache.write_prompt(number, k, v)
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.groups > 1)
            x = layer.mlp(x + layer.out(heads.transpose(1, 2).flatten(2)))
        _, k, v = self._project(self.layers[-1], x, rotary)
        cache.write_prompt(len(self.layers) - 1, k, v)
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
        batch, count = positions.shape
        rotary = F.embedding(positions, tables.rotary)[:, :, None]
        mask = F.embedding(positions, tables.mask)[:, None]
        if self.groups > 1:  # the heads of a group become more rows of the key-value head they share
            mask = mask.repeat(1, 1, self.groups, 1)
        index = positions[:, None, :, None].expand(batch, self.kv_heads, count, self.head_dim)
        for number in range(first_layer, len(self.layers)):
            layer = self.layers[number]
            q, k, v = self._project(layer, x, rotary)
            cache.write_rows(number, index, k, v)
            q = q.reshape(batch, self.kv_heads, self.groups * count, self.head_dim)
            heads = F.scaled_dot_product_attention(q, *cache.layers[number], attn_mask=mask)
            heads = heads.reshape(batch, self.heads, count, self.head_dim)
            x = layer.mlp(x + layer.out(heads.transpose(1, 2).flatten(2)))
        return x

    def _project(self, layer: Layer, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, M, D) -> rotated queries (B, H, M, d), rotated keys and values (B, K, M, d)."""
        qkv = layer.qkv(norm(layer.input_norm, x)).unflatten(-1, (self.heads + 2 * self.kv_heads, self.head_dim))
        both = qkv[:, :, : self.heads + self.kv_heads]
        cos, sin = rotary.chunk(2, dim=-1)
        both = (both * cos + both.roll(self.head_dim // 2, dims=-1) * sin).transpose(1, 2)
        return both[:, : self.heads], both[:, self.heads :], qkv[:, :, -self.kv_heads :].transpose(1, 2)

    def _head(self, x: Tensor) -> Tensor:
        return self.llama.lm_head(norm(self.llama.model.norm, x)).float()


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """The Llama's RMS norm, as transformers computes it: in float32, rounded before the weight is multiplied in."""
    if "forward" in module.__dict__ or not hasattr(module, "variance_epsilon"):
        return module(x)  # someone has put another in its place
    weight: Tensor = module.weight  # type: ignore[assignment]
    eps: float = module.variance_epsilon  # type: ignore[assignment]
    if x.dtype == torch.float32:
        return F.rms_norm(x, weight.shape, weight, eps)
    return weight * F.rms_norm(x.float(), weight.shape, None, eps).to(x.dtype)
