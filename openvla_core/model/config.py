"""The sizes of an OpenVLA model, read from the config.json of its checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openvla_core.errors import CheckpointError

PATCH_SIZE = 14
ACTION_BINS = 256

DINOV2 = "vit_large_patch14_reg4_dinov2.lvd142m"
SIGLIP_224 = "vit_so400m_patch14_siglip_224"
SIGLIP_384 = "vit_so400m_patch14_siglip_384"

# What config.json leaves out when it only names the vision backbone: tower ids, then image size.
BACKBONES: dict[str, tuple[tuple[str, ...], int]] = {
    "dinosiglip-vit-so-224px": ((DINOV2, SIGLIP_224), 224),
    "dinosiglip-vit-so-384px": ((DINOV2, SIGLIP_384), 384),
    "siglip-vit-so400m": ((SIGLIP_224,), 224),
    "siglip-vit-so400m-384px": ((SIGLIP_384,), 384),
}

_SIGLIP: dict[str, Any] = {
    "depth": 27, "embed_dim": 1152, "num_heads": 16, "mlp_ratio": 3.7362,
    "prefix_tokens": 0, "layer_scale": False, "attention_pool": True,
}  # fmt: skip
TOWERS: dict[str, dict[str, Any]] = {
    DINOV2: {
        "depth": 24, "embed_dim": 1024, "num_heads": 16, "mlp_ratio": 4.0,
        "prefix_tokens": 5, "layer_scale": True, "attention_pool": False,
    },
    SIGLIP_224: _SIGLIP,
    SIGLIP_384: _SIGLIP,
}  # fmt: skip
OVERRIDABLE = ("depth", "embed_dim", "num_heads", "mlp_ratio")


@dataclass(frozen=True)
class TowerConfig:
    """One vision transformer. `prefix_tokens` counts the class token and the register tokens before the patches."""

    timm_id: str
    image_size: int
    depth: int
    embed_dim: int
    num_heads: int
    mlp_ratio: float
    prefix_tokens: int
    layer_scale: bool
    attention_pool: bool

    @property
    def patches(self) -> int:
        """Patches of one image; a border narrower than a patch is dropped."""
        return (self.image_size // PATCH_SIZE) ** 2

    @property
    def mlp_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)


@dataclass(frozen=True)
class LanguageConfig:
    """A Llama. The defaults are those a published `text_config` relies on, written out on purpose.

    rms_norm_eps is 1e-6 and not Llama-2's own 1e-5: the published model computes with 1e-6.
    """

    vocab_size: int = 32064
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    pad_token_id: int = 32000
    bos_token_id: int = 1
    eos_token_id: int = 2


@dataclass(frozen=True)
class OpenVLAConfig:
    """Everything that decides a tensor shape or a prompt. Build it with `OpenVLAConfig.from_dict`."""

    towers: tuple[TowerConfig, ...]
    language: LanguageConfig
    pad_to_multiple_of: int = 64
    pad_token_id: int = 32000
    prompt_style: str = "openvla"
    image_resize_strategy: str = "resize-naive"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OpenVLAConfig":
        """Reads a parsed config.json. Raises CheckpointError where the model would differ from what it describes."""
        if values.get("model_type") != "openvla":
            raise CheckpointError(
                f"config.json has model_type {values.get('model_type')!r}; expected 'openvla'. "
                "Give the directory of an OpenVLA checkpoint."
            )
        pad_token_id = _integer(values, "pad_token_id", 32000)
        language = _language(values, pad_token_id)
        pad_to = _integer(values, "pad_to_multiple_of", 64)
        bins = _integer(values, "n_action_bins", ACTION_BINS)
        if bins != ACTION_BINS:
            raise CheckpointError(f"config.json has n_action_bins {bins}; only {ACTION_BINS} is supported.")
        if not 0 < pad_to < language.vocab_size - ACTION_BINS:
            raise CheckpointError(
                f"config.json has pad_to_multiple_of {pad_to} and a vocabulary of {language.vocab_size}; "
                f"the {ACTION_BINS} action ids do not fit below the padding."
            )
        vicuna = str(values.get("llm_backbone_id", "")).startswith("vicuna")
        return cls(
            towers=_towers(values),
            language=language,
            pad_to_multiple_of=pad_to,
            pad_token_id=pad_token_id,
            prompt_style="openvla-v01" if vicuna else "openvla",
            image_resize_strategy=values.get("image_resize_strategy", "resize-naive"),
        )

    @property
    def action_vocab_size(self) -> int:
        """First id above the action ids: 32000 for the 7B. The action ids are the 256 below."""
        return self.language.vocab_size - self.pad_to_multiple_of

    @property
    def patches(self) -> int:
        """Patch embeddings per image in the language model's sequence; the towers share one grid."""
        return self.towers[0].patches

    @property
    def vision_dim(self) -> int:
        return sum(tower.embed_dim for tower in self.towers)

    @property
    def channels(self) -> int:
        """Channels of pixel_values: three per tower, in tower order."""
        return 3 * len(self.towers)


