"""Checkpoint directories as OpenVLA publishes them: read with strict checks, written so that they load anywhere.

Only JSON and safetensors are read. Nothing is downloaded and nothing in the directory is executed.
"""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from openvla_core.errors import CheckpointError
from openvla_core.image_processor import ImageProcessor
from openvla_core.json_file import read_json
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.prompt import SPACE
from openvla_core.weights import MAX_SHARD_BYTES, check_shape, iterate_tensors, parse_dtype, write_weights

logger = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """What one directory holds. statistics: {unnorm_key: {"action": {...}, ...}}; convention and card may be None."""

    directory: Path
    model: OpenVLA
    config: OpenVLAConfig
    config_json: dict[str, Any]
    tokenizer: Tokenizer
    image_processor: ImageProcessor
    preprocessor_config: dict[str, Any]
    statistics: dict[str, Any]
    convention: dict[str, Any] | None
    training_card: dict[str, Any] | None


def load_checkpoint(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    attn_implementation: str = "sdpa",
) -> Checkpoint:
    """Loads a checkpoint directory; the model is in evaluation mode.

    Args:
        path: directory with config.json, safetensors, preprocessor_config.json and tokenizer.json.
        device: where the weights go.
        dtype: "float32", "bfloat16" or "float16", whatever the file stores.
        attn_implementation: of the language model, "sdpa" or "eager".

    Raises:
        CheckpointError: something is missing, damaged or does not fit together.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise CheckpointError(
            f"{str(path)!r} is not a directory. Give the path of a downloaded checkpoint; nothing is downloaded here."
        )
    config_json = _read_config(directory)
    config = OpenVLAConfig.from_dict(config_json)
    preprocessor = read_json(directory / "preprocessor_config.json")
    image_processor = ImageProcessor.from_dict(preprocessor)
    _check_image_sizes(config, image_processor)
    return Checkpoint(
        directory=directory,
        model=load_model(directory, config, device, dtype, attn_implementation),
        config=config,
        config_json=config_json,
        tokenizer=load_tokenizer(directory, config),
        image_processor=image_processor,
        preprocessor_config=preprocessor,
        statistics=_read_statistics(directory, config_json),
        convention=_read_optional(directory / "action_convention.json"),
        training_card=_read_optional(directory / "training_card.json"),
    )


def load_model(
    directory: Path,
    config: OpenVLAConfig,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    attn_implementation: str = "sdpa",
) -> OpenVLA:
    """Builds the model without memory and puts each stored tensor in place; every name and shape must match."""
    with torch.device("meta"):
        model = OpenVLA(config, attn_implementation)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for name, tensor in iterate_tensors(directory, expected):
        state[name] = tensor.to(device=device, dtype=parse_dtype(dtype), copy=True)
    missing = sorted(set(expected) - set(state))
    if missing:
        raise CheckpointError(f"{directory} lacks {len(missing)} weights, such as {missing[:3]}. Is a shard missing?")
    model.load_state_dict(state, assign=True)
    _restore_rotary(model, device)
    return model.eval()


def expected_shapes(config: OpenVLAConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor a checkpoint of these sizes holds."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in OpenVLA(config).state_dict().items()}


def load_tokenizer(directory: Path, config: OpenVLAConfig) -> Tokenizer:
    """Reads tokenizer.json and checks that it fits the model."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. Save the tokenizer of the checkpoint in its fast (JSON) form.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{path} cannot be read ({error}). Copy the checkpoint again.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if tokenizer.token_to_id(SPACE) is None:
        raise CheckpointError(f"{path} has no token {SPACE!r}; it stands between prompt and action.")
    ids = tokenizer.encode("In:").ids
    if not ids or ids[0] != config.language.bos_token_id:
        raise CheckpointError(
            f"{path} does not put the beginning-of-sequence token {config.language.bos_token_id} first; got {ids}. "
            "Give the tokenizer a post-processor that adds it."
        )
    if tokenizer.get_vocab_size(with_added_tokens=True) > config.language.vocab_size:
        raise CheckpointError(
            f"{path} has {tokenizer.get_vocab_size(with_added_tokens=True)} tokens; "
            f"the model has {config.language.vocab_size}."
        )
    return tokenizer


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
) -> Path:
    """Writes a complete checkpoint directory, or nothing at all.

    Args:
        directory: must not exist yet, be empty, or be replaced with overwrite=True.
        model: an OpenVLA, or its state dict.
        config: contents of config.json.
        tokenizer: a tokenizer, or the path of a tokenizer.json to copy.
        statistics: contents of dataset_statistics.json.
        preprocessor_config: contents of preprocessor_config.json.
        extra_json: more files, as {"action_convention.json": {...}}.
        dtype: of the stored weights; None keeps the dtype of each tensor.
        max_shard_bytes: larger checkpoints are split into shards with an index.
    """
    target = Path(directory)
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} already exists; choose another directory or pass overwrite=True.")
    parsed = OpenVLAConfig.from_dict(config)
    state = dict(model.state_dict() if isinstance(model, nn.Module) else model)
    _check_state(state, parsed)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        write_weights(draft, state, parse_dtype(dtype) if dtype is not None else None, max_shard_bytes)
        _write_tokenizer(draft, tokenizer)
        load_tokenizer(draft, parsed)
        files = {
            "config.json": config,
            "dataset_statistics.json": statistics,
            "preprocessor_config.json": preprocessor_config,
        }
        for name, values in {**files, **(extra_json or {})}.items():
            (draft / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _replace(target, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _read_config(directory: Path) -> dict[str, Any]:
    if not (directory / "config.json").is_file() and (directory / "adapter_config.json").is_file():
        raise CheckpointError(f"{directory} is an adapter, not a checkpoint. Load its base and give it as adapter=.")
    values = read_json(directory / "config.json")
    if "auto_map" in values:
        logger.info("config.json names remote code (auto_map); it is ignored, nothing in the checkpoint is executed.")
    return values


def _read_statistics(directory: Path, config_json: Mapping[str, Any]) -> dict[str, Any]:
    """A fine-tuned checkpoint keeps its own statistics beside a config.json that still has those of the base."""
    path = directory / "dataset_statistics.json"
    statistics = read_json(path) if path.is_file() else config_json.get("norm_stats") or {}
    if not isinstance(statistics, dict):
        raise CheckpointError(f"norm_stats in config.json is a {type(statistics).__name__}; expected an object.")
    return statistics


def _read_optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _check_state(state: Mapping[str, Tensor], config: OpenVLAConfig) -> None:
    """What could not be loaded again is not worth writing."""
    expected = expected_shapes(config)
    for name, tensor in state.items():
        check_shape(Path("the state dict"), name, tuple(tensor.shape), expected)
    missing = sorted(set(expected) - set(state))
    if missing:
        raise CheckpointError(f"the state dict lacks {len(missing)} weights, such as {missing[:3]}.")


def _check_image_sizes(config: OpenVLAConfig, processor: ImageProcessor) -> None:
    given = [tower.crop for tower in processor.towers]
    wanted = [(tower.image_size, tower.image_size) for tower in config.towers]
    if given != wanted:
        raise CheckpointError(f"preprocessor_config.json makes images of {given}; config.json asks for {wanted}.")


def _restore_rotary(model: OpenVLA, device: str | torch.device) -> None:
    """Rotary frequencies are buffers outside the state dict; building on the meta device left them empty."""
    llama = model.language_model.model
    llama.rotary_emb = type(llama.rotary_emb)(config=model.language_model.config).to(device)


def _write_tokenizer(directory: Path, tokenizer: Tokenizer | str | Path) -> None:
    target = directory / "tokenizer.json"
    if isinstance(tokenizer, Tokenizer):
        tokenizer.save(str(target))
    else:
        shutil.copyfile(tokenizer, target)


def _replace(target: Path, draft: Path) -> None:
    """Puts the draft where the target is; an interrupted run leaves either the old or the new directory."""
    if target.exists():
        old = draft.with_name(draft.name + ".old")
        os.rename(target, old)
        os.rename(draft, target)
        shutil.rmtree(old)
    else:
        os.rename(draft, target)
