"""JSON objects from disk, with errors that name the file.

What is returned can be trusted to be harmless: numbers are finite and fit 64 bits, names are unique, text can be
written again, and nothing is nested deeper than a checkpoint needs.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvla_core.errors import CheckpointError

MAX_JSON_BYTES = 16_000_000
MAX_DEPTH = 64


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises CheckpointError when the file is missing or is something else."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. Give the directory of a complete OpenVLA checkpoint.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Copy the checkpoint again.") from error
    if len(data) > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} has more than {MAX_JSON_BYTES // 1_000_000} MB; expected a small JSON object.")
    return parse_object(data, str(path))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Plain, finite values as JSON, with two blanks of indentation."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def parse_object(data: bytes, source: str) -> dict[str, Any]:
    """Parses the bytes of a JSON object; `source` names them in the CheckpointError raised for anything else."""
    try:
        values = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
        _check_depth(values)
        json.dumps(values, ensure_ascii=False).encode("utf-8")  # half a surrogate pair could never be written again
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} cannot be read ({_reason(error)}). Copy the checkpoint again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{source} holds a {type(values).__name__}; expected a JSON object.")
    return values


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    # The text of a decoding error carries the whole file.
    if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)):
        return f"{error.encoding}: {error.reason}"
    return str(error)[:300]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twice[:80]!r} is there twice")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _bounded(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= 2**63:
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _check_depth(values: Any) -> None:
    level = [values]
    for _ in range(MAX_DEPTH):
        parts = [value for value in level if isinstance(value, (dict, list))]
        if not parts:
            return
        level = [child for part in parts for child in (part.values() if isinstance(part, dict) else part)]
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