def _integer(values: Mapping[str, Any], key: str, default: int) -> int:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise CheckpointError(f"config.json has {key} {value!r}; expected a whole number of 0 or more.")
    return value


def _towers(values: Mapping[str, Any]) -> tuple[TowerConfig, ...]:
    backbone = values.get("vision_backbone_id")
    known_ids, known_size = BACKBONES.get(str(backbone), ((), 0))
    ids = values.get("timm_model_ids") or known_ids
    if not ids:
        raise CheckpointError(
            f"config.json has vision_backbone_id {backbone!r} and no timm_model_ids. Known: {', '.join(BACKBONES)}."
        )
    sizes = values.get("image_sizes") or [known_size or 224] * len(ids)
    overrides = values.get("timm_model_kwargs") or [{}] * len(ids)
    activations = values.get("timm_override_act_layers") or [None] * len(ids)
    if not len(ids) == len(sizes) == len(overrides) == len(activations) or len(ids) > 2:
        raise CheckpointError(
            f"config.json lists {len(ids)} timm_model_ids, {len(sizes)} image_sizes, {len(overrides)} "
            f"timm_model_kwargs and {len(activations)} timm_override_act_layers; "
            "expected one or two of each, equally many."
        )
    if any(activations):
        raise CheckpointError(f"timm_override_act_layers {activations} is not supported; every entry must be null.")
    towers = tuple(_tower(*entry) for entry in zip(ids, sizes, overrides, strict=True))
    if len({tower.patches for tower in towers}) != 1:
        raise CheckpointError(f"image_sizes {sizes} give the towers different patch grids; they must be equal.")
    return towers


def _tower(timm_id: str, image_size: Any, overrides: Mapping[str, Any] | None) -> TowerConfig:
    if timm_id not in TOWERS:
        raise CheckpointError(f"timm_model_ids has {timm_id!r}, which is not known. Known: {', '.join(TOWERS)}.")
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < PATCH_SIZE:
        raise CheckpointError(f"image_sizes has {image_size!r}; expected pixels, at least {PATCH_SIZE}.")
    unknown = set(overrides or {}) - set(OVERRIDABLE)
    if unknown:
        raise CheckpointError(f"timm_model_kwargs has {sorted(unknown)}; only {', '.join(OVERRIDABLE)} can be set.")
    sizes = TOWERS[timm_id] | dict(overrides or {})
    if sizes["depth"] < 2:
        raise CheckpointError("timm_model_kwargs sets a depth below 2; features are taken before the last block.")
    if sizes["embed_dim"] % sizes["num_heads"]:
        raise CheckpointError(f"embed_dim {sizes['embed_dim']} is not a multiple of num_heads {sizes['num_heads']}.")
    return TowerConfig(timm_id=timm_id, image_size=image_size, **sizes)


def _language(values: Mapping[str, Any], pad_token_id: int) -> LanguageConfig:
    text = values.get("text_config") or {}
    if text.get("model_type", "llama") != "llama":
        raise CheckpointError(f"text_config has model_type {text['model_type']!r}; only 'llama' is supported.")
    fixed = {
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,
    }
    for key, expected in fixed.items():
        if text.get(key, expected) != expected:
            raise CheckpointError(f"text_config has {key} {text[key]!r}; only {expected!r} is supported.")
    rope = text.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"text_config has rope_type {rope['rope_type']!r}; only 'default' is supported.")
    defaults = LanguageConfig()
    heads = _integer(text, "num_attention_heads", defaults.num_attention_heads)
    hidden = _integer(text, "hidden_size", defaults.hidden_size)
    if not heads or hidden % heads:
        raise CheckpointError(f"text_config has hidden_size {hidden}, not a multiple of num_attention_heads {heads}.")
    if text.get("head_dim") not in (None, hidden // heads):
        raise CheckpointError(f"text_config has head_dim {text['head_dim']}; only {hidden // heads} is supported.")
    # The reference default of 32000 is never published without vocab_size, because of the <PAD> token.
    return LanguageConfig(
        vocab_size=_integer(text, "vocab_size", defaults.vocab_size),
        hidden_size=hidden,
        intermediate_size=_integer(text, "intermediate_size", defaults.intermediate_size),
        num_hidden_layers=_integer(text, "num_hidden_layers", defaults.num_hidden_layers),
        num_attention_heads=heads,
        num_key_value_heads=text.get("num_key_value_heads") or heads,
        rms_norm_eps=float(text.get("rms_norm_eps", defaults.rms_norm_eps)),
        rope_theta=float(text.get("rope_theta") or rope.get("rope_theta") or defaults.rope_theta),
        max_position_embeddings=_integer(text, "max_position_embeddings", defaults.max_position_embeddings),
        pad_token_id=pad_token_id,
        bos_token_id=_integer(text, "bos_token_id", defaults.bos_token_id),
        eos_token_id=_integer(text, "eos_token_id", defaults.eos_token_id),
    )
