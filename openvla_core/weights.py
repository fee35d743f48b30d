"""Weight files: safetensors, in one piece or in shards with or without an index. Nothing else is read."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from reprlib import repr as shortened

import torch
from torch import Tensor

from openvla_core.checksums import Checksums, RunningDigest
from openvla_core.errors import CheckpointError
from openvla_core.json_file import read_json
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.safetensors_file import TORCH_DTYPES, StoredTensor, read_header, read_into, write_file

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
MAX_SHARD_BYTES = 7_000_000_000
# Rotary frequencies are computed, not stored; files written by old versions of transformers still carry them.
COMPUTED_SUFFIX, MAX_COMPUTED_BYTES = "rotary_emb.inv_freq", 1_000_000


def expected_shapes(config: OpenVLAConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor a checkpoint of these sizes holds."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in OpenVLA(config).state_dict().items()}


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Reads the headers only: every tensor of a checkpoint and its place. Raises CheckpointError for damaged files."""
    weight_map = _weight_map(directory)
    stored: dict[str, StoredTensor] = {}
    for path in weight_files(directory):
        for name, tensor in read_header(path).items():
            if name.endswith(COMPUTED_SUFFIX) and tensor.size <= MAX_COMPUTED_BYTES:
                continue
            if name in stored:
                raise CheckpointError(
                    f"{name} is in {stored[name].path.name} and again in {path.name}; expected once. "
                    "Remove the files that do not belong to this checkpoint."
                )
            if weight_map is not None and weight_map.get(name) != path.name:
                raise CheckpointError(
                    f"{path.name} holds {name}; {INDEX} says it is in {weight_map.get(name)}. "
                    "Copy index and shards of one checkpoint."
                )
            stored[name] = tensor
    absent = [name for name in weight_map or {} if name not in stored and not name.endswith(COMPUTED_SUFFIX)]
    if absent:
        raise CheckpointError(f"{INDEX} names {absent[0]!r}, which no shard holds ({len(absent)} such names).")
    return stored


def check_tensors(stored: Mapping[str, StoredTensor], expected: Mapping[str, torch.Size]) -> None:
    """Raises CheckpointError unless the files hold exactly the expected names and shapes, in bf16, fp16 or fp32."""
    for name, tensor in stored.items():
        check_shape(tensor.path, name, tensor.shape, expected)
        if tensor.dtype not in TORCH_DTYPES:
            raise CheckpointError(f"{tensor.path.name}: {name} is {tensor.dtype}; expected BF16, F16 or F32.")
    check_complete(stored, expected, "the checkpoint")


def check_complete(names: Iterable[str], expected: Mapping[str, torch.Size], owner: str) -> None:
    missing = sorted(set(expected) - set(names))
    if missing:
        raise CheckpointError(f"{owner} lacks {len(missing)} weights, such as {missing[:3]}. Is a shard missing?")


def read_tensors(
    stored: Mapping[str, StoredTensor],
    device: str | torch.device,
    dtype: torch.dtype,
    checksums: Checksums | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor), file by file in the order of the bytes. Beside the tensors it needs 16 MiB at most.

    With checksums, raises CheckpointError after the last tensor of a file that has other bytes than listed.
    """
    for path in sorted({tensor.path for tensor in stored.values()}):
        here = sorted((t.start, name) for name, t in stored.items() if t.path == path)
        try:
            with ExitStack() as stack:
                file = stack.enter_context(path.open("rb", buffering=0))
                listed = checksums is not None and path.name in checksums.digests
                digest = stack.enter_context(RunningDigest()) if listed else None
                for _, name in here:
                    target = _allocate(stored[name], device, dtype)
                    read_into(file, stored[name], target, digest)
                    yield name, target
                if checksums is not None and digest is not None:
                    digest.catch_up(file)
                    checksums.compare({path.name: digest.hexdigest()})
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error}). Copy the checkpoint again.") from error


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint: those its index names, else the single file, else all shards."""
    weight_map = _weight_map(directory)
    if weight_map is not None:
        names = sorted(set(weight_map.values()))
        if (directory / SINGLE).is_file() and SINGLE not in names:
            raise CheckpointError(
                f"{directory} has both {SINGLE} and {INDEX}, which does not name it. "
                "Which one is meant? Remove the other, with its shards."
            )
        _check_present(directory, names)
        return [directory / name for name in names]
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    shards = sorted(path for path in directory.glob("model-*.safetensors") if SHARD.fullmatch(path.name))
    if shards:
        count = SHARD.fullmatch(shards[0].name).group(2)  # type: ignore[union-attr]
        _check_present(
            directory, [f"model-{i:05d}-of-{count}.safetensors" for i in range(1, min(int(count), 1000) + 1)]
        )
        return shards
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    found = f" It has {', '.join(pickles)}, which could run code when read; convert to safetensors." if pickles else ""
    raise CheckpointError(f"{directory} has no {SINGLE}, no {INDEX} and no model-*.safetensors.{found}")


