"""Writes checkpoint directories as the published code reads them, completely or not at all."""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from openvla_core.checksums import write_checksums
from openvla_core.errors import CheckpointError
from openvla_core.model import OpenVLAConfig
from openvla_core.tokenizer_file import load_tokenizer, write_tokenizer
from openvla_core.weights import (
    DTYPES,
    MAX_SHARD_BYTES,
    check_complete,
    check_shape,
    expected_shapes,
    parse_dtype,
    write_weights,
)

# What this project does not read and other code does. Nothing that could be executed is copied along.
PASSED_ON = (
    "added_tokens.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer_config.json",
)


def save_checkpoint(
    directory: str | Path,
    model: nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any],
    tokenizer: Tokenizer | str | Path,
    statistics: Mapping[str, Any],
    preprocessor_config: Mapping[str, Any],
    extra_json: Mapping[str, Any] | None = None,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    source: str | Path | None = None,
    checksums: bool = True,
) -> Path:
    """Writes a complete checkpoint directory, or nothing at all.

    Args:
        directory: must not exist yet, be empty, or be replaced with overwrite=True.
        model: an OpenVLA, or its state dict.
        config: contents of config.json; norm_stats and the stored dtype are filled in.
        tokenizer: a tokenizer, or the path of a tokenizer.json to copy.
        statistics: contents of dataset_statistics.json.
        preprocessor_config: contents of preprocessor_config.json.
        extra_json: more files, as {"action_convention.json": {...}}.
        dtype: of the stored weights; None keeps the dtype of each tensor.
        max_shard_bytes: larger checkpoints are split into shards with an index.
        source: directory of the checkpoint this one was made from; its generation and tokenizer settings are copied.
        checksums: False leaves out SHA256SUMS.

    Raises:
        CheckpointError: the directory exists, or what was given could not be loaded again.
    """
    target = Path(directory)
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} already exists; choose another directory or pass overwrite=True.")
    parsed = OpenVLAConfig.from_dict(config)
    state = dict(model.state_dict() if isinstance(model, nn.Module) else model)
    _check_state(state, parsed)
    stored_dtype = parse_dtype(dtype) if dtype is not None else None
    files = {
        "config.json": _complete(config, statistics, stored_dtype or _common_dtype(state)),
        "dataset_statistics.json": statistics,
        "preprocessor_config.json": preprocessor_config,
        **(extra_json or {}),
    }
    texts = {name: _to_json(name, values) for name, values in files.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        write_tokenizer(draft, tokenizer)
        load_tokenizer(draft, parsed)
        for name in PASSED_ON:
            if source is not None and (Path(source) / name).is_file():
                shutil.copyfile(Path(source) / name, draft / name)
        for name, text in texts.items():
            (draft / name).write_text(text, encoding="utf-8")
        digests = write_weights(draft, state, stored_dtype, max_shard_bytes)
        if checksums:
            write_checksums(draft, digests)
        _replace(target, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _complete(config: Mapping[str, Any], statistics: Mapping[str, Any], dtype: torch.dtype | None) -> dict[str, Any]:
    """What the published code looks up in config.json itself: its class, the statistics, the stored dtype."""
    values = {"architectures": ["OpenVLAForActionPrediction"], **config, "norm_stats": statistics}
    names = [name for name, known in DTYPES.items() if known == dtype]
    if names:
        values["torch_dtype"] = names[0]
        if "torch_dtype" in (config.get("text_config") or {}):
            values["text_config"] = {**config["text_config"], "torch_dtype": names[0]}
    return values


def _common_dtype(state: Mapping[str, Tensor]) -> torch.dtype | None:
    dtypes = {tensor.dtype for tensor in state.values()}
    return dtypes.pop() if len(dtypes) == 1 else None


def _to_json(name: str, values: Any) -> str:
    try:
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name} cannot be written: {error}. Give numbers that are finite and plain.") from error


def _check_state(state: Mapping[str, Tensor], config: OpenVLAConfig) -> None:
    """What could not be loaded again is not worth writing."""
    expected = expected_shapes(config)
    for name, tensor in state.items():
        check_shape(Path("the state dict"), name, tuple(tensor.shape), expected)
    check_complete(state, expected, "the state dict")


def _replace(target: Path, draft: Path) -> None:
    """Puts the draft where the target is; what fails or is interrupted leaves either the old or the new directory.

    A process killed between two renames leaves both beside it, under names that begin with a dot.
    """
    if target.exists():
        old = draft.with_name(draft.name + ".old")
        os.rename(target, old)
        try:
            os.rename(draft, target)
        except BaseException:
            os.rename(old, target)
            raise
        shutil.rmtree(old)
    else:
        os.rename(draft, target)
