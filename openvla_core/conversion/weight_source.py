"""Reads the weight files of other projects: safetensors, sharded or not, and PyTorch files without running them."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvla_core.checksums import read_checksums
from openvla_core.errors import CheckpointError
from openvla_core.json_file import read_json
from openvla_core.safetensors_file import TORCH_DTYPES, read_header
from openvla_core.weights import read_tensors, stored_tensors


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Name and tensor of everything in a .safetensors or .pt file, or in a directory of safetensors as transformers
    writes it. Tensors stay on the CPU in the dtype of the file. Raises CheckpointError."""
    path = Path(path)
    checksums = read_checksums(path) if path.is_dir() else None
    if path.is_dir():
        stored = stored_tensors(path)
    elif path.suffix == ".safetensors":
        stored = read_header(path)
    else:
        return _tensors(read_torch_file(path), path)
    odd = [name for name, tensor in stored.items() if tensor.dtype not in TORCH_DTYPES]
    if odd:
        raise CheckpointError(f"{path}: {odd[0]} is {stored[odd[0]].dtype}; expected BF16, F16 or F32.")
    state: dict[str, Tensor] = {}
    for dtype in {tensor.dtype for tensor in stored.values()}:
        same = {name: tensor for name, tensor in stored.items() if tensor.dtype == dtype}
        state.update(read_tensors(same, "cpu", TORCH_DTYPES[dtype], checksums))
    return state


def read_torch_file(path: str | Path) -> dict[str, Any]:
    """The dictionary in a file that torch.save wrote. Tensors are mapped from the disk and read when they are used.

    Raises CheckpointError for anything but plain data: a file that would run code is refused, never executed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. Give the .pt or .safetensors file to convert.") from None
    except Exception as error:  # the unpickler raises whatever a damaged file makes it stumble over
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise CheckpointError(
            f"{path} cannot be read as plain weights ({first}). It may be damaged, or hold objects that run code when "
            "they are unpickled; ask its author for a safetensors file."
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}; expected a dictionary of weights.")
    return values


def read_config(path: str | Path) -> dict[str, Any]:
    """config.json beside the weights, or {} when a bare file was given."""
    file = Path(path) / "config.json"
    return read_json(file) if file.is_file() else {}


def _tensors(values: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    for wrapper in ("model", "state_dict"):
        if isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
    odd = [str(name) for name, value in values.items() if not isinstance(value, Tensor)]
    if odd or not values:
        raise CheckpointError(f"{path} is no state dict: {', '.join(odd[:3]) or 'it'} holds no tensor.")
    return dict(values)
