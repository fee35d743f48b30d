"""Weight files: safetensors, in one piece or in shards with an index. Nothing else is read."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openvla_core.errors import CheckpointError
from openvla_core.json_file import read_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
MAX_SHARD_BYTES = 7_000_000_000
# Rotary frequencies are computed, not stored; files written by old versions of transformers still carry them.
COMPUTED_SUFFIX = "rotary_emb.inv_freq"


def iterate_tensors(directory: Path, expected: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) from every safetensors file; refuses unknown names, other shapes and damaged files."""
    for path in weight_files(directory):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                    if name.endswith(COMPUTED_SUFFIX):
                        continue
                    check_shape(path, name, tuple(file.get_slice(name).get_shape()), expected)
                    tensor = file.get_tensor(name)
                    if not tensor.is_floating_point():
                        raise CheckpointError(f"{path.name}: {name} is {tensor.dtype}; expected bf16, fp16 or fp32.")
                    yield name, tensor
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}). Copy the checkpoint again.") from error


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint: those its index names, else the single file, else all shards."""
    index = directory / INDEX
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index} has no weight_map. Copy the checkpoint again.")
        names = sorted({str(name) for name in weight_map.values()})
        if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise CheckpointError(f"{index} names files outside the checkpoint: {names}.")
        absent = [name for name in names if not (directory / name).is_file()]
        if absent:
            raise CheckpointError(f"{directory} lacks {', '.join(absent)}, named in {INDEX}. Copy the missing shards.")
        return [directory / name for name in names]
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    shards = sorted(directory.glob("model-*.safetensors"))
    if shards:
        return shards
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    found = f" It has {', '.join(pickles)}, which could run code when read; convert to safetensors." if pickles else ""
    raise CheckpointError(f"{directory} has no {SINGLE}, no {INDEX} and no model-*.safetensors.{found}")


def write_weights(directory: Path, state: Mapping[str, Tensor], dtype: torch.dtype | None, max_bytes: int) -> None:
    """Writes the tensors as they are, or in another dtype; more than max_bytes go into several shards."""
    shards: list[dict[str, Tensor]] = [{}]
    used = total = 0
    for name, tensor in state.items():
        tensor = tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and used + size > max_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used, total = used + size, total + size
    if len(shards) == 1:
        _write_shard(shards[0], directory / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(shard, directory / file_name)
        weight_map |= dict.fromkeys(shard, file_name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def check_shape(path: Path, name: str, shape: tuple[int, ...], expected: Mapping[str, torch.Size]) -> None:
    if name not in expected:
        raise CheckpointError(f"{path.name} holds {name}, which this model does not have. Does config.json fit it?")
    if shape != tuple(expected[name]):
        raise CheckpointError(
            f"{path.name} holds {name} with shape {shape}; config.json asks for {tuple(expected[name])}."
        )


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Takes "float32", "bfloat16" or "float16", or the torch dtype itself."""
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    return DTYPES[str(dtype)]


def _write_shard(shard: Mapping[str, Tensor], path: Path) -> None:
    """Writes one file that whoever may read the folder may read; the library makes it private to its writer."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(shard), path, metadata={"format": "pt"})
    path.chmod(mode)
