"""Checkpoints of a training, from which it continues to the bit: safetensors and JSON, complete or not there.

A folder step-00000500 holds part-00000-of-00002.safetensors and so on, the rows of every tensor that each process has
(`rows_of` says which); random-00000.json, the random numbers of each process; and training.json, written last: what the
training knows of itself, with the SHA-256 of every file, so that a flipped bit is noticed. The folder is written under
another name, brought onto the disk and renamed, so a process that is killed at any time leaves complete folders and at
most one that begins with a dot. All processes need to see the same folder.
"""

import logging
import os
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from openvla_core.checksums import sha256_of
from openvla_core.durable import sync
from openvla_core.errors import CheckpointError
from openvla_core.json_file import read_json, write_json
from openvla_core.safetensors_file import read_header, read_into, write_file
from openvla_core.training.distributed import Ranks, local, local_rows, rows_of
from openvla_core.training.setup import rows_of_file

FORMAT = "openvla-training-2"
FACTS = "training.json"
DIGESTS = ".digests-"
log = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Saved:
    """One complete checkpoint. facts: what was given to `save`."""

    folder: Path
    step: int
    parts: int
    shapes: dict[str, tuple[int, ...]]
    facts: dict[str, Any]

    def read(self, targets: Mapping[str, Tensor]) -> None:
        """Fills the tensors, each process the rows that it holds, however many processes wrote them.

        Raises CheckpointError when one of them is not there or has another shape.
        """
        files = [self.folder / part_name(part, self.parts) for part in range(self.parts)]
        headers = [read_header(path) for path in files]
        for name, target in targets.items():
            if self.shapes.get(name) != tuple(target.shape):
                raise CheckpointError(
                    f"{self.folder} has {name} as {self.shapes.get(name)}, the training as {tuple(target.shape)}. "
                    "Continue with the recipe it was written by, or choose another `out`."
                )
        for part, path in enumerate(files):
            with path.open("rb", buffering=0) as file:
                for name, target in targets.items():
                    if name in headers[part]:
                        self._read_part(file, headers[part][name], part, target)

    def _read_part(self, file: Any, entry: Any, part: int, target: Tensor) -> None:
        here = local(target.detach())
        if not target.ndim:
            read_into(file, entry, here)
            return
        first, last = local_rows(target)
        start, stop = rows_of(len(target), self.parts, part) if self._is_spread(entry, target) else (0, len(target))
        begin, end = max(first, start), min(last, stop)
        if begin < end:
            read_into(file, rows_of_file(entry, begin - start, end - start), here[begin - first : end - first])

    def _is_spread(self, entry: Any, target: Tensor) -> bool:
        return self.parts > 1 and entry.shape[0] != len(target)


class TrainingCheckpoints:
    """The checkpoints of one training, newest last."""

    def __init__(self, folder: Path, keep_last: int, ranks: Ranks) -> None:
        self._folder, self._keep_last, self._ranks = Path(folder), keep_last, ranks

    def newest(self) -> Saved | None:
        """The undamaged checkpoint of the latest step; None when there is none. Every process calls it."""
        for folder in reversed(self._folders()):
            saved = _opened(folder)
            if self._ranks.all_agree(saved is not None and self._share_is_whole(folder)):
                return saved
        return None

    def _share_is_whole(self, folder: Path) -> bool:
        """This process's share of the files has the bytes that were written; together they look at every file."""
        files = sorted(read_json(folder / FACTS)["files"].items())
        damaged = [
            name for name, digest in files[self._ranks.rank :: self._ranks.world] if not _has(folder / name, digest)
        ]
        for name in damaged:
            log.warning("%s is not as it was written; the checkpoint before it is taken.", folder / name)
        return not damaged

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
        """Writes a checkpoint; every process calls it. Older ones than the newest `keep_last` are removed afterwards.

        tensors: by name, whole or spread; what is whole is taken from the first process. facts: plain JSON values.
        """
        ranks, target = self._ranks, self._folder / f"step-{step:08d}"
        draft = target.with_name(f".{target.name}.part")
        parts = _parts(tensors)
        if ranks.first:
            self._folder.mkdir(parents=True, exist_ok=True)
            for leftover in self._folder.glob(".step-*"):
                shutil.rmtree(leftover)
            draft.mkdir()
        ranks.wait()
        if ranks.rank < parts:
            _write_part(draft / part_name(ranks.rank, parts), tensors, ranks)
        write_json(draft / random_name(ranks.rank), random_state(ranks.device))
        sync(draft / random_name(ranks.rank))
        _write_digests(draft, ranks.rank, [part_name(ranks.rank, parts), random_name(ranks.rank)])
        ranks.wait()
        if ranks.first:
            shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
            head = {"format": FORMAT, "step": step, "parts": parts, "files": _digests(draft), "shapes": shapes}
            write_json(draft / FACTS, {**head, "facts": dict(facts)})
            sync(draft / FACTS)
            sync(draft)
            if target.exists():  # of a step that is taken a second time, because its checkpoint was damaged
                shutil.rmtree(target)
            os.rename(draft, target)
            sync(self._folder)
            self._prune()
        ranks.wait()
        return target

    def _folders(self) -> list[Path]:
        found = {
            int(match.group(1)): path for path in self._folder.glob("step-*") if (match := _NAME.fullmatch(path.name))
        }
        return [found[step] for step in sorted(found)]

    def _prune(self) -> None:
        for folder in self._folders()[: -self._keep_last]:
            # Renamed first: a folder that is half removed must not look like a checkpoint.
            leaving = folder.with_name(f".{folder.name}.old")
            os.rename(folder, leaving)
            shutil.rmtree(leaving)


