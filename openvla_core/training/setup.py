"""From a checkpoint to a model that can be trained: what is trained chosen, laid out, filled with weights.

The model is built without memory first. Then each process allocates its part and reads exactly that from the files, so
that no process ever holds more than it keeps.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvla_core.checkpoint import Checkpoint, load_checkpoint
from openvla_core.errors import ConfigError
from openvla_core.model import OpenVLA
from openvla_core.quantization import quantize_language_model
from openvla_core.safetensors_file import StoredTensor, read_into
from openvla_core.training.distributed import Ranks, local, local_rows, make_mesh, spread
from openvla_core.training.layers import compile_layers, rematerialize
from openvla_core.training.lora import LoraSettings, initial_value, is_adapter, published_name
from openvla_core.training.loss import RowModel
from openvla_core.training.recipe import ADAPTERS, Recipe
from openvla_core.training.strategies import choose_trainable
from openvla_core.weights import stored_tensors

COMPUTED_IN = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compute_dtype(recipe: Recipe, device: torch.device) -> torch.dtype:
    """What is computed in: what the recipe says, or bfloat16 on a GPU and float32 on a CPU."""
    if recipe.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return COMPUTED_IN[recipe.dtype]


def lora_settings(recipe: Recipe) -> LoraSettings:
    """The adapters of a resolved recipe."""
    assert recipe.lora_alpha is not None
    return LoraSettings(recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets)


def prepare_model(base: Checkpoint, recipe: Recipe, ranks: Ranks) -> tuple[RowModel, dict[str, nn.Parameter]]:
    """The model of the checkpoint, ready to train, and what is trained of it by published name.

    base: loaded with read_weights=False; its model is used up. recipe: resolved. Trained parameters are float32, the
    others of the dtype that is computed in.
    """
    dtype = compute_dtype(recipe, ranks.device)
    model = base.model
    if recipe.strategy == "qlora":
        if sharding(recipe) != "none":
            raise ConfigError("quantized weights cannot be spread; set sharding to auto or none.")
        model = _quantized(base, ranks, dtype)
    trainable = choose_trainable(model, recipe.strategy, lora_settings(recipe))
    for parameter in model.parameters():
        if parameter.is_meta:
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)
    module = RowModel(model)
    rematerialize(module, recipe.remat)
    if recipe.compile:
        compile_layers(module)
    mesh = make_mesh(ranks, sharding(recipe)) if ranks.world > 1 else None
    if mesh is not None and mesh.size(1) > 1:
        spread(module, mesh, dtype)
        module.to_empty(device=ranks.device)
    else:  # every process holds all of it
        _allocate(module, ranks.device)
        if mesh is not None:
            spread(module, mesh, dtype)
    restore_rotary(model, ranks.device)
    fill(model, stored_tensors(base.directory))
    trainable = {name: model.get_parameter(name) for name in trainable}
    for name, parameter in trainable.items():
        if is_adapter(name):
            put(parameter, initial_value(name, parameter.shape, lora_settings(recipe), recipe.seed))
    return module.train(), trainable


def sharding(recipe: Recipe) -> str:
    """How weights are laid out when nothing is said: whole under adapters, else spread over each machine."""
    if recipe.sharding != "auto":
        return recipe.sharding
    return "none" if recipe.strategy in ADAPTERS else "node"


def fingerprint(stored: Mapping[str, StoredTensor]) -> str:
    """Of the beginnings of all tensors of a checkpoint: another one has another, however alike their shapes are."""
    digest = hashlib.sha256()
    for name, entry in sorted(stored.items()):
        with entry.path.open("rb") as file:
            file.seek(entry.start)
            digest.update(f"{name} {entry.dtype} {entry.shape}".encode() + file.read(min(entry.size, 256)))
    return digest.hexdigest()


def fill(model: OpenVLA, stored: Mapping[str, StoredTensor]) -> None:
    """Reads every weight that is not an adapter, each process its own rows."""
    named = {published_name(name): p for name, p in model.named_parameters() if not is_adapter(name)}
    for path in sorted({entry.path for entry in stored.values()}):
        with path.open("rb", buffering=0) as file:
            for name, entry in stored.items():
                if entry.path == path and not _is_quantized(named[name]):
                    read_rows(file, entry, named[name])


def read_rows(file: Any, entry: StoredTensor, target: Tensor) -> None:
    """Reads the rows of a stored tensor that this process holds of `target`, of the same whole shape."""
    assert tuple(target.shape) == entry.shape
    read_into(file, rows_of_file(entry, *local_rows(target)), local(target.detach()))


def rows_of_file(entry: StoredTensor, first: int, last: int) -> StoredTensor:
    """Where rows first to last - 1 of a stored tensor lie; all of a scalar."""
    if not entry.shape:
        return entry
    bytes_per_row = entry.size // entry.shape[0]
    shape = (last - first, *entry.shape[1:])
    return replaced(entry, shape=shape, start=entry.start + first * bytes_per_row, size=(last - first) * bytes_per_row)


@torch.no_grad()
def put(target: Tensor, values: Tensor | None) -> None:
    """Sets what this process holds of `target`; values are whole, None for zeros."""
    here = local(target)
    if values is None:
        here.zero_()
    else:
        first, last = local_rows(target)
        here.copy_(values[first:last] if values.ndim else values)


def _allocate(module: RowModel, device: torch.device) -> None:
    """Memory for everything that has none yet."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None and parameter.is_meta:
                empty = torch.empty_like(parameter, device=device)
                part._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and buffer.is_meta:
                part._buffers[name] = torch.empty_like(buffer, device=device)


def restore_rotary(model: OpenVLA, device: torch.device) -> None:
    """Rotary frequencies are computed, not stored."""
    language = model.language_model
    language.model.rotary_emb = type(language.model.rotary_emb)(config=language.config).to(device)


def _quantized(base: Checkpoint, ranks: Ranks, dtype: torch.dtype) -> OpenVLA:
    if ranks.device.type != "cuda":
        raise ConfigError("strategy 'qlora' needs a GPU; choose 'lora' on a CPU.")
    model = load_checkpoint(Path(base.directory), dtype=dtype).model
    quantize_language_model(model, "nf4", ranks.device)
    return model


def _is_quantized(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "quant_state")
