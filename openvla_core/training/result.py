"""What a training leaves behind: a directory that `load_policy` and the launch files take as it is.

    DIR/config.json, model*.safetensors, tokenizer.json, preprocessor_config.json    the policy
    DIR/dataset_statistics.json, action_convention.json                              what its numbers mean
    DIR/training_card.json, report.html                                              how it came about
    DIR/adapter/                                                                     the adapter alone, if it was merged
    DIR/adapter_config.json, adapter_model.safetensors                               the adapter, if it was not

What the training itself keeps lies there as well: checkpoints/, data/, tensorboard/, log.jsonl. The policy needs none.
"""

import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from openvla_core.checkpoint import CARD, CONVENTION, Checkpoint
from openvla_core.checkpoint_saving import PASSED_ON
from openvla_core.checksums import FILE_NAME as CHECKSUMS
from openvla_core.checksums import write_checksums
from openvla_core.durable import sync, sync_tree
from openvla_core.errors import CheckpointError
from openvla_core.json_file import write_json
from openvla_core.safetensors_file import TORCH_DTYPES
from openvla_core.tokenizer_file import write_tokenizer
from openvla_core.training.merge import read_adapter, write_merged
from openvla_core.weights import (
    INDEX,
    MAX_SHARD_BYTES,
    check_complete,
    check_shape,
    expected_shapes,
    stored_tensors,
    weight_files,
    write_weights,
)

ADAPTER_FOLDER, REPORT, CONFIG = "adapter", "report.html", "config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """config: adapter_config.json. tensors: adapter_model.safetensors. merge: add it to the weights of the result."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    merge: bool = True


@dataclass(frozen=True)
class Result:
    """Everything that is written. weights: all weights by their published names, or an adapter for those of the base.

    statistics, card, convention: contents of JSON files. convention None: that of the base. tokenizer None: likewise.
    """

    base: Checkpoint
    weights: Mapping[str, Tensor] | Adapter
    statistics: Mapping[str, Any]
    card: Mapping[str, Any]
    report: str
    convention: Mapping[str, Any] | None = None
    tokenizer: Tokenizer | None = None


def write_result(out: str | Path, result: Result) -> Path:
    """Writes the directory. It can be loaded when all of it is there: config.json comes last.

    An earlier result in `out` is replaced. Raises CheckpointError when it cannot be written, or could not be loaded.
    """
    out = Path(out)
    draft = out / f".result-{uuid.uuid4().hex[:8]}"
    try:
        draft.mkdir(parents=True)
        write_checksums(draft, _write_draft(draft, result))
        sync_tree(draft)
        _publish(draft, out)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written ({error}). Make room, then run again with --resume.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """A PEFT directory: what `load_policy(adapter=...)` and `openvla merge` take."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ADAPTER_CONFIG, adapter.config)
    held = {name: tensor.detach().to("cpu").contiguous() for name, tensor in adapter.tensors.items()}
    save_file(held, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _write_draft(draft: Path, result: Result) -> dict[str, str]:
    """Returns the SHA-256 of the weight files, as far as they are known."""
    base = result.base
    convention = base.convention if result.convention is None else result.convention
    for name in PASSED_ON:
        if (base.directory / name).is_file():
            shutil.copyfile(base.directory / name, draft / name)
    write_tokenizer(draft, base.directory / "tokenizer.json" if result.tokenizer is None else result.tokenizer)
    # The published code looks the statistics up in config.json.
    write_json(draft / CONFIG, {**base.config_json, "norm_stats": result.statistics})
    write_json(draft / "preprocessor_config.json", base.preprocessor_config)
    write_json(draft / "dataset_statistics.json", result.statistics)
    write_json(draft / CARD, result.card)
    if convention is not None:
        write_json(draft / CONVENTION, convention)
    (draft / REPORT).write_text(result.report, encoding="utf-8")
    if isinstance(result.weights, Adapter):
        return _write_adapted(draft, base, result.weights)
    expected = expected_shapes(base.config)
    for name, tensor in result.weights.items():
        check_shape(Path("the trained model"), name, tuple(tensor.shape), expected)
    check_complete(result.weights, expected, "the trained model")
    return write_weights(draft, result.weights, _common_dtype(base), MAX_SHARD_BYTES)


def _write_adapted(draft: Path, base: Checkpoint, adapter: Adapter) -> dict[str, str]:
    """The adapter beside merged weights; or, unmerged, beside links to the weights of the base."""
    stored = stored_tensors(base.directory)
    folder = draft / ADAPTER_FOLDER if adapter.merge else draft
    write_adapter(folder, adapter)
    changes = read_adapter(folder, {name: tensor.shape for name, tensor in stored.items()})
    if adapter.merge:
        return write_merged(stored, changes, draft)
    for path in weight_files(base.directory):
        (draft / path.name).symlink_to(path.resolve())
    if (base.directory / INDEX).is_file():
        shutil.copyfile(base.directory / INDEX, draft / INDEX)
    return {}


def _common_dtype(base: Checkpoint) -> torch.dtype | None:
    """What the base is stored in, if that is one dtype: training in float32 shall not double the size."""
    dtypes = {tensor.dtype for tensor in stored_tensors(base.directory).values()}
    return TORCH_DTYPES[dtypes.pop()] if len(dtypes) == 1 else None


def _publish(draft: Path, out: Path) -> None:
    """Moves the files of a draft into place. Killed in between, `out` has no config.json and is refused as incomplete.

    What an earlier result had and the new one does not have is removed.
    """
    (out / CONFIG).unlink(missing_ok=True)
    for old in [
        *out.glob("model*.safetensors*"),
        *(out / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CHECKSUMS)),
    ]:
        old.unlink(missing_ok=True)
    shutil.rmtree(out / ADAPTER_FOLDER, ignore_errors=True)
    names = sorted((path.name for path in draft.iterdir()), key=lambda name: name == CONFIG)
    for name in names:
        if name == CONFIG:
            sync(out)
        os.replace(draft / name, out / name)
    sync(out)
