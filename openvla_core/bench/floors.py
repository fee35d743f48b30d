"""The least work an action needs, by formula from the sizes of the model: multiplications and bytes read, per stage.

Matrix products count 2 floating-point operations per multiplication. Weights are read once per stage; activations stay
in caches and are not counted. So no implementation of the same mathematics is faster than `Work.floor_s`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from openvla_core.model import OpenVLAConfig
from openvla_core.model.config import PATCH_SIZE, LanguageConfig, TowerConfig
from openvla_core.quantization import linear_bytes

STAGES = ("preprocess", "vision", "projector", "prefill", "decode", "post")
PATCH_NUMBERS = 3 * PATCH_SIZE**2


@dataclass(frozen=True)
class Peaks:
    """What this machine was measured to reach: copies, bytes read and written per second, and matrix products."""

    bytes_per_s: float
    flop_per_s: float


@dataclass(frozen=True)
class Work:
    """flop: floating-point operations. bytes: of weights, and of keys and values, that have to be read."""

    flop: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flop + other.flop, self.bytes + other.bytes)

    def floor_s(self, peaks: Peaks) -> float:
        """Seconds below which this cannot be done: whatever takes longer, to compute or to read."""
        return max(self.flop / peaks.flop_per_s, self.bytes / peaks.bytes_per_s)


def stage_work(
    config: OpenVLAConfig, tokens: int, dtype: torch.dtype, quantization: str = "none", on_cuda: bool = False
) -> dict[str, Work]:
    """Work of "vision", "projector", "prefill" and "decode", one image and one sentence; decode is one pass.

    tokens: T, patches and prompt together. The last block of each tower is not needed and not counted, nor are logits
    of any row but the last.
    """
    vision = Work(0.0, 0.0)
    for tower in config.towers:
        vision += tower_work(tower, tower.depth - 1, dtype)
    sizes = projector_sizes(config)
    products = float(sum(a * b for a, b in sizes))
    projector = Work(2.0 * config.patches * products, dtype.itemsize * (products + sum(b for _, b in sizes)))
    return {
        "vision": vision,
        "projector": projector,
        "prefill": prefill_work(config.language, tokens, dtype, quantization, on_cuda),
        "decode": decode_work(config.language, tokens, dtype, quantization, on_cuda),
    }


def tower_work(tower: TowerConfig, blocks: int, dtype: torch.dtype) -> Work:
    """The patch embedding and this many blocks of one tower."""
    length, width = tower.patches + tower.prefix_tokens, tower.embed_dim
    linears = 4 * width**2 + 2 * width * tower.mlp_dim
    flop = blocks * (2.0 * length * linears + 4.0 * length**2 * width) + 2.0 * tower.patches * PATCH_NUMBERS * width
    return Work(flop, dtype.itemsize * float(blocks * block_parameters(tower) + (PATCH_NUMBERS + 1) * width))


def prefill_work(
    language: LanguageConfig, tokens: int, dtype: torch.dtype, quantization: str = "none", on_cuda: bool = False
) -> Work:
    """The decoder over T tokens in causal order, and the head for the last of them."""
    head = language.vocab_size * language.hidden_size
    attention = 2.0 * tokens**2 * language.hidden_size * language.num_hidden_layers
    flop = 2.0 * tokens * decoder_weights(language) + attention + 2.0 * head
    return Work(flop, decoder_bytes(language, dtype, quantization, on_cuda) + dtype.itemsize * head)


def decode_work(
    language: LanguageConfig, tokens: int, dtype: torch.dtype, quantization: str = "none", on_cuda: bool = False
) -> Work:
    """One pass over one new token that attends to T before it."""
    head = language.vocab_size * language.hidden_size
    kept = language.hidden_size // language.num_attention_heads * language.num_key_value_heads
    attention = 4.0 * tokens * language.hidden_size * language.num_hidden_layers
    cache = 2.0 * language.num_hidden_layers * kept * tokens * dtype.itemsize
    read = decoder_bytes(language, dtype, quantization, on_cuda) + dtype.itemsize * head + cache
    return Work(2.0 * (decoder_weights(language) + head) + attention, read)


def training_flop(config: OpenVLAConfig, tokens: int, adapters: int) -> float:
    """Of one sample in one LoRA step: forward and back through everything, weight gradients of the adapters alone.

    tokens: T, patches, prompt and answer; adapters: their parameters.
    """
    towers = sum(tower_work(tower, tower.depth - 1, torch.float32).flop for tower in config.towers)
    projector = 2.0 * config.patches * sum(a * b for a, b in projector_sizes(config))
    language = prefill_work(config.language, tokens, torch.float32).flop
    return 2.0 * (towers + projector + language) + 6.0 * adapters * tokens


def parameters(config: OpenVLAConfig) -> dict[str, int]:
    """Weights of each part, the unused ones of a published checkpoint included; in a mapping that ends with "total"."""
    counts = {f"tower {number}": tower_parameters(tower) for number, tower in enumerate(config.towers, start=1)}
    counts["attention pool"] = sum(map(pool_parameters, config.towers))
    counts["projector"] = sum(a * b + b for a, b in projector_sizes(config))
    counts["language"] = language_parameters(config.language)
    return {**counts, "total": sum(counts.values())}


def tower_parameters(tower: TowerConfig) -> int:
    """Patch embedding, positions, prefix tokens, blocks and the final norm, without the attention pool."""
    ends = (PATCH_NUMBERS + 1) + tower.patches + tower.prefix_tokens + 2
    return tower.depth * block_parameters(tower) + ends * tower.embed_dim


def block_parameters(tower: TowerConfig) -> int:
    width, hidden = tower.embed_dim, tower.mlp_dim
    scales = 2 * width if tower.layer_scale else 0
    return 4 * width**2 + 2 * width * hidden + 4 * width + hidden + width + 4 * width + scales


def pool_parameters(tower: TowerConfig) -> int:
    if not tower.attention_pool:
        return 0
    width, hidden = tower.embed_dim, tower.mlp_dim
    return 4 * width**2 + 2 * width * hidden + 8 * width + hidden


def projector_sizes(config: OpenVLAConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of its linear layers."""
    hidden = config.language.hidden_size
    if len(config.towers) == 1:
        return [(config.vision_dim, hidden), (hidden, hidden)]
    return [(config.vision_dim, 4 * config.vision_dim), (4 * config.vision_dim, hidden), (hidden, hidden)]


