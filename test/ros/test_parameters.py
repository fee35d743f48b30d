"""A field of a settings class is the ROS parameter: its type, default, range, description and refusals."""

from dataclasses import dataclass

import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter

from openvla_core.config import setting
from openvla_core.errors import ConfigError
from openvla_ros.parameters import declare_settings


@dataclass(frozen=True, kw_only=True)
class Settings:
    rate_hz: float = setting(5.0, "Steps per second", unit="Hz", minimum=0.1, maximum=50.0)
    seed: int = setting(3, "Seed", minimum=0)
    mode: str = setting("slow", "Mode", choices=("slow", "fast"))
    fixed: bool = setting(True, "Fixed", read_only=True)
    box: tuple[float, ...] = setting((1.0, 2.0), "Box", unit="m", minimum=0.0)
    names: list[str] = setting([], "Names")
    free: float = setting(0.0, "A number without a range")


def make(world, on_change=lambda settings: None, **overrides):
    node = world.add(
        Node("settings", parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()])
    )
    return node, declare_settings(node, Settings, on_change)


def set_one(node, name, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


def test_without_overrides_the_defaults_hold(world):
    assert make(world)[1] == Settings()


def test_overrides_arrive_in_the_type_of_the_field(world):
    _, settings = make(world, rate_hz=7, box=[1, 4], names=["a"], mode="fast")
    assert settings == Settings(rate_hz=7.0, box=(1.0, 4.0), names=["a"], mode="fast")
    assert type(settings.rate_hz) is float


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate_hz", 51.0),
        ("rate_hz", float("nan")),
        ("rate_hz", "5"),
        ("rate_hz", True),
        ("seed", -1),
        ("seed", 1.5),
        ("mode", "sideways"),
        ("fixed", 1),
        ("box", [1.0, -2.0]),
        ("box", [1.0, float("nan")]),
        ("box", 3.0),
        ("free", float("nan")),
    ],
)
def test_a_value_that_does_not_fit_is_refused_at_start_and_later(world, name, value):
    with pytest.raises(ConfigError, match=name):
        make(world, **{name: value})
    node = world.add(Node("other"))
    declare_settings(node, Settings, lambda settings: None)
    result = set_one(node, name, value)
    assert not result.successful
    assert result.reason


def test_a_change_is_told_with_all_settings(world):
    changes = []
    node, _ = make(world, changes.append)
    assert set_one(node, "rate_hz", 9.0).successful
    assert set_one(node, "mode", "fast").successful
    assert changes == [Settings(rate_hz=9.0), Settings(rate_hz=9.0, mode="fast")]


def test_the_node_may_refuse_a_change_and_the_old_value_stays(world):
    def refuse(settings):
        raise ConfigError("not while moving")

    node, _ = make(world, refuse)
    result = set_one(node, "rate_hz", 9.0)
    assert (result.successful, result.reason) == (False, "not while moving")
    assert node.get_parameter("rate_hz").value == 5.0


def test_read_only_fields_cannot_be_set(world):
    node, _ = make(world)
    assert not set_one(node, "fixed", False).successful


def test_without_a_listener_nothing_can_be_set(world):
    """A value that is accepted and then ignored would be a lie."""
    node, _ = make(world, on_change=None)
    assert not set_one(node, "rate_hz", 9.0).successful


def test_descriptors_tell_meaning_unit_range_and_choices(world):
    node, _ = make(world)
    rate = node.describe_parameter("rate_hz")
    assert (rate.description, rate.type) == ("Steps per second, Hz", Parameter.Type.DOUBLE.value)
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (0.1, 50.0)
    assert node.describe_parameter("seed").integer_range[0].from_value == 0
    assert node.describe_parameter("mode").additional_constraints == "one of slow, fast"
