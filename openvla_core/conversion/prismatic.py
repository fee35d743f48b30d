"""Checkpoints of the Prismatic training code: a run directory with config.json and checkpoints/*.pt, both ways."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvla_core.checkpoint_saving import save_checkpoint
from openvla_core.checksums import read_checksums
from openvla_core.conversion.vocabulary import complete_tokenizer, pad_vocabulary
from openvla_core.conversion.weight_source import read_torch_file
from openvla_core.errors import CheckpointError
from openvla_core.image_processor import preprocessor_config
from openvla_core.json_file import read_json
from openvla_core.model import OpenVLAConfig
from openvla_core.weights import COMPUTED_SUFFIX, check_tensors, expected_shapes, read_tensors, stored_tensors

LATEST = Path("checkpoints") / "latest-checkpoint.pt"
TOWER_NAMES = {
    "dino_featurizer.": "vision_backbone.featurizer.",
    "siglip_featurizer.": "vision_backbone.fused_featurizer.",
    "featurizer.": "vision_backbone.featurizer.",
}
PROJECTOR_LAYERS = {"0": "fc1", "2": "fc2", "4": "fc3"}
# A run of the action model names only the vision-language model it began with.
BASE_MODELS: dict[str, dict[str, Any]] = {
    "prism-dinosiglip-224px+7b": {
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "llm_backbone_id": "llama2-7b-pure",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "image_resize_strategy": "resize-naive",
        "llm_max_length": 2048,
    },
    "siglip-224px+7b": {
        "vision_backbone_id": "siglip-vit-so400m",
        "llm_backbone_id": "vicuna-v15-7b",
        "arch_specifier": "no-align+gelu-mlp",
        "image_resize_strategy": "letterbox",
        "llm_max_length": 2048,
    },
}
KEPT_FIELDS = tuple(BASE_MODELS["siglip-224px+7b"])
HEAD_DIM = 128  # of every Llama-2 and Vicuna; weights alone do not tell


def import_prismatic(
    source: str | Path,
    directory: str | Path,
    tokenizer: str | Path,
    changes: Mapping[str, Any] | None = None,
    dtype: str = "bfloat16",
) -> Path:
    """Converts a Prismatic run into a checkpoint directory.

    Args:
        source: the run directory, or one .pt file in its folder `checkpoints`.
        directory: of the new checkpoint.
        tokenizer: directory with the tokenizer.json of the language model.
        changes: fields of config.json to add or replace, for models of other sizes than the published ones.
        dtype: of the stored weights.

    Raises:
        CheckpointError: files are missing, would run code, or do not describe one model.
    """
    source = Path(source)
    weights = source if source.is_file() else source / LATEST
    run = weights.parent.parent
    state = from_prismatic(read_torch_file(weights))
    config = _config(read_json(run / "config.json"), state) | dict(changes or {})
    built, state = complete_tokenizer(tokenizer), dict(state)
    config = pad_vocabulary(state, config, built)
    parsed = OpenVLAConfig.from_dict(config)
    strategy = config["image_resize_strategy"]
    return save_checkpoint(
        directory,
        state,
        config,
        built,
        read_json(run / "dataset_statistics.json"),
        preprocessor_config(parsed.towers[0].image_size, len(parsed.towers), strategy),
        dtype=dtype,
        source=tokenizer,
    )


def export_prismatic(directory: str | Path, run: str | Path) -> Path:
    """Writes the Prismatic run directory of a checkpoint; returns its .pt file. Raises CheckpointError."""
    directory, run = Path(directory), Path(run)
    if run.exists() and any(run.iterdir()):
        raise CheckpointError(f"{run} already exists; choose another directory.")
    config_json = read_json(directory / "config.json")
    config = OpenVLAConfig.from_dict(config_json)
    stored = stored_tensors(directory)
    check_tensors(stored, expected_shapes(config))
    dtype = torch.float32 if any(tensor.dtype == "F32" for tensor in stored.values()) else torch.bfloat16
    parts = to_prismatic(dict(read_tensors(stored, "cpu", dtype, read_checksums(directory))))
    model = {key: config_json[key] for key in KEPT_FIELDS if key in config_json}
    base = next((name for name, fields in BASE_MODELS.items() if model.items() <= fields.items()), None)
    statistics = directory / "dataset_statistics.json"
    files = {
        "config.json": {"model": {"model_id": base, **model}, "vla": {"base_vlm": base}},
        "dataset_statistics.json": read_json(statistics) if statistics.is_file() else config_json.get("norm_stats", {}),
    }
    (run / LATEST).parent.mkdir(parents=True, exist_ok=True)
    for name, values in files.items():
        (run / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    torch.save({"model": parts}, run / LATEST)
    return run / LATEST


def from_prismatic(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """The {"model": {part: {name: tensor}}} of a .pt file under the published names. Raises CheckpointError."""
    parts = values.get("model", values)
    absent = [part for part in ("vision_backbone", "projector", "llm_backbone") if not _is_state(parts, part)]
    if absent:
        raise CheckpointError(f"the file has no weights for {', '.join(absent)}; is it a Prismatic checkpoint?")
    state = {}
    for part in ("vision_backbone", "projector", "llm_backbone"):
        for name, tensor in parts[part].items():
            if not name.endswith(COMPUTED_SUFFIX):
                state[_published(part, name)] = tensor
    return state


def to_prismatic(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `from_prismatic`, without the outer "model"."""
    fused = any(name.startswith("vision_backbone.fused_featurizer.") for name in state)
    parts: dict[str, dict[str, Tensor]] = {"vision_backbone": {}, "projector": {}, "llm_backbone": {}}
    layers = {ours: theirs for theirs, ours in PROJECTOR_LAYERS.items()}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part == "language_model":
            parts["llm_backbone"][f"llm.{rest}"] = tensor
        elif part == "projector":
            layer, _, kind = rest.partition(".")
            parts["projector"][f"projector.{layers[layer]}.{kind}"] = tensor
        else:
            rest = rest.removeprefix("fused_")
            tower = ("siglip_" if name.startswith("vision_backbone.fused_") else "dino_") if fused else ""
            parts["vision_backbone"][tower + rest.replace(".scale_factor", ".gamma")] = tensor
    return parts