def write_weights(
    directory: Path, state: Mapping[str, Tensor], dtype: torch.dtype | None, max_bytes: int
) -> dict[str, str]:
    """Writes the tensors as they are, or in another dtype; more than max_bytes go into several shards.

    Returns:
        The SHA-256 of each weight file, {name: digest}.

    Raises:
        CheckpointError: for tensors that are not bf16, fp16 or fp32 and are to be kept as they are.
    """
    for name, tensor in state.items():
        if (dtype or tensor.dtype) not in DTYPES.values():
            raise CheckpointError(f"{name} is {tensor.dtype}; expected bf16, fp16 or fp32. Give a dtype to convert to.")
    shards: list[list[str]] = [[]]
    used = total = 0
    # The widest first, so that each tensor begins at a multiple of its own width.
    for name in sorted(state, key=lambda name: -(dtype or state[name].dtype).itemsize):
        size = state[name].numel() * (dtype or state[name].dtype).itemsize
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used, total = used + size, total + size
    weight_map: dict[str, str] = {}
    digests: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file_name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        layout = {name: (dtype or state[name].dtype, tuple(state[name].shape)) for name in names}
        digests[file_name] = write_file(directory / file_name, layout, (state[name] for name in names))
        weight_map |= dict.fromkeys(names, file_name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return digests


def check_shape(path: Path, name: str, shape: tuple[int, ...], expected: Mapping[str, torch.Size]) -> None:
    if name not in expected:
        raise CheckpointError(
            f"{path.name} holds {name[:200]}, which this model does not have. Does config.json fit it?"
        )
    if shape != tuple(expected[name]):
        raise CheckpointError(
            f"{path.name} holds {name} with shape {shape}; config.json asks for {tuple(expected[name])}. "
            "Give the config.json that belongs to these weights."
        )


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Takes "float32", "bfloat16" or "float16", or the torch dtype itself."""
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    return DTYPES[str(dtype)]


def _weight_map(directory: Path) -> dict[str, str] | None:
    """{tensor: file name} of the index, or None without one."""
    index = directory / INDEX
    if not index.exists():
        return None
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map. Copy the checkpoint again.")
    outside = [name for name in weight_map.values() if not _is_file_name(name)]
    if outside:
        raise CheckpointError(
            f"{index} names files outside the checkpoint: {shortened(outside[0])}. Copy the checkpoint again."
        )
    return weight_map


def _is_file_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and Path(name).name == name
        and "\0" not in name
        and len(name.encode()) <= 255
    )


def _check_present(directory: Path, names: list[str]) -> None:
    absent = [name for name in names if not (directory / name).is_file()]
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        listed = ", ".join(name[:80] for name in absent[:3])
        raise CheckpointError(f"{directory} lacks {listed}{more}. Copy the missing shards.")


def _allocate(stored: StoredTensor, device: str | torch.device, dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty(stored.shape, dtype=dtype, device=device)
    except RuntimeError as error:  # also what torch raises when the memory of a device is used up
        raise CheckpointError(
            f"no room on {device} for the weights as {dtype} ({str(error)[:200]}). Use a smaller dtype."
        ) from error
