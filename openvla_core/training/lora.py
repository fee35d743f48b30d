"""LoRA adapters for training: peft's layers on modules that are named one by one, so that no rule of names decides."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openvla_core.errors import ConfigError
from openvla_core.model import OpenVLA
from openvla_core.quantization import is_quantized

ADAPTER = "default"
HEAD = "language_model.lm_head"
# peft's own name for a part of an adapter in a model, and in its files.
_IN_MODEL = re.compile(rf"\.(lora_[AB])\.{ADAPTER}\.")


@dataclass(frozen=True)
class LoraSettings:
    """rank and alpha: an adapter adds alpha / rank times B A to a weight. targets: see `target_names`."""

    rank: int = 32
    alpha: float = 16.0
    targets: str = "reference"


def target_names(model: OpenVLA, targets: str) -> list[str]:
    """Full names of the modules that get an adapter.

    "reference": every linear layer and patch embedding, the head included, as the published fine-tuning did; also those
    that are never run, the last block of each tower and the attention pool. "modern": linear layers without the head.
    """
    kinds = {"reference": (nn.Linear, nn.Conv2d), "modern": (nn.Linear,)}
    if targets not in kinds:
        raise ConfigError(f"lora_targets is {targets!r}; choose one of {', '.join(kinds)}.")
    names = [name for name, module in model.named_modules() if isinstance(module, kinds[targets])]
    return names if targets == "reference" else [name for name in names if name != HEAD]


def add_adapters(model: OpenVLA, settings: LoraSettings) -> None:
    """Puts adapters into the model, in place, on the meta device; `initialize_adapters` gives them values."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("adapters need the package 'peft'; install it or choose strategy 'full'.") from error
    quantized = any(is_quantized(module) for module in model.modules())
    model.is_loaded_in_4bit = quantized  # type: ignore[assignment]  # how peft learns of NF4 layers
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        bias="none",
        target_modules=target_names(model, settings.targets),
    )
    inject_adapter_in_model(config, model, adapter_name=ADAPTER, low_cpu_mem_usage=True)


def initial_value(name: str, shape: torch.Size, settings: LoraSettings, seed: int) -> Tensor | None:
    """What an adapter's tensor begins with, float32, on the CPU; None for B, which is zero.

    Depends on the name and the seed alone, so that any number of processes begin with the same adapters.
    """
    if ".lora_B." in name:
        return None
    generator = torch.Generator().manual_seed(_number(name, seed))
    return torch.randn(shape, generator=generator) / settings.rank


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return _IN_MODEL.search(name) is not None


def published_name(name: str) -> str:
    """The name a weight has without adapters: peft puts them around the layer they change."""
    return name.replace(".base_layer.", ".")


def adapter_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapters among the tensors of a model, by their names in adapter_model.safetensors."""
    names = {name: _IN_MODEL.sub(r".\1.", name) for name in state if is_adapter(name)}
    return {f"base_model.model.{stored}": state[name] for name, stored in names.items()}


def adapter_config(model: OpenVLA, settings: LoraSettings, base: str) -> dict[str, Any]:
    """adapter_config.json for the adapters of this model, which has them; as peft and `attach_adapter` read it."""
    names = sorted(
        {published_name(name).rsplit(".lora_A.")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    )
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": names,
        "inference_mode": True,
        "task_type": None,
    }


def _number(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
