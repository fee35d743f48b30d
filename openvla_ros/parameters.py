"""ROS parameters from a settings class: name, type, default, range and description come from its fields."""

import dataclasses
import math
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from openvla_core.config import check_setting, settings_from_mapping
from openvla_core.errors import ConfigError, OpenVLAError
from openvla_ros import conversions

SettingsT = TypeVar("SettingsT")

INT64 = 2**63 - 1


def declare_settings(
    node: Node,
    settings_class: type[SettingsT],
    on_change: Callable[[SettingsT], None] | None = None,
    prefix: str = "",
) -> SettingsT:
    """Declares one parameter per field and returns the settings with the values from YAML and command line.

    Args:
        settings_class: frozen dataclass whose fields were made by `openvla_core.config.setting`.
        prefix: put before every name, such as "crisp." for the parameters crisp.topic and so on. Settings that were
            declared before, as by an earlier configure of the same node, are read again. Not with on_change.
        on_change: called with the new settings after a user set parameters; may raise OpenVLAError to refuse them.
            Without it every parameter is read-only, so that nobody sets a value that nothing reads.

    Raises:
        ConfigError: a value has the wrong type, is NaN or lies outside its range or choices.
    """
    assert not (prefix and on_change)
    types = typing.get_type_hints(settings_class)
    fields = {field.name: field for field in dataclasses.fields(settings_class)}  # type: ignore[arg-type]
    values = {}
    for name, field in fields.items():
        given = _given_value(node, prefix + name, default_of(field))
        values[name] = checked_value(field, types[name], given)
        read_only = field.metadata.get("read_only", False) or on_change is None
        if not node.has_parameter(prefix + name):
            _declare(node, field, prefix, types[name], values[name], read_only)
    settings = settings_from_mapping(settings_class, values)
    if on_change is not None:
        _apply_changes(node, settings, fields, types, on_change)
    return settings


def default_of(field: dataclasses.Field) -> Any:
    """The default value of a settings field."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def checked_value(field: dataclasses.Field, kind: Any, value: Any) -> Any:
    """The value in the field's type, whole numbers standing for floats too; raises ConfigError if it does not fit."""
    item_kind = (typing.get_args(kind) or (kind,))[0]
    if typing.get_origin(kind) in (list, tuple):
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
            raise ConfigError(f"{field.name} is {value!r}; it must be a list of {item_kind.__name__}.")
        value = typing.get_origin(kind)(_checked_item(field, item_kind, item) for item in value)
    else:
        value = _checked_item(field, item_kind, value)
    check_setting(field, value)
    return value


def _checked_item(field: dataclasses.Field, kind: Any, value: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)  # YAML's "5" is a whole number; a person means 5.0
    if type(value) is not kind:
        raise ConfigError(f"{field.name} is {value!r} ({type(value).__name__}); it must be a {kind.__name__}.")
    if kind is float and math.isnan(value):
        raise ConfigError(f"{field.name} is NaN; it must be a number.")
    return value


def _given_value(node: Node, name: str, default: Any) -> Any:
    """The value from YAML or command line, of whatever type it has, else the default."""
    if node.has_parameter(name):
        return node.get_parameter(name).value
    loose = conversions.parameter_descriptor("", dynamic_typing=True)
    try:
        value = node.declare_parameter(name, list(default) if isinstance(default, tuple) else default, loose).value
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise ConfigError(f"{name}: {error}") from error
    node.undeclare_parameter(name)
    return value


def _declare(node: Node, field: dataclasses.Field, prefix: str, kind: Any, value: Any, read_only: bool) -> None:
    unit = field.metadata.get("unit", "")
    descriptor = conversions.parameter_descriptor(
        description=field.metadata.get("description", "") + (f", {unit}" if unit else ""),
        constraints="one of " + ", ".join(field.metadata["choices"]) if field.metadata.get("choices") else "",
        read_only=read_only,
        number_range=_number_range(field, kind),
        # An empty list has no item type yet.
        dynamic_typing=isinstance(value, (list, tuple)) and not value,
    )
    node.declare_parameter(
        prefix + field.name, list(value) if isinstance(value, tuple) else value, descriptor, ignore_override=True
    )


def _number_range(field: dataclasses.Field, kind: Any) -> tuple | None:
    low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
    if kind not in (int, float) or (low is None and high is None):
        return None
    if kind is int:
        return int(-INT64 if low is None else low), int(INT64 if high is None else high)
    return float(-math.inf if low is None else low), float(math.inf if high is None else high)


def _apply_changes(node: Node, settings, fields: dict, types: dict, on_change: Callable) -> None:
    current = settings

    def on_set(parameters):
        nonlocal current
        changes = [parameter for parameter in parameters if parameter.name in fields]
        if not changes:
            return conversions.parameters_result(True)
        try:
            new = {p.name: checked_value(fields[p.name], types[p.name], p.value) for p in changes}
            changed = dataclasses.replace(current, **new)
            on_change(changed)
        except OpenVLAError as error:
            return conversions.parameters_result(False, str(error))
        current = changed
        return conversions.parameters_result(True)

    node.add_on_set_parameters_callback(on_set)
