"""LoRA adapters in PEFT format: attached beside the weights, or merged into them."""

from pathlib import Path
from typing import TYPE_CHECKING

from openvla_core.errors import CheckpointError
from openvla_core.model import OpenVLA

if TYPE_CHECKING:
    from peft import PeftModel


def attach_adapter(model: OpenVLA, directory: str | Path) -> None:
    """Puts the adapter's layers into the model, in place. Raises CheckpointError when they do not fit it."""
    _peft_model(model, directory)


def merge_adapter(model: OpenVLA, directory: str | Path) -> None:
    """Adds the adapter to the weights themselves, in place; the model keeps its published parameter names."""
    _peft_model(model, directory).merge_and_unload()


def _peft_model(model: OpenVLA, directory: str | Path) -> "PeftModel":
    folder = Path(directory)
    absent = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"the adapter {str(directory)!r} lacks {', '.join(absent)}; give a PEFT directory.")
    try:
        from peft import PeftModel
    except ImportError as error:
        raise CheckpointError("an adapter needs the package 'peft'; install it or merge the adapter first.") from error
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the adapter {folder} does not fit this checkpoint: {error}") from error
    adapted.eval()
    return adapted
