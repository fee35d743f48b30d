"""What a training is made of at one step: weights that are trained, the optimizer's moments, where the data are."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openvla_core.errors import ConfigError
from openvla_core.training.recipe import Recipe, to_mapping
from openvla_core.training.split import SPLIT_VERSION

log = logging.getLogger(__name__)
MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"
# What may be changed between two parts of a training without making it another one.
FREE = {
    "base", "data", "data_root", "out", "max_steps", "stop_accuracy", "stop_window", "device", "log_every",
    "save_every", "keep_last", "validate_every", "validation_steps", "workers", "tensorboard", "wandb", "merge",
    "compile", "remat", "sharding", "batch_size", "accumulation", "bag_settings",
}  # fmt: skip


def training_tensors(trainable: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Trained weights as model/NAME, the optimizer's numbers as optimizer/NAME/...; frozen weights are the base's."""
    tensors: dict[str, Tensor] = {f"model/{name}": parameter for name, parameter in trainable.items()}
    for name, parameter in trainable.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value
    return tensors


def training_targets(
    trainable: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, stored: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Where `stored` is to be read into: the weights, and moments made for each parameter that had some."""
    tensors: dict[str, Tensor] = {f"model/{name}": parameter for name, parameter in trainable.items()}
    for name, parameter in trainable.items():
        if f"optimizer/{name}/{STEP}" not in stored:
            continue
        fused = bool(optimizer.defaults.get("fused"))
        step = torch.zeros((), dtype=torch.float32, device=parameter.device if fused else "cpu")
        state = {STEP: step, **{key: torch.zeros_like(parameter.detach()) for key in MOMENTS}}
        optimizer.state[parameter] = state
        tensors |= {f"optimizer/{name}/{key}": value for key, value in state.items()}
    return tensors


def check_same_training(recipe: Recipe, samples_per_step: int, facts: Mapping[str, Any]) -> None:
    """Raises ConfigError when a checkpoint with these facts is of a training that would have gone another way."""
    saved, saved_samples = facts["recipe"], facts["samples_per_step"]
    now = to_mapping(recipe)
    changed = sorted(key for key in now if key not in FREE and key in saved and saved[key] != now[key])
    if samples_per_step != saved_samples:
        changed.append(f"samples per step ({saved_samples}, now {samples_per_step})")
    if facts.get("split", 1) != SPLIT_VERSION:
        changed.append("which episodes validate (an earlier release decided by their number)")
    if changed:
        raise ConfigError(
            f"`out` holds a training with other settings: {', '.join(changed)}. Continue it with its own recipe, or "
            "choose another `out`."
        )


def arithmetic(recipe: Recipe, world: int, device: torch.device, dtype: torch.dtype) -> dict[str, str | int]:
    """What decides in which order a step adds its numbers up: only with the same does a training go on to the bit."""
    found: dict[str, str | int] = {
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "processes": world,
        "batch_size": recipe.batch_size,
        "compile": str(recipe.compile),
    }
    if device.type == "cuda":
        return {**found, "device": torch.cuda.get_device_name(device)}
    capability = torch.backends.cpu.get_cpu_capability()
    return {**found, "device": f"CPU ({capability})", "CPU threads": torch.get_num_threads()}


def tell_other_arithmetic(now: Mapping[str, str | int], facts: Mapping[str, Any]) -> None:
    """Warns when the checkpoint with these facts was computed otherwise, so that what follows is equal to rounding."""
    then = facts.get("arithmetic", now)
    changed = [
        f"{name} {then.get(name)}, now {now.get(name)}" for name in {**now, **then} if then.get(name) != now.get(name)
    ]
    if changed:
        log.warning(
            "the training goes on, but not to the bit: sums are added up in another order (%s). OMP_NUM_THREADS sets "
            "the CPU threads.",
            "; ".join(changed),
        )
