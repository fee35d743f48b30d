"""LoRA adapters in PEFT format: attached beside the weights, or merged into them.

Only adapter_config.json and adapter_model.safetensors are read. The base model that the configuration names is never
looked up: the adapter goes onto the model it is given.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openvla_core.checksums import read_checksums
from openvla_core.errors import CheckpointError
from openvla_core.json_file import read_json
from openvla_core.model import OpenVLA
from openvla_core.quantization import is_quantized
from openvla_core.safetensors_file import TORCH_DTYPES, StoredTensor, read_header, read_into

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_RANK = 4096
MAX_PATTERN, MAX_REPEATS = 500, 3
NOTHING = type(None)
# Fields that decide what the adapter computes, with the types they may have.
COMPUTED: dict[str, tuple[type, ...]] = {
    "r": (int,),
    "lora_alpha": (int, float),
    "target_modules": (list, str),
    "exclude_modules": (list, str, NOTHING),
    "layers_to_transform": (list, int, NOTHING),
    "layers_pattern": (list, str, NOTHING),
    "rank_pattern": (dict,),
    "alpha_pattern": (dict,),
    "modules_to_save": (list, NOTHING),
    "fan_in_fan_out": (bool,),
    "use_rslora": (bool,),
    "use_dora": (bool,),
}
# Fields about the making of the adapter; what it computes does not depend on them.
IGNORED = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode", "init_lora_weights",
    "loftq_config", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "task_type", "ensure_weight_tying",
}  # fmt: skip


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter is, read without a model."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    parameters: int


def attach_adapter(model: OpenVLA, directory: str | Path, verify: bool = True) -> None:
    """Puts the adapter's layers into the model, in place.

    Args:
        model: that the adapter was trained on.
        directory: of the adapter.
        verify: whether its files must agree with its SHA256SUMS, where it has one.

    Raises CheckpointError when the adapter is incomplete, damaged, of another kind than LoRA or made for a model of
    other sizes; load the model again then, some layers may have been added already.
    """
    _peft_model(model, Path(directory), verify)


def merge_adapter(model: OpenVLA, directory: str | Path, verify: bool = True) -> None:
    """Adds the adapter to the weights themselves, in place; the model keeps its published parameter names.

    `verify` and errors as in `attach_adapter`.
    """
    _peft_model(model, Path(directory), verify).merge_and_unload()


def describe_adapter(directory: str | Path) -> AdapterFacts:
    """Reads the configuration and the header of the weights. Errors as in `attach_adapter`."""
    config, stored = _read(Path(directory))
    targets = config["target_modules"]
    parameters = sum(torch.Size(tensor.shape).numel() for tensor in stored.values())
    names = (targets,) if isinstance(targets, str) else tuple(sorted(targets))
    return AdapterFacts(config["r"], float(config["lora_alpha"]), names, parameters)


def _peft_model(model: OpenVLA, folder: Path, verify: bool) -> "PeftModel":
    config, stored = _read(folder)
    checksums = read_checksums(folder, "auto" if verify else False)
    if checksums is not None:
        checksums.check((CONFIG, WEIGHTS))
    if any(is_quantized(module) for module in model.modules()):
        raise CheckpointError("the model is quantized already. Merge the adapter first, then quantize.")
    _check_targets(folder, model, config["target_modules"])
    state = _tensors(folder, stored)
    try:
        from peft import LoraConfig, PeftModel
        from peft.utils.save_and_load import set_peft_model_state_dict
    except ImportError as error:
        raise CheckpointError("an adapter needs the package 'peft'; install it or merge the adapter first.") from error
    try:
        adapted = PeftModel(model, LoraConfig(inference_mode=True, **config))
        result: Any = set_peft_model_state_dict(adapted, state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise CheckpointError(f"the adapter {folder} does not fit this checkpoint: {_one_line(error)}") from error
    missing, unexpected = result
    own = [name for name in missing if "lora_" in name or "modules_to_save" in name]
    for what, names in (("lacks", own), ("holds unknown", unexpected)):
        if names:
            raise CheckpointError(
                f"the adapter {folder} does not fit this checkpoint: it {what} {len(names)} weights, such as "
                f"{sorted(names)[0]}. Give the adapter that was trained on this checkpoint."
            )
    adapted.eval()
    return adapted


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """The fields of the configuration that matter, checked, and where each weight lies."""
    if (folder / "adapter_model.bin").is_file() and not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder} has adapter_model.bin, which could run code when read, and no {WEIGHTS}. "
            "Save the adapter again with safe_serialization=True."
        )
    absent = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"the adapter {str(folder)!r} lacks {', '.join(absent)}; give a PEFT directory.")
    config = _config(folder / CONFIG)
    stored = read_header(folder / WEIGHTS)
    if not stored:
        raise CheckpointError(f"{folder / WEIGHTS} holds no weights. Copy the adapter again.")
    return config, stored


def _config(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if values.get("peft_type") != "LORA":
        raise CheckpointError(f"{path} has peft_type {values.get('peft_type')!r}; only 'LORA' adapters can be used.")
    for key in ("r", "lora_alpha", "target_modules"):
        if key not in values:
            raise CheckpointError(f"{path} lacks {key}. Copy the adapter again.")
    for key, kinds in COMPUTED.items():
        if key in values and (type(values[key]) not in kinds or not _holds_names(values[key])):
            expected = " or ".join("null" if kind is NOTHING else kind.__name__ for kind in kinds)
            raise CheckpointError(f"{path} has {key} {str(values[key])[:80]!r}; expected {expected}.")
    other = sorted(key for key in set(values) - set(COMPUTED) - IGNORED if values[key])
    if values.get("bias", "none") == "none":
        other = [key for key in other if key != "bias"]
    if other:
        raise CheckpointError(f"{path} sets {', '.join(other)}: more than plain LoRA. Merge it where it was made.")
    _check_patterns(path, values)
    ranks = [values["r"], *values.get("rank_pattern", {}).values()]
    if not all(type(rank) is int and 0 < rank <= MAX_RANK for rank in ranks):
        raise CheckpointError(f"{path} has ranks {ranks}; expected whole numbers from 1 to {MAX_RANK}.")
    return {key: values[key] for key in COMPUTED if key in values}


def _check_patterns(path: Path, values: Mapping[str, Any]) -> None:
    """Some fields are regular expressions, and one can be written that takes for ever."""
    patterns = [values[key] for key in COMPUTED if isinstance(values.get(key), str)]
    for key in ("rank_pattern", "alpha_pattern", "layers_pattern"):
        patterns += [item for item in values.get(key) or () if isinstance(values[key], (dict, list))]
    for pattern in map(str, patterns):
        repeats = len(re.findall(r"[*+{]", pattern)) + pattern.count("?") // 3
        if len(pattern) > MAX_PATTERN or repeats > MAX_REPEATS or re.search(r"\)[*+{]", pattern):
            raise CheckpointError(
                f"{path} has the pattern {pattern[:80]!r}, which could take for ever to match; expected names of "
                f"modules, or a pattern with at most {MAX_REPEATS} repetitions and none of a group."
            )


def _holds_names(value: Any) -> bool:
    """A list names modules, or counts layers; anything else is left to its own check."""
    return not isinstance(value, list) or all(type(item) in (str, int) and item != "" for item in value)


def _check_targets(folder: Path, model: OpenVLA, targets: list[str] | str) -> None:
    """PEFT ignores a name that matches nothing as long as another one does; the adapter would then be incomplete."""
    if isinstance(targets, str):
        return
    names = [name for name, _ in model.named_modules()]
    unknown = sorted(target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names))
    if unknown:
        raise CheckpointError(
            f"the adapter {folder} changes {', '.join(map(str, unknown[:5]))}, which this checkpoint does not have. "
            "Give the adapter that was trained on this checkpoint."
        )


def _tensors(folder: Path, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    state = {}
    with (folder / WEIGHTS).open("rb") as file:
        for name, entry in stored.items():
            if entry.dtype not in TORCH_DTYPES:
                raise CheckpointError(f"{folder / WEIGHTS}: {name} is {entry.dtype}; expected bf16, fp16 or fp32.")
            state[name] = torch.empty(entry.shape, dtype=TORCH_DTYPES[entry.dtype])
            read_into(file, entry, state[name])
            if not bool(torch.isfinite(state[name]).all()):
                raise CheckpointError(f"{folder / WEIGHTS}: {name} is not finite. Copy or train the adapter again.")
    return state


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
