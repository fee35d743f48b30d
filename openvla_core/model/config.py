"""The sizes of an OpenVLA model, read from the config.json of its checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

from openvla_core.errors import CheckpointError
from openvla_core.model.config_fields import read_integer, read_list, read_mapping, read_number, read_text
from openvla_core.prompt import check_style

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
                f"config.json has model_type {shortened(values.get('model_type'))}; expected 'openvla'. "
                "Give the directory of an OpenVLA checkpoint."
            )
        language = _language(values)
        pad_to = read_integer(values, "pad_to_multiple_of", 64)
        bins = read_integer(values, "n_action_bins", ACTION_BINS)
        if bins != ACTION_BINS:
            raise CheckpointError(f"config.json has n_action_bins {bins}; only {ACTION_BINS} is supported.")
        if not 0 < pad_to < language.vocab_size - ACTION_BINS:
            raise CheckpointError(
                f"config.json has pad_to_multiple_of {pad_to} and a vocabulary of {language.vocab_size}; "
                f"the {ACTION_BINS} action ids do not fit below the padding."
            )
        language_model = str(values.get("llm_backbone_id") or values.get("hf_llm_id") or "").lower()
        implied = "openvla-v01" if "vicuna" in language_model else "openvla"
        return cls(
            towers=_towers(values),
            language=language,
            pad_to_multiple_of=pad_to,
            pad_token_id=language.pad_token_id,
            prompt_style=check_style(read_text(values, "prompt_style", implied)),
            image_resize_strategy=read_text(values, "image_resize_strategy", "resize-naive"),
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


def _towers(values: Mapping[str, Any]) -> tuple[TowerConfig, ...]:
    backbone = values.get("vision_backbone_id")
    known_ids, known_size = BACKBONES.get(str(backbone), ((), 0))
    ids = read_list(values, "timm_model_ids", list(known_ids))
    if not ids:
        raise CheckpointError(
            f"config.json has vision_backbone_id {shortened(backbone)} and no timm_model_ids. "
            f"Known: {', '.join(BACKBONES)}."
        )
    sizes = read_list(values, "image_sizes", [known_size or 224] * len(ids))
    overrides = read_list(values, "timm_model_kwargs", [{}] * len(ids))
    activations = read_list(values, "timm_override_act_layers", [None] * len(ids))
    if not len(ids) == len(sizes) == len(overrides) == len(activations) or len(ids) > 2:
        raise CheckpointError(
            f"config.json lists {len(ids)} timm_model_ids, {len(sizes)} image_sizes, {len(overrides)} "
            f"timm_model_kwargs and {len(activations)} timm_override_act_layers; "
            "expected one or two of each, equally many."
        )
    if any(activations):
        raise CheckpointError(
            f"timm_override_act_layers {shortened(activations)} is not supported; every entry must be null."
        )
    towers = tuple(_tower(*entry) for entry in zip(ids, sizes, overrides, strict=True))
    if len({tower.patches for tower in towers}) != 1:
        raise CheckpointError(f"image_sizes {sizes} give the towers different patch grids; they must be equal.")
    return towers


def _tower(timm_id: Any, image_size: Any, overrides: Any) -> TowerConfig:
    if not isinstance(timm_id, str) or timm_id not in TOWERS:
        raise CheckpointError(
            f"timm_model_ids has {shortened(timm_id)}, which is not known. Known: {', '.join(TOWERS)}."
        )
    where = "timm_model_kwargs"
    overrides = read_mapping(overrides, where)
    unknown = set(overrides) - set(OVERRIDABLE)
    if unknown:
        raise CheckpointError(f"{where} has {shortened(sorted(unknown))}; only {', '.join(OVERRIDABLE)} can be set.")
    known = TOWERS[timm_id]
    width = read_integer(overrides, "embed_dim", known["embed_dim"], where, least=1)
    heads = read_integer(overrides, "num_heads", known["num_heads"], where, least=1)
    if width % heads:
        raise CheckpointError(f"embed_dim {width} is not a multiple of num_heads {heads}.")
    return TowerConfig(
        timm_id=timm_id,
        image_size=read_integer({"image_size": image_size}, "image_size", 0, "image_sizes", least=PATCH_SIZE),
        depth=read_integer(overrides, "depth", known["depth"], where, least=2),  # features come from the last but one
        embed_dim=width,
        num_heads=heads,
        mlp_ratio=read_number(overrides, "mlp_ratio", known["mlp_ratio"], where, most=64.0),
        prefix_tokens=known["prefix_tokens"],
        layer_scale=known["layer_scale"],
        attention_pool=known["attention_pool"],
    )


def _language(values: Mapping[str, Any]) -> LanguageConfig:
    where = "text_config"
    text = read_mapping(values.get(where), where)
    rope = read_mapping(text.get("rope_parameters"), "rope_parameters")
    _check_fixed(text, rope)
    default = LanguageConfig()

    def size(key: str, standard: int) -> int:
        return read_integer(text, key, standard, where, least=1)

    hidden, heads = size("hidden_size", default.hidden_size), size("num_attention_heads", default.num_attention_heads)
    if hidden % heads or hidden // heads % 2:
        raise CheckpointError(
            f"text_config has hidden_size {hidden}, not an even multiple of num_attention_heads {heads}."
        )
    if text.get("head_dim") not in (None, hidden // heads):
        raise CheckpointError(
            f"text_config has head_dim {shortened(text['head_dim'])}; only {hidden // heads} is supported."
        )
    shared = heads if text.get("num_key_value_heads") is None else size("num_key_value_heads", heads)
    if heads % shared:
        raise CheckpointError(f"text_config has {heads} num_attention_heads, not a multiple of {shared} for key_value.")
    # The reference default of 32000 is never published without vocab_size, because of the <PAD> token.
    vocab_size = size("vocab_size", default.vocab_size)
    ids = {
        "pad_token_id": read_integer(values, "pad_token_id", default.pad_token_id),
        "bos_token_id": read_integer(text, "bos_token_id", default.bos_token_id, where),
        "eos_token_id": read_integer(text, "eos_token_id", default.eos_token_id, where),
    }
    beyond = [f"{key} {value}" for key, value in ids.items() if value >= vocab_size]
    if beyond:
        raise CheckpointError(f"config.json has {', '.join(beyond)} beyond its vocabulary of {vocab_size}.")
    theta = text if text.get("rope_theta") is not None else {"rope_theta": default.rope_theta, **rope}
    return LanguageConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=size("intermediate_size", default.intermediate_size),
        num_hidden_layers=size("num_hidden_layers", default.num_hidden_layers),
        num_attention_heads=heads,
        num_key_value_heads=shared,
        rms_norm_eps=read_number(text, "rms_norm_eps", default.rms_norm_eps, where, most=0.1),
        rope_theta=read_number(theta, "rope_theta", default.rope_theta, where, most=1e12),
        max_position_embeddings=size("max_position_embeddings", default.max_position_embeddings),
        **ids,
    )


def _check_fixed(text: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    """What other Llamas vary and this model does not."""
    fixed = {
        "model_type": "llama",
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,
    }
    for key, expected in fixed.items():
        if text.get(key, expected) != expected:
            raise CheckpointError(f"text_config has {key} {shortened(text[key])}; only {expected!r} is supported.")
    if rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"text_config has rope_type {shortened(rope['rope_type'])}; only 'default' is supported.")
