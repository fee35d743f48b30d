"""JSON objects from disk, with errors that name the file."""

import json
from pathlib import Path
from typing import Any

from openvla_core.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises CheckpointError when the file is missing or is something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. Give the directory of a complete OpenVLA checkpoint.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Copy the checkpoint again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}; expected a JSON object.")
    return values
