"""Settings: a field of a frozen dataclass is the ROS parameter, the YAML key and the line in the reference page."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from openvla_core.errors import ConfigError

SettingsT = TypeVar("SettingsT")


def setting(
    default: Any,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    read_only: bool = False,
) -> Any:
    """Declares one setting with its default, meaning, unit and range; use it as a dataclass field."""
    metadata = {
        "description": description,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "read_only": read_only,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_setting(field: dataclasses.Field, value: Any) -> None:
    """Raises ConfigError when the value is outside the field's range or choices. NaN is outside every range."""
    low, high, choices = (field.metadata.get(key) for key in ("minimum", "maximum", "choices"))
    values = value if isinstance(value, (list, tuple)) else [value]
    for item in values:
        # Written so that NaN, which compares as false, is outside.
        if (low is not None and not item >= low) or (high is not None and not item <= high):
            unit = f" {field.metadata['unit']}" if field.metadata.get("unit") else ""
            raise ConfigError(f"{field.name} is {item}{unit}; it must lie between {low} and {high}{unit}.")
        if choices and item not in choices:
            raise ConfigError(f"{field.name} is {item!r}; choose one of {', '.join(choices)}.")


def settings_from_mapping(cls: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    """Builds a settings object from YAML values; unknown keys and values outside their range are errors."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in fields:
            nearest = difflib.get_close_matches(key, fields, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(f"unknown setting {key!r}.{hint} Known settings: {', '.join(sorted(fields))}.")
        check_setting(fields[key], value)
    return cls(**values)
