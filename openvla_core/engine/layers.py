"""One layer of the Llama written out, for a whole prompt and for a few rows over a cache.

B sequences, M rows of each, D width, H heads of width d, K key-value heads, S cached positions.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_core.engine.fused import Joined, Watched


class Heads(NamedTuple):
    """H, K and d."""

    queries: int
    pairs: int
    width: int

    @property
    def groups(self) -> int:
        """Heads that share one key-value head."""
        return self.queries // self.pairs


class Layer:
    """One decoder layer, its projections joined where that is possible."""

    def __init__(self, layer: Any) -> None:
        self.input_norm, self.output_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = Joined(layer.self_attn, "q_proj", "k_proj", "v_proj")
        self.gate_up = Joined(layer.mlp, "gate_proj", "up_proj")
        self.attention, self.mlp = layer.self_attn, layer.mlp
        self.watched = (
            Watched(layer.self_attn, "q_proj", "k_proj", "v_proj", "o_proj"),
            Watched(layer.mlp, "gate_proj", "up_proj", "down_proj"),
        )


def prompt_layer(layer: Layer, heads: Heads, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A whole prompt through one layer.

    Args:
        x: (B, T, D).
        rotary: (T, 1, 2 d) for positions 0 .. T - 1, see `decoder.Tables`.

    Returns:
        (B, T, D), and what goes into the cache: rotated keys and values (B, K, T, d).
    """
    q, k, v = project(layer, heads, x, rotary)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads.groups > 1)
    return finish(layer, x, attended), k, v


def row_layer(
    layer: Layer,
    heads: Heads,
    x: Tensor,
    rotary: Tensor,
    mask: Tensor,
    index: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """A few rows through one layer, over what is in the cache and themselves.

    Args:
        x: (B, M, D).
        rotary: (B, M, 1, 2 d) for their positions.
        mask: (B, 1, groups * M, S), 0 where a row may look and -inf elsewhere.
        index: (B, K, M, d) int64, their positions.
        keys, values: (B, K, S, d) of the cache, written to.

    Returns:
        (B, M, D).
    """
    batch, count, _ = x.shape
    q, k, v = project(layer, heads, x, rotary)
    keys.scatter_(2, index, k)
    values.scatter_(2, index, v)
    # The heads of a group become more rows of the key-value head they share.
    q = q.reshape(batch, heads.pairs, heads.groups * count, heads.width)
    attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    return finish(layer, x, attended.reshape(batch, heads.queries, count, heads.width))


def project(layer: Layer, heads: Heads, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, M, D) -> rotated queries (B, H, M, d), rotated keys and values (B, K, M, d)."""
    all_heads = heads.queries + 2 * heads.pairs
    qkv = layer.qkv(norm(layer.input_norm, x)).unflatten(-1, (all_heads, heads.width))
    turned = qkv[:, :, : heads.queries + heads.pairs]
    cos, sin = rotary.chunk(2, dim=-1)
    turned = (turned * cos + turned.roll(heads.width // 2, dims=-1) * sin).transpose(1, 2)
    values = qkv[:, :, heads.queries + heads.pairs :].transpose(1, 2)
    return turned[:, : heads.queries], turned[:, heads.queries :], values


def finish(layer: Layer, x: Tensor, attended: Tensor) -> Tensor:
    """x (B, M, D) and its heads (B, H, M, d) -> (B, M, D), all that follows the attention."""
    x = x + layer.attention.o_proj(attended.transpose(1, 2).flatten(2))
    gate, up = layer.gate_up(norm(layer.output_norm, x)).chunk(2, dim=-1)
    return x + layer.mlp.down_proj(F.silu(gate) * up)


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """The Llama's RMS norm, as transformers computes it: in float32, rounded before the weight is multiplied in."""
    if "forward" in module.__dict__ or not hasattr(module, "variance_epsilon"):
        return module(x)  # someone has put another in its place
    weight: Tensor = module.weight  # type: ignore[assignment]
    eps: float = module.variance_epsilon  # type: ignore[assignment]
    if x.dtype == torch.float32:
        return F.rms_norm(x, weight.shape, weight, eps)
    return weight * F.rms_norm(x.float(), weight.shape, None, eps).to(x.dtype)