def part_name(part: int, parts: int) -> str:
    return f"part-{part:05d}-of-{parts:05d}.safetensors"


def random_name(rank: int) -> str:
    return f"random-{rank:05d}.json"


def random_state(device: torch.device) -> dict[str, Any]:
    """Every generator a training may draw from, as plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": torch.cuda.get_rng_state(device).numpy().tobytes().hex() if device.type == "cuda" else None,
        "numpy": [kind, np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(numbers), gauss_next],
    }


def restore_random_state(saved: Saved, ranks: Ranks) -> None:
    """Sets every generator as it was when the checkpoint was written; those of a new process begin as they are."""
    path = saved.folder / random_name(ranks.rank)
    if not path.is_file():
        return
    state = read_json(path)
    torch.set_rng_state(_bytes(state["torch"]))
    if state["cuda"] is not None and ranks.device.type == "cuda":
        torch.cuda.set_rng_state(_bytes(state["cuda"]), ranks.device)
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8).clone()


def _parts(tensors: Mapping[str, Tensor]) -> int:
    """Over how many processes a copy of the tensors is spread; the first of all are those of the first copy."""
    spread = [tensor for tensor in tensors.values() if isinstance(tensor, DTensor)]
    return spread[0].device_mesh.size(spread[0].device_mesh.ndim - 1) if spread else 1


def _write_part(path: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    mine = {
        name: local(tensor.detach()) for name, tensor in tensors.items() if ranks.first or isinstance(tensor, DTensor)
    }
    write_file(path, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in mine.items()}, mine.values())
    sync(path)


def _opened(folder: Path) -> Saved | None:
    """None when the folder is not complete: from another program, or damaged."""
    try:
        values = read_json(folder / FACTS)
        complete = all((folder / name).is_file() for name in values["files"])
        if values["format"] != FORMAT or not complete:
            return None
        shapes = {name: tuple(shape) for name, shape in values["shapes"].items()}
        return Saved(folder, int(values["step"]), int(values["parts"]), shapes, values["facts"])
    except (CheckpointError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _write_digests(folder: Path, rank: int, names: Sequence[str]) -> None:
    """What this process wrote, for the first one to collect: each hashes its own files, all at the same time."""
    found = {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
    write_json(folder / f"{DIGESTS}{rank:05d}.json", found)


def _digests(folder: Path) -> dict[str, str]:
    collected: dict[str, str] = {}
    for path in sorted(folder.glob(f"{DIGESTS}*.json")):
        collected |= {str(name): str(digest) for name, digest in read_json(path).items()}
        path.unlink()
    return collected


def _has(path: Path, digest: str) -> bool:
    try:
        return sha256_of(path) == digest
    except CheckpointError:
        return False
