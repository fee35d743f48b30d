"""Single fields of a config.json, checked: a damaged file is named, never believed."""

import math
from collections.abc import Mapping
from reprlib import repr as shortened
from typing import Any

from openvla_core.errors import CheckpointError

# Far beyond every published model; a damaged file could otherwise ask for a billion layers and never finish.
LIMITS = {
    "depth": 256, "embed_dim": 16_384, "num_heads": 256, "image_size": 4096,
    "vocab_size": 4_194_304, "hidden_size": 65_536, "intermediate_size": 524_288, "num_hidden_layers": 512,
    "num_attention_heads": 1024, "num_key_value_heads": 1024, "max_position_embeddings": 16_777_216,
}  # fmt: skip


def read_integer(values: Mapping[str, Any], key: str, default: int, where: str = "config.json", least: int = 0) -> int:
    value = values.get(key, default)
    most = LIMITS.get(key, 2**31 - 1)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise CheckpointError(f"{where} has {key} {shortened(value)}; expected a whole number from {least} to {most}.")
    return value


def read_number(values: Mapping[str, Any], key: str, default: float, where: str, most: float) -> float:
    value = values.get(key, default)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not 0.0 < value <= most:
        raise CheckpointError(f"{where} has {key} {shortened(value)}; expected a number above 0, at most {most:g}.")
    return float(value)


def read_text(values: Mapping[str, Any], key: str, default: str) -> str:
    value = values.get(key, default)
    if not isinstance(value, str):
        raise CheckpointError(f"config.json has {key} {shortened(value)}; expected a word.")
    return value


def read_list(values: Mapping[str, Any], key: str, default: list[Any]) -> list[Any]:
    value = values.get(key)
    if value is None or value == []:
        return default
    if not isinstance(value, list):
        raise CheckpointError(f"config.json has {key} {shortened(value)}; expected a list, one entry per tower.")
    return value


def read_mapping(value: Any, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"config.json has {name} {shortened(value)}; expected an object.")
    return value
