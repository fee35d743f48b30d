"""A new, untrained OpenVLA from published backbones: DINOv2, SigLIP and a Llama. Only the projector is random."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openvla_core.checkpoint_saving import save_checkpoint
from openvla_core.conversion.prismatic import text_sizes
from openvla_core.conversion.vocabulary import complete_tokenizer, pad_vocabulary
from openvla_core.conversion.weight_source import read_config, read_state
from openvla_core.errors import CheckpointError
from openvla_core.image_processor import preprocessor_config
from openvla_core.model import OpenVLAConfig, TowerConfig
from openvla_core.model.config import DINOV2, SIGLIP_224, TOWERS
from openvla_core.model.projector import Projector
from openvla_core.model.vision_backbone import LAYER_NORM_EPS

# Names as transformers writes them -> names as timm and the published checkpoints write them.
DINOV2_NAMES = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.(norm[12]|mlp\.fc[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.scale_factor"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
)
SIGLIP_NAMES = (
    (r"embeddings\.patch_embedding\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(weight|bias)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", r"blocks.\1.attn.query.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.k_proj\.(weight|bias)", r"blocks.\1.attn.key.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.v_proj\.(weight|bias)", r"blocks.\1.attn.value.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"post_layernorm\.(weight|bias)", r"norm.\1"),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.in_proj_(weight|bias)", r"attn_pool.in_proj.\1"),
    (r"head\.attention\.out_proj\.(weight|bias)", r"attn_pool.proj.\1"),
    (r"head\.layernorm\.(weight|bias)", r"attn_pool.norm.\1"),
    (r"head\.mlp\.(fc[12])\.(weight|bias)", r"attn_pool.mlp.\1.\2"),
)
UNUSED = re.compile(r"text_model\.|logit_|embeddings\.mask_token$|.*position_ids$|head\.(weight|bias)$")


def from_backbones(
    directory: str | Path,
    towers: Mapping[str, str | Path],
    llama: str | Path,
    tokenizer: str | Path,
    image_size: int = 224,
    changes: Mapping[str, Any] | None = None,
    dtype: str = "bfloat16",
    seed: int = 0,
) -> Path:
    """Assembles a checkpoint to start training from; it has no action statistics yet.

    Args:
        directory: of the new checkpoint.
        towers: {"dinov2": path, "siglip": path}, or SigLIP alone; each a directory as transformers writes it, or a
            state dict of timm or transformers in one .safetensors or .pt file.
        llama: directory of a LlamaForCausalLM.
        tokenizer: directory with its tokenizer.json.
        image_size: pixels; position embeddings of another size are resampled.
        changes: fields of config.json to add or replace.
        seed: of the projector's random weights.
    """
    if list(towers) not in (["dinov2", "siglip"], ["siglip"]):
        raise CheckpointError(f"the towers are {', '.join(towers) or 'missing'}; give dinov2 and siglip, or siglip.")
    ids = {"dinov2": DINOV2, "siglip": SIGLIP_224}
    read = [read_tower(path, ids[name], image_size) for name, path in towers.items()]
    state = {
        f"vision_backbone.{place}.{name}": tensor
        for place, (_, tower) in zip(("featurizer", "fused_featurizer"), read, strict=False)
        for name, tensor in tower.items()
    }
    language, text = read_llama(llama)
    state |= language
    config = {
        "model_type": "openvla",
        "arch_specifier": "no-align+fused-gelu-mlp" if len(read) == 2 else "no-align+gelu-mlp",
        "vision_backbone_id": "dinosiglip-vit-so-224px" if len(read) == 2 else "siglip-vit-so400m",
        "llm_backbone_id": "llama2-7b-pure",
        "timm_model_ids": [tower.timm_id for tower, _ in read],
        "timm_model_kwargs": [_changed_sizes(tower) for tower, _ in read],
        "image_sizes": [image_size] * len(read),
        "use_fused_vision_backbone": len(read) == 2,
        "image_resize_strategy": "resize-naive",
        "text_config": text,
        **(changes or {}),
    }
    built = complete_tokenizer(tokenizer)
    config = pad_vocabulary(state, config, built)
    parsed = OpenVLAConfig.from_dict(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = Projector(parsed.vision_dim, parsed.language.hidden_size, len(read) == 2)
    state |= {f"projector.{name}": tensor for name, tensor in projector.state_dict().items()}
    preprocessor = preprocessor_config(image_size, len(read), config["image_resize_strategy"])
    return save_checkpoint(directory, state, config, built, {}, preprocessor, dtype=dtype, source=tokenizer)


def read_tower(path: str | Path, timm_id: str, image_size: int) -> tuple[TowerConfig, dict[str, Tensor]]:
    """One vision tower under the published names, with position embeddings (1, patches, D) for `image_size` pixels.

    The number of heads is taken from config.json beside the weights; without one it is that of the named tower.
    """
    config = read_config(path)
    state = tower_names(read_state(path))
    known = TOWERS[timm_id]
    try:
        width, mlp = state["pos_embed"].shape[-1], state["blocks.0.mlp.fc1.weight"].shape[0]
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        prefix = 1 + state["reg_token"].shape[1] if "reg_token" in state else 0
        tower = TowerConfig(timm_id=timm_id, image_size=image_size, **known)
        heads = config.get("num_attention_heads", known["num_heads"])
        ratio = known["mlp_ratio"] if int(width * known["mlp_ratio"]) == mlp else (mlp + 0.5) / width
        if prefix != tower.prefix_tokens or ("blocks.0.ls1.scale_factor" in state) != tower.layer_scale:
            raise CheckpointError(f"{path} is not a {timm_id}: it has {prefix} prefix tokens. Are the towers swapped?")
        state["pos_embed"] = resample_positions(state["pos_embed"], tower.patches)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a vision transformer as timm or transformers write it: {error!r}."
        ) from error
    _check_kind(path, config)
    return replace(tower, depth=depth, embed_dim=width, num_heads=heads, mlp_ratio=ratio), state


def tower_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tower's state dict of timm or transformers under the published names; text towers and heads are left out."""
    state = {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not UNUSED.match(name)}
    if not any(name.startswith("encoder.") for name in state):
        return {name.replace(".gamma", ".scale_factor"): tensor for name, tensor in state.items()}
    patterns = DINOV2_NAMES if "embeddings.cls_token" in state else SIGLIP_NAMES
    renamed = {_rename(name, patterns): tensor for name, tensor in state.items()}
    for name in [name for name in renamed if ".attn.query." in name]:
        parts = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        renamed[name.replace("query", "qkv")] = torch.cat(parts)
    for kind in ("weight", "bias"):
        if f"attn_pool.in_proj.{kind}" in renamed:
            query, key, value = renamed.pop(f"attn_pool.in_proj.{kind}").chunk(3)
            renamed[f"attn_pool.q.{kind}"] = query.contiguous()
            renamed[f"attn_pool.kv.{kind}"] = torch.cat([key, value])
    positions = renamed["pos_embed"].view(1, -1, renamed["pos_embed"].shape[-1])
    if "cls_token" in renamed:
        # transformers adds a position to the class token; here it is part of the token itself.
        renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
        positions = positions[:, 1:]
    renamed["pos_embed"] = positions.contiguous()
    return renamed


