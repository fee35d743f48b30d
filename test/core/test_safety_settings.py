"""The numbers of the default profile and the caps, typed in a second time: none changes by accident."""

import dataclasses
import math

import pytest

from openvla_core import safety_settings as s
from openvla_core.errors import ConfigError
from openvla_core.safety_settings import SafetySettings, check_safety_settings

# default, smallest, largest
NUMBERS = {
    "max_speed": (0.25, 0.001, 0.5),
    "max_acceleration": (1.0, 0.1, 4.0),
    "stop_acceleration": (2.0, 0.1, 4.0),
    "max_jerk": (50.0, 1.0, 500.0),
    "stop_jerk": (200.0, 1.0, 500.0),
    "max_angular_speed": (1.0, 0.001, 2.0),
    "max_angular_acceleration": (4.0, 1.0, 16.0),
    "stop_angular_acceleration": (8.0, 1.0, 16.0),
    "max_angular_jerk": (200.0, 10.0, 2000.0),
    "stop_angular_jerk": (800.0, 10.0, 2000.0),
    "start_ramp_s": (0.5, 0.0, 5.0),
    "max_translation": (0.05, 0.001, 0.075),
    "max_rotation": (0.25, 0.001, 0.3),
    "max_tilt": (math.pi, 0.0, 3.15),
    "gripper_hysteresis": (0.1, 0.0, 0.45),
    "gripper_interval_s": (0.3, 0.3, 5.0),
    "gripper_decisions": (2, 1, 5),
}
VECTORS = {
    "workspace_low": ((0.28, -0.45, 0.02), -2.0, 2.0),
    "workspace_high": ((0.75, 0.45, 0.75), -2.0, 2.0),
    "tool_axis": ((0.0, 0.0, 1.0), -1.0, 1.0),
    "cone_axis": ((0.0, 0.0, -1.0), -1.0, 1.0),
}
CAPS = {
    "CAP_SPEED": 0.5, "CAP_ACCELERATION": 4.0, "CAP_JERK": 500.0, "CAP_ANGULAR_SPEED": 2.0,
    "CAP_ANGULAR_ACCELERATION": 16.0, "CAP_ANGULAR_JERK": 2000.0, "CAP_TRANSLATION": 0.075, "CAP_ROTATION": 0.3,
    "CAP_REACH": 2.0,
}  # fmt: skip


def test_the_default_profile_and_its_ranges():
    fields = {
        f.name: (f.default, f.metadata["minimum"], f.metadata["maximum"]) for f in dataclasses.fields(SafetySettings)
    }
    assert fields == {**NUMBERS, **VECTORS}
    check_safety_settings(SafetySettings())


def test_the_caps():
    assert {name: value for name, value in vars(s).items() if name.startswith("CAP_")} == CAPS


@pytest.mark.parametrize("name", NUMBERS)
def test_a_limit_may_reach_both_ends_of_its_range_and_not_pass_them(name):
    _, low, high = NUMBERS[name]
    for value in (low, high):
        check_safety_settings(SafetySettings(**{name: value}))
    for value in (low - 1e-3, high * 1.01, -high, math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError, match=name):
            check_safety_settings(SafetySettings(**{name: value}))


@pytest.mark.parametrize("bad", [(0.8, -0.45, 0.02), (0.75, -0.45, 0.02), (0.28, -0.45), (0.28, -0.45, 0.02, 0.0), ()])
def test_a_box_has_a_low_below_its_high_on_each_of_three_axes(bad):
    with pytest.raises(ConfigError, match="do not make a box"):
        check_safety_settings(SafetySettings(workspace_low=bad))
    if len(bad) != 3:
        with pytest.raises(ConfigError, match="do not make a box"):
            check_safety_settings(SafetySettings(workspace_high=bad))


@pytest.mark.parametrize("name", ["tool_axis", "cone_axis"])
def test_an_axis_has_three_numbers_and_a_direction(name):
    check_safety_settings(SafetySettings(**{name: (0.0, 0.1, 0.0)}))
    for bad in ((0.0, 0.0, 0.0), (0.0, 0.0, 0.09), (0.0, 1.0), (0.0, 0.0, 1.0, 0.0)):
        with pytest.raises(ConfigError, match=name):
            check_safety_settings(SafetySettings(**{name: bad}))
