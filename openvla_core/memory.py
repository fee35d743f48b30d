"""How much memory a model needs, worked out from its sizes alone."""

from dataclasses import dataclass

import torch

from openvla_core.errors import ConfigError
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.model.config import TowerConfig
from openvla_core.quantization import check_quantization, decoder_linears, linear_bytes

# name -> dtype of what is not quantized, quantization
MODES: dict[str, tuple[torch.dtype, str]] = {
    "fp32": (torch.float32, "none"),
    "bf16": (torch.bfloat16, "none"),
    "int8": (torch.bfloat16, "int8"),
    "int4": (torch.bfloat16, "int4"),
    "nf4": (torch.bfloat16, "nf4"),
}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes for one image and one sentence at a time; `problem` says why a mode cannot be used, all else is 0 then."""

    mode: str
    weights: int
    kv_cache: int
    activations: int
    problem: str = ""

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.activations


def estimate_modes(model: OpenVLA, tokens: int, answer: int, on_cuda: bool) -> list[MemoryEstimate]:
    """One estimate per entry of `MODES`; `model` may be on the meta device. See `weight_bytes` and the others here.

    tokens: T, patches, prompt and answer together; answer: D, the action tokens of one answer.
    """
    estimates = []
    for mode, (dtype, quantization) in MODES.items():
        try:
            weights = weight_bytes(model, dtype, quantization, on_cuda)
        except ConfigError as error:
            estimates.append(MemoryEstimate(mode, 0, 0, 0, str(error)))
            continue
        cache = kv_cache_bytes(model.config, tokens, dtype)
        estimates.append(
            MemoryEstimate(mode, weights, cache, activation_bytes(model.config, tokens, answer, dtype, quantization))
        )
    return estimates


def weight_bytes(model: OpenVLA, dtype: torch.dtype, quantization: str = "none", on_cuda: bool = False) -> int:
    """Bytes of all weights: decoder layers as `linear_bytes` says, everything else in `dtype`.

    Raises ConfigError when the sizes of the model do not suit the quantization.
    """
    check_quantization(quantization)
    linears = [getattr(parent, attribute) for _, parent, attribute in decoder_linears(model)]
    shapes = [(linear.out_features, linear.in_features) for linear in linears]
    others = sum(p.numel() for p in model.parameters()) - sum(rows * columns for rows, columns in shapes)
    return others * dtype.itemsize + sum(linear_bytes(quantization, *shape, dtype, on_cuda) for shape in shapes)


def kv_cache_bytes(config: OpenVLAConfig, tokens: int, dtype: torch.dtype) -> int:
    """2 (keys and values) x layers x key-value heads x width of a head x T x bytes per number."""
    language = config.language
    head = language.hidden_size // language.num_attention_heads
    return 2 * language.num_hidden_layers * language.num_key_value_heads * head * tokens * dtype.itemsize


def activation_bytes(config: OpenVLAConfig, tokens: int, answer: int, dtype: torch.dtype, quantization: str) -> int:
    """The largest of three stages and what lives beside them; an estimate, without what kernels need for themselves.

    A tower: N x (2 W + max(4 W, 2 M)) + 2 x heads x N² numbers; N patches and prefix tokens, W width, M of the MLP.
    The projector: P x (its input, its first and its second layer) numbers. The decoder reading the prompt:
    T x (2 H + max(2 H + 2 H_kv, 3 M)) numbers. Beside them: (D + 1) x vocabulary float32 logits. Where the kernels of
    a quantization unpack a weight for each product, the largest weight once more in `dtype`.
    """
    language = config.language
    head = language.hidden_size // language.num_attention_heads
    cached = language.num_key_value_heads * head
    attention, mlp = 2 * (language.hidden_size + cached), 3 * language.intermediate_size
    decoder = tokens * (2 * language.hidden_size + max(attention, mlp))
    first_layer = 4 * config.vision_dim if len(config.towers) == 2 else language.hidden_size
    projector = config.patches * (config.vision_dim + first_layer + language.hidden_size)
    stage = max(decoder, projector, *map(_tower_numbers, config.towers)) * dtype.itemsize
    unpacked = language.hidden_size * max(language.intermediate_size, language.hidden_size) * dtype.itemsize
    return stage + (answer + 1) * language.vocab_size * 4 + (unpacked if quantization in ("int8", "nf4") else 0)


def _tower_numbers(tower: TowerConfig) -> int:
    length = tower.patches + tower.prefix_tokens
    width = 2 * tower.embed_dim + max(4 * tower.embed_dim, 2 * tower.mlp_dim)
    return length * width + 2 * tower.num_heads * length**2