def resample_positions(positions: Tensor, patches: int) -> Tensor:
    """(1, P, D) -> (1, patches, D), both square grids; bicubic and antialiased as timm does it."""
    if positions.shape[1] == patches:
        return positions
    old, new = (round(count**0.5) for count in (positions.shape[1], patches))
    if old * old != positions.shape[1]:
        raise CheckpointError(f"{positions.shape[1]} position embeddings are no square grid.")
    grid = positions.float().view(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True)
    return grid.permute(0, 2, 3, 1).reshape(1, patches, -1).to(positions.dtype)


def read_llama(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a LlamaForCausalLM under the published names, and its text_config, written out.

    Its own rms_norm_eps and rope_theta are kept: the model goes on computing what it computed.
    """
    config = read_config(path)
    state = {f"language_model.{name}": t for name, t in read_state(path).items() if not name.endswith("inv_freq")}
    if config.get("tie_word_embeddings"):
        state["language_model.lm_head.weight"] = state["language_model.model.embed_tokens.weight"]
    kept = ("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_parameters",
            "rope_scaling", "max_position_embeddings", "hidden_act", "attention_bias", "mlp_bias", "bos_token_id",
            "eos_token_id", "model_type")  # fmt: skip
    return state, text_sizes(state) | {key: config[key] for key in kept if config.get(key) is not None}


def _rename(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, target in patterns:
        if match := re.fullmatch(pattern, name):
            return match.expand(target)
    raise CheckpointError(f"the tower has {name[:100]!r}, which is not part of a known vision transformer.")


def _check_kind(path: str | Path, config: Mapping[str, Any]) -> None:
    eps, activation = config.get("layer_norm_eps", LAYER_NORM_EPS), config.get("hidden_act", "gelu")
    if eps != LAYER_NORM_EPS or config.get("use_swiglu_ffn", False):
        raise CheckpointError(f"{path} has layer_norm_eps {eps} or a gated MLP; expected {LAYER_NORM_EPS} and none.")
    if activation not in ("gelu", "gelu_pytorch_tanh"):  # these towers run with the exact GELU, as timm's do
        raise CheckpointError(f"{path} has hidden_act {activation!r}; expected 'gelu'.")


def _changed_sizes(tower: TowerConfig) -> dict[str, Any]:
    """What timm_model_kwargs must say because the tower differs from the one it is named after."""
    return {key: getattr(tower, key) for key in ("depth", "embed_dim", "num_heads", "mlp_ratio")
            if getattr(tower, key) != TOWERS[tower.timm_id][key]}  # fmt: skip
