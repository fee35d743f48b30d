"""Checkpoint directories as OpenVLA publishes them, read with strict checks.

Only JSON and safetensors are read. Nothing is downloaded and nothing in the directory is executed. Everything that can
be checked without reading weights is checked before the first weight is read.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from openvla_core.checkpoint_saving import PASSED_ON, save_checkpoint
from openvla_core.checksums import Checksums, Verify, read_checksums
from openvla_core.errors import CheckpointError
from openvla_core.image_processor import ImageProcessor
from openvla_core.json_file import read_json
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.safetensors_file import StoredTensor
from openvla_core.tokenizer_file import check_vocabulary, load_tokenizer
from openvla_core.weights import INDEX, check_tensors, expected_shapes, parse_dtype, read_tensors, stored_tensors

__all__ = ["Checkpoint", "expected_shapes", "load_checkpoint", "load_model", "load_tokenizer", "save_checkpoint"]

logger = logging.getLogger(__name__)

MAX_RESIZED_SIDE = 8192
REMOTE_CODE_FIELDS = ("auto_map", "custom_pipelines", "trust_remote_code")
CONVENTION, CARD = "action_convention.json", "training_card.json"
# Read before the weights, if they are there.
SMALL_FILES = (
    "config.json", "preprocessor_config.json", "tokenizer.json", "dataset_statistics.json", CONVENTION, CARD, INDEX,
)  # fmt: skip


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

    def save(self, directory: str | Path, **options: Any) -> Path:
        """Writes this checkpoint with everything that came with it; options as in `save_checkpoint`."""
        cards = {CONVENTION: self.convention, CARD: self.training_card}
        return save_checkpoint(
            directory,
            self.model,
            self.config_json,
            self.directory / "tokenizer.json",
            self.statistics,
            self.preprocessor_config,
            extra_json={name: values for name, values in cards.items() if values is not None},
            source=self.directory,
            **options,
        )


def load_checkpoint(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    attn_implementation: str = "sdpa",
    read_weights: bool = True,
    verify: Verify = "auto",
) -> Checkpoint:
    """Loads a checkpoint directory; the model is in evaluation mode.

    Args:
        path: directory with config.json, safetensors, preprocessor_config.json and tokenizer.json.
        device: where the weights go.
        dtype: "float32", "bfloat16" or "float16", whatever the file stores.
        attn_implementation: of the language model, "sdpa" or "eager".
        read_weights: False leaves the model on the meta device, with shapes and without values; everything is checked.
        verify: "auto" compares the bytes of every file that is read with SHA256SUMS where there is one; True insists on
            it and on an entry for each of them; False does not look at it.

    Raises:
        CheckpointError: something is missing, damaged or does not fit together.
    """
    directory = Path(path)
    if not os.path.isdir(directory):  # unlike Path.is_dir, at peace with names that no directory can have
        raise CheckpointError(
            f"{str(path)[:500]!r} is not a directory. Give the path of a downloaded checkpoint; "
            "nothing is downloaded here."
        )
    checksums = read_checksums(directory, verify)
    if checksums is not None:
        checksums.check((*SMALL_FILES, *PASSED_ON))
    config_json = _read_config(directory)
    config = OpenVLAConfig.from_dict(config_json)
    preprocessor = read_json(directory / "preprocessor_config.json")
    image_processor = _image_processor(preprocessor, config)
    statistics = _read_statistics(directory, config_json)
    convention, card = (_read_optional(directory / name) for name in (CONVENTION, CARD))
    tokenizer = load_tokenizer(directory, config)
    stored = stored_tensors(directory)
    check_vocabulary(config, tokenizer, stored)
    if checksums is not None:
        weights = sorted({tensor.path.name for tensor in stored.values()})
        checksums.check_listed([*(name for name in SMALL_FILES if (directory / name).exists()), *weights])
    return Checkpoint(
        directory=directory,
        model=_build(config, stored, device, dtype, attn_implementation, read_weights, checksums),
        config=config,
        config_json=config_json,
        tokenizer=tokenizer,
        image_processor=image_processor,
        preprocessor_config=preprocessor,
        statistics=statistics,
        convention=convention,
        training_card=card,
    )


def load_model(
    directory: Path,
    config: OpenVLAConfig,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    attn_implementation: str = "sdpa",
) -> OpenVLA:
    """The model alone, without tokenizer and statistics; every name and shape must match. Raises CheckpointError."""
    stored, checksums = stored_tensors(Path(directory)), read_checksums(directory)
    return _build(config, stored, device, dtype, attn_implementation, checksums=checksums)


def _build(
    config: OpenVLAConfig,
    stored: Mapping[str, StoredTensor],
    device: str | torch.device,
    dtype: str | torch.dtype,
    attn_implementation: str,
    read_weights: bool = True,
    checksums: Checksums | None = None,
) -> OpenVLA:
    """Builds the model without memory and puts each stored tensor in place."""
    dtype, device = parse_dtype(dtype), _parse_device(device)
    with torch.device("meta"):
        model = OpenVLA(config, attn_implementation)
    check_tensors(stored, {name: tensor.shape for name, tensor in model.state_dict().items()})
    if not read_weights:
        return model.eval()
    model.load_state_dict(dict(read_tensors(stored, device, dtype, checksums)), assign=True)
    _restore_rotary(model, device)
    return model.eval()


def _parse_device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (
        RuntimeError,
        AssertionError,
        TypeError,
    ) as error:  # torch raises an AssertionError where CUDA is not built in
        raise CheckpointError(f"device {str(device)!r} cannot be used: {str(error)[:200]}. Is 'cpu' meant?") from error


def _read_config(directory: Path) -> dict[str, Any]:
    if not (directory / "config.json").is_file() and (directory / "adapter_config.json").is_file():
        raise CheckpointError(f"{directory} is an adapter, not a checkpoint. Load its base and give it as adapter=.")
    values = read_json(directory / "config.json")
    remote = [name for name in REMOTE_CODE_FIELDS if name in values]
    remote += sorted(file.name for file in directory.glob("*.py"))[:8]
    if remote:
        logger.info("%s has remote code (%s); ignored, nothing in it is executed.", directory, ", ".join(remote))
    return values


def _read_statistics(directory: Path, config_json: Mapping[str, Any]) -> dict[str, Any]:
    """A fine-tuned checkpoint keeps its own statistics beside a config.json that still has those of the base."""
    path = directory / "dataset_statistics.json"
    source = path.name if path.exists() else "norm_stats in config.json"
    statistics = read_json(path) if path.exists() else config_json.get("norm_stats") or {}
    if not isinstance(statistics, dict) or not all(isinstance(entry, dict) for entry in statistics.values()):
        raise CheckpointError(f"{source} must hold one object of statistics per data set. Copy it again.")
    return statistics


def _read_optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None


def _image_processor(values: Mapping[str, Any], config: OpenVLAConfig) -> ImageProcessor:
    try:
        processor = ImageProcessor.from_dict(values)
    except (ArithmeticError, AttributeError) as error:
        raise CheckpointError(f"preprocessor_config.json is damaged: {error!r}. Copy the checkpoint again.") from error
    given = [tower.crop for tower in processor.towers]
    wanted = [(tower.image_size, tower.image_size) for tower in config.towers]
    if given != wanted:
        raise CheckpointError(f"preprocessor_config.json makes images of {given}; config.json asks for {wanted}.")
    for tower in processor.towers:
        sides = (tower.resize,) if isinstance(tower.resize, int) else tower.resize
        if not all(tower.crop[0] <= side <= MAX_RESIZED_SIDE for side in sides):
            raise CheckpointError(
                f"preprocessor_config.json resizes to {tower.resize} and cuts out {tower.crop}; "
                f"expected sides from {tower.crop[0]} to {MAX_RESIZED_SIDE} pixels."
            )
    return processor


def _restore_rotary(model: OpenVLA, device: torch.device) -> None:
    """Rotary frequencies are buffers outside the state dict; building on the meta device left them empty."""
    llama = model.language_model.model
    llama.rotary_emb = type(llama.rotary_emb)(config=model.language_model.config).to(device)
