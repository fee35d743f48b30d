"""The safetensors format: eight bytes of length, a JSON header that names every tensor, then the bytes of them all.

Files are read in pieces straight into the tensors that keep them, never mapped: what is read is in memory once, and a
file that shrinks meanwhile is an error instead of a crash. The bytes that are read can be digested on their way. What
is refused here beyond the reference library: names that are there twice, and headers of unreasonable size.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from openvla_core.checksums import RunningDigest
from openvla_core.errors import CheckpointError
from openvla_core.json_file import parse_object

MAX_HEADER_BYTES = 16_000_000
PIECE_BYTES = 1 << 23

BYTES_PER_VALUE = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
}  # fmt: skip
TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: dtype as the header names it, shape, first byte in the file, size in bytes."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Names and places of all tensors of a file, which they must fill exactly. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            total = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if total < 8 or length > total - 8:
                raise _damaged(path, f"its header should have {length:,} bytes, the whole file has {total:,}")
            if length > MAX_HEADER_BYTES:
                raise _damaged(path, f"its header should have {length:,} bytes; expected {MAX_HEADER_BYTES:,} at most")
            data = file.read(length)
    except OSError as error:
        raise _damaged(path, str(error)) from error
    header = parse_object(data, f"the header of {path}")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata or {}, dict) or not all(isinstance(text, str) for text in (metadata or {}).values()):
        raise _damaged(path, "its __metadata__ is not a list of names and texts")
    stored = {name: _stored(path, name, entry, 8 + length) for name, entry in header.items()}
    _check_places(path, stored, 8 + length, total)
    return stored


def read_into(file: BinaryIO, stored: StoredTensor, target: Tensor, digest: RunningDigest | None = None) -> None:
    """Reads one tensor of an open file into `target`, of the same shape but any device and floating dtype.

    The same dtype on the CPU is read in place; anything else goes through two buffers of 8 MiB. A digest takes in every
    byte up to the end of the tensor; then `target` must not be changed before the digest is asked for.
    """
    flat = target.view(-1)
    source = TORCH_DTYPES[stored.dtype]
    if digest is not None:
        digest.catch_up(file, stored.start)
    file.seek(stored.start)
    if target.device.type == "cpu" and target.dtype == source:
        _fill(file, stored, flat)
        if digest is not None:
            digest.update(_bytes(flat))
        return
    length = max(1, min(PIECE_BYTES // source.itemsize, len(flat)))
    pieces = [torch.empty(length, dtype=source) for _ in range(1 if length == len(flat) else 2)]
    taken: list[Future | None] = [None] * len(pieces)
    for number, first in enumerate(range(0, len(flat), length)):
        at = number % len(pieces)
        part = pieces[at][: len(flat) - first]
        if (future := taken[at]) is not None:
            future.result()  # the buffer is free again
        _fill(file, stored, part)
        if digest is not None:
            taken[at] = digest.update(_bytes(part))
        flat[first : first + len(part)].copy_(part)


def write_file(path: Path, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], tensors: Iterable[Tensor]) -> str:
    """Writes one file: `layout` gives name, dtype and shape of what `tensors` yields, in the same order.

    Only one tensor is held in memory at a time when `tensors` is a generator.

    Returns:
        The SHA-256 of what was to be written, so that a mistake of the disk will be found.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in layout.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # so that the data begin at a multiple of eight bytes
    start_of_file = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(start_of_file)
    with path.open("wb", buffering=0) as file:
        file.write(start_of_file)
        for (dtype, shape), tensor in zip(layout.values(), tensors, strict=True):
            assert tuple(tensor.shape) == tuple(shape)
            flat = tensor.detach().to(device="cpu", dtype=dtype).contiguous().view(-1)
            view = _bytes(flat)
            digest.update(view)
            while view:
                view = view[file.write(view) :]
    return digest.hexdigest()


def _stored(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"{name[:80]!r} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES_PER_VALUE:
        raise _damaged(path, f"{name[:80]!r} has the unknown dtype {str(dtype)[:20]!r}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise _damaged(path, f"shape and data_offsets of {name[:80]!r} are not whole numbers")
    start, end = offsets
    size = math.prod(shape) * BYTES_PER_VALUE[dtype]
    if end - start != size:
        raise _damaged(path, f"{name[:80]!r} has {end - start:,} bytes; its shape {tuple(shape)} needs {size:,}")
    return StoredTensor(path, dtype, tuple(shape), data_start + start, size)


def _counts(values: Any) -> bool:
    whole = isinstance(values, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in values)
    return whole and len(values) <= 8 and all(n >= 0 for n in values)


def _check_places(path: Path, stored: Mapping[str, StoredTensor], data_start: int, total: int) -> None:
    places = sorted((tensor.start, tensor.start + tensor.size) for tensor in stored.values())
    places = [(data_start, data_start), *places]
    if any(second[0] != first[1] for first, second in pairwise(places)):
        raise _damaged(path, "its tensors overlap or leave gaps")
    if places[-1][1] != total:
        raise _damaged(path, f"it has {total:,} bytes; its header describes {places[-1][1]:,}")


def _fill(file: BinaryIO, stored: StoredTensor, flat: Tensor) -> None:
    view = _bytes(flat)
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise _damaged(stored.path, "it became shorter while it was read")
        view = view[count:]


def _bytes(flat: Tensor) -> memoryview:
    """The memory of a contiguous tensor (N,) on the CPU."""
    return flat.view(torch.uint8).numpy().data


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read: {reason}. Copy the checkpoint again.")