def _is_state(parts: Any, part: str) -> bool:
    values = parts.get(part) if isinstance(parts, Mapping) else None
    return isinstance(values, Mapping) and bool(values) and all(isinstance(v, Tensor) for v in values.values())


def _published(part: str, name: str) -> str:
    if part == "llm_backbone" and name.startswith("llm."):
        return "language_model." + name.removeprefix("llm.")
    if part == "projector" and (match := re.fullmatch(r"projector\.([024])\.(weight|bias)", name)):
        return f"projector.{PROJECTOR_LAYERS[match[1]]}.{match[2]}"
    if part == "vision_backbone":
        for theirs, ours in TOWER_NAMES.items():
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs).replace(".gamma", ".scale_factor")
    raise CheckpointError(f"the part {part} has {name[:100]!r}, which no published model has.")


def _config(run_config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """config.json for the new checkpoint, from the run's own and from the shapes of the weights."""
    fields = run_config.get("model")
    if not isinstance(fields, Mapping):
        base = (run_config.get("vla") or {}).get("base_vlm")
        if base not in BASE_MODELS:
            raise CheckpointError(
                f"the run began with {base!r}, which is not known. Known: {', '.join(BASE_MODELS)}. "
                "Put its fields under 'model' in the config.json of the run."
            )
        fields = BASE_MODELS[base]
    return {
        "model_type": "openvla",
        "image_resize_strategy": "resize-naive",
        **{key: fields[key] for key in KEPT_FIELDS if key in fields},
        "pad_token_id": 32000,
        "pad_to_multiple_of": 64,
        "text_config": text_sizes(state),
    }


def text_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The part of text_config that the weights of the language model tell."""
    layers = {int(m[1]) for name in state if (m := re.match(r"language_model\.model\.layers\.(\d+)\.", name))}
    first = "language_model.model.layers.0."
    try:
        vocab_size, hidden = state["language_model.model.embed_tokens.weight"].shape
        heads = max(hidden // HEAD_DIM, 1)
        return {
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": hidden,
            "intermediate_size": state[first + "mlp.gate_proj.weight"].shape[0],
            "num_hidden_layers": len(layers),
            "num_attention_heads": heads,
            "num_key_value_heads": state[first + "self_attn.k_proj.weight"].shape[0] // (hidden // heads),
        }
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"the language model is incomplete: {error!r}. Copy the file again.") from error