def language_parameters(language: LanguageConfig) -> int:
    norms = (2 * language.num_hidden_layers + 1) * language.hidden_size
    return decoder_weights(language) + 2 * language.vocab_size * language.hidden_size + norms


def decoder_weights(language: LanguageConfig) -> int:
    """Weights of all linear layers between embedding and head."""
    return language.num_hidden_layers * sum(a * b for a, b in _layer_shapes(language))


def decoder_bytes(language: LanguageConfig, dtype: torch.dtype, quantization: str, on_cuda: bool) -> float:
    """Of the same layers as they are stored; "fp8" has a byte per weight and a float32 scale per row."""
    if quantization == "fp8":
        stored = sum(a * b + 4 * a for a, b in _layer_shapes(language))
    else:
        stored = sum(linear_bytes(quantization, a, b, dtype, on_cuda) for a, b in _layer_shapes(language))
    return float(language.num_hidden_layers * stored)


def total_floor_s(work: Mapping[str, Work], peaks: Peaks, passes: int) -> float:
    """Of one action that takes this many passes after the prefill."""
    once = sum(work[stage].floor_s(peaks) for stage in ("vision", "projector", "prefill"))
    return once + passes * work["decode"].floor_s(peaks)


def _layer_shapes(language: LanguageConfig) -> list[tuple[int, int]]:
    """(outputs, inputs) of the linear layers of one decoder layer."""
    hidden, inner = language.hidden_size, language.intermediate_size
    kept = hidden // language.num_attention_heads * language.num_key_value_heads
    return (
        [(hidden, hidden), (kept, hidden), (kept, hidden), (hidden, hidden)] + [(inner, hidden)] * 2 + [(hidden, inner)]
    )
