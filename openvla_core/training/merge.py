"""`openvla merge ADAPTER --base DIR --out DIR`: a LoRA adapter added to the weights of its base, file by file.

Runs on a CPU. At any time it holds the adapter, two neighbouring tensors of the base and what is added to one of them:
by arithmetic 1.5 GB for a checkpoint of 15 GB. What comes out has the files and names of the base, and its dtype unless
another one is asked for.
"""

import argparse
import json
import math
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openvla_core.adapter import CONFIG as ADAPTER_CONFIG
from openvla_core.adapter import WEIGHTS as ADAPTER_WEIGHTS
from openvla_core.adapter import describe_adapter
from openvla_core.checkpoint import load_checkpoint
from openvla_core.checkpoint_saving import PASSED_ON
from openvla_core.checksums import write_checksums
from openvla_core.durable import sync_tree
from openvla_core.errors import CheckpointError, OpenVLAError
from openvla_core.json_file import read_json, write_json
from openvla_core.safetensors_file import TORCH_DTYPES, StoredTensor, read_header, read_into, write_file
from openvla_core.weights import DTYPES, INDEX, parse_dtype, stored_tensors

EXIT_ERROR = 3
PIECE = 1 << 22  # numbers
PREFIX = "base_model.model."
# A training leaves these beside its adapter; they replace those of the base.
OWN_FILES = ("dataset_statistics.json", "action_convention.json", "training_card.json", "tokenizer.json")
BASE_FILES = ("config.json", "preprocessor_config.json", *OWN_FILES, *PASSED_ON)
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.weight)?")


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to one weight: scale * up @ down."""

    down: Tensor  # (r, in), (r, in, h, w) of a convolution, or (r, rows) of an embedding
    up: Tensor  # (out, r), (out, r, 1, 1), or (width, r)
    scale: float
    embedding: bool = False

    def delta(self) -> Tensor:
        """In float32, computed as PEFT does, so that sums agree to the last bit."""
        down, up = self.down.float(), self.up.float()
        if down.ndim == 4 and down.shape[2:] == (1, 1):
            product = (up.squeeze(3).squeeze(2) @ down.squeeze(3).squeeze(2))[..., None, None]
        elif down.ndim == 4:
            product = F.conv2d(down.transpose(0, 1), up).transpose(0, 1)
        else:
            product = (up @ down).T if self.embedding else up @ down
        return product.mul_(self.scale)


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter as changes of published weights, by their names. kept: weights it brings whole."""

    factors: dict[str, Factors] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """The merged weight: added in float32, rounded to the dtype of the given one, which is changed in place."""
        if name in self.kept:
            weight.copy_(self.kept[name])
        if name in self.factors:
            delta = self.factors[name].delta().reshape(-1)
            # Adding numbers of two types, torch would bring a copy of all of them to one.
            for part, change in zip(weight.view(-1).split(PIECE), delta.split(PIECE), strict=True):
                part += change
        return weight


def merge(adapter: str | Path, base: str | Path, out: str | Path, dtype: str | None = None) -> Path:
    """Writes the base with the adapter added to its weights as a new checkpoint directory, or nothing at all.

    dtype: "float32", "bfloat16" or "float16" for all weights; None keeps the dtype of each, as PEFT does.

    Raises CheckpointError when one of them is damaged, they do not fit together, the adapter is more than plain LoRA,
    or `out` exists already.
    """
    adapter, base, out = Path(adapter), Path(base), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} already exists; nothing is overwritten. Choose another directory.")
    load_checkpoint(base, read_weights=False)  # every part of the base is checked before anything is written
    stored, stored_dtype = stored_tensors(base), None if dtype is None else parse_dtype(dtype)
    weights = read_adapter(adapter, {name: tensor.shape for name, tensor in stored.items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        _copy_files(base, adapter, draft)
        write_checksums(draft, write_merged(stored, weights, draft, stored_dtype))
        sync_tree(draft)
        draft.rename(out)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written ({error}). Nothing was left there.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def write_merged(
    stored: Mapping[str, StoredTensor], weights: AdapterWeights, folder: Path, dtype: torch.dtype | None = None
) -> dict[str, str]:
    """Writes the weight files of the base, merged, under their own names; with an index when there are several.

    dtype: of what is written; None keeps that of each tensor. Returns the SHA-256 of each file, {name: digest}.
    """
    digests: dict[str, str] = {}
    total = 0
    paths = sorted({tensor.path for tensor in stored.values()})
    for path in paths:
        here = dict(sorted(((n, t) for n, t in stored.items() if t.path == path), key=lambda item: item[1].start))
        layout = {name: (dtype or TORCH_DTYPES[tensor.dtype], tensor.shape) for name, tensor in here.items()}
        digests[path.name] = write_file(folder / path.name, layout, _merged(path, here, weights, dtype))
        total += sum(math.prod(shape) * kind.itemsize for kind, shape in layout.values())
    if len(paths) > 1:
        places = {name: tensor.path.name for name, tensor in sorted(stored.items())}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    return digests


def read_adapter(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> AdapterWeights:
    """Reads an adapter for a base with these weights. Raises CheckpointError when a weight does not fit."""
    describe_adapter(folder)  # refuses what is damaged or not LoRA
    config = read_json(folder / ADAPTER_CONFIG)
    if config.get("use_dora"):
        raise CheckpointError(f"{folder} is a DoRA adapter, which cannot be merged file by file. Merge it with PEFT.")
    sides: dict[str, dict[str, Tensor]] = {}
    embeddings: set[str] = set()
    kept: dict[str, Tensor] = {}
    for key, tensor in _tensors(folder / ADAPTER_WEIGHTS):
        name = key.removeprefix(PREFIX)
        match = FACTOR.fullmatch(name)
        if match is None:
            kept[name.replace(".base_layer.", ".")] = tensor
            continue
        target = f"{match['module']}.weight"
        sides.setdefault(target, {})[match["side"]] = tensor
        if match["embedding"]:
            embeddings.add(target)
    factors = {
        name: Factors(pair["A"], pair["B"], _scale(config, name, pair["A"].shape[0]), name in embeddings)
        for name, pair in sides.items()
        if len(pair) == 2
    }
    _check_fit(folder, sides, factors, kept, shapes)
    return AdapterWeights(factors, kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 3 after writing to stderr what is wrong."""
    parser = argparse.ArgumentParser(prog="openvla merge", description="Adds a LoRA adapter to the weights themselves.")
    parser.add_argument("adapter", type=Path, help="directory of the adapter, as PEFT writes it")
    parser.add_argument("--base", type=Path, required=True, help="checkpoint that the adapter was trained on")
    parser.add_argument("--out", type=Path, required=True, help="directory to write; it must not exist")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="of the weights that are written (default: the base's)")
    options = parser.parse_args(argv)
    try:
        merge(options.adapter, options.base, options.out, options.dtype)
    except OpenVLAError as error:
        sys.stderr.write(f"openvla merge: {' '.join(str(error).split())}\n")
        return EXIT_ERROR
    sys.stdout.write(f"merged checkpoint: {options.out}\n")
    return 0


def _merged(
    path: Path, stored: Mapping[str, StoredTensor], weights: AdapterWeights, dtype: torch.dtype | None
) -> Iterator[Tensor]:
    with path.open("rb", buffering=0) as file:
        for name, entry in stored.items():
            tensor = torch.empty(entry.shape, dtype=dtype or TORCH_DTYPES[entry.dtype])
            read_into(file, entry, tensor)
            yield weights.apply(name, tensor)


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with path.open("rb", buffering=0) as file:
        for name, entry in read_header(path).items():
            if entry.dtype not in TORCH_DTYPES:
                raise CheckpointError(f"{path}: {name} is {entry.dtype}; expected bf16, fp16 or fp32.")
            tensor = torch.empty(entry.shape, dtype=TORCH_DTYPES[entry.dtype])
            read_into(file, entry, tensor)
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{path}: {name} is not finite. Copy or train the adapter again.")
            yield name, tensor


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    module = name.removesuffix(".weight")
    patterns = config.get("alpha_pattern") or {}
    alpha = next((patterns[p] for p in patterns if re.match(rf"(.*\.)?({p})$", module)), config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _check_fit(
    folder: Path,
    sides: Mapping[str, Mapping[str, Tensor]],
    factors: Mapping[str, Factors],
    kept: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    half = sorted(set(sides) - set(factors))
    if half:
        raise CheckpointError(f"the adapter {folder} is incomplete: {half[0]} has one of its two factors only.")
    unknown = sorted((set(factors) | set(kept)) - set(shapes))
    if unknown:
        raise CheckpointError(
            f"the adapter {folder} changes {unknown[0][:200]}, which this checkpoint does not have "
            f"({len(unknown)} such weights). Give the checkpoint that the adapter was trained on."
        )
    changed = {name: _delta_shape(factor) for name, factor in factors.items()}
    changed |= {name: tuple(tensor.shape) for name, tensor in kept.items()}
    for name, shape in changed.items():
        if shape != tuple(shapes[name]):
            raise CheckpointError(
                f"the adapter {folder} is for {name} with shape {shape}; this checkpoint has {tuple(shapes[name])}. "
                "Give the checkpoint that the adapter was trained on."
            )


def _delta_shape(factors: Factors) -> tuple[int, ...] | None:
    """Shape of the change; None where the two factors do not even fit each other."""
    down, up = factors.down, factors.up
    if down.ndim != up.ndim or down.ndim not in (2, 4) or up.shape[1] != down.shape[0]:
        return None
    if factors.embedding:
        return (down.shape[1], up.shape[0])
    return (up.shape[0], *down.shape[1:])


def _copy_files(base: Path, adapter: Path, draft: Path) -> None:
    for name in BASE_FILES:
        source = adapter / name if name in OWN_FILES and (adapter / name).is_file() else base / name
        if source.is_file():
            shutil.copyfile(source, draft / name)
    statistics = draft / "dataset_statistics.json"
    if statistics.is_file():
        # The published code looks the statistics up in config.json.
        config = json.loads((draft / "config.json").read_text(encoding="utf-8"))
        write_json(draft / "config.json", {**config, "norm_stats": read_json(statistics)})


if __name__ == "__main__":
    sys.exit(main())
