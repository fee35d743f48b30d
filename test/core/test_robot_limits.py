"""The limits files say what the manufacturers' tables say, and this project's own limits lie far below."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from openvla_core import safety_settings
from openvla_core.safety_settings import SafetySettings, check_safety_settings

FOLDER = Path(__file__).parents[2] / "config" / "limits"

# Typed in from the tables a second time, by joint: lower, upper, speed, acceleration, jerk, torque.
PANDA = [
    (-2.8973, 2.8973, 2.1750, 15.0, 7500.0, 87.0),
    (-1.7628, 1.7628, 2.1750, 7.5, 3750.0, 87.0),
    (-2.8973, 2.8973, 2.1750, 10.0, 5000.0, 87.0),
    (-3.0718, -0.0698, 2.1750, 12.5, 6250.0, 87.0),
    (-2.8973, 2.8973, 2.6100, 15.0, 7500.0, 12.0),
    (-0.0175, 3.7525, 2.6100, 20.0, 10000.0, 12.0),
    (-2.8973, 2.8973, 2.6100, 20.0, 10000.0, 12.0),
]
FR3 = [
    (-2.7437, 2.7437, 2.62, 10.0, 5000.0, 87.0),
    (-1.7837, 1.7837, 2.62, 10.0, 5000.0, 87.0),
    (-2.9007, 2.9007, 2.62, 10.0, 5000.0, 87.0),
    (-3.0421, -0.1518, 2.62, 10.0, 5000.0, 87.0),
    (-2.8065, 2.8065, 5.26, 10.0, 5000.0, 12.0),
    (0.5445, 4.5169, 4.18, 10.0, 5000.0, 12.0),
    (-3.0159, 3.0159, 5.26, 10.0, 5000.0, 12.0),
]
FR3_RECTANGULAR = [
    (-2.3093, 2.3093, 2.0),
    (-1.5133, 1.5133, 1.0),
    (-2.4937, 2.4937, 1.5),
    (-2.7478, -0.4461, 1.25),
    (-2.4800, 2.4800, 3.0),
    (0.8521, 4.2094, 1.5),
    (-2.6895, 2.6895, 3.0),
]
# lower, upper, speed, motor speed, acceleration, torque, effort trip
WX250S = [
    (-3.14158, 3.14158, 2.35, 3.1415, 5.0, 10.0, 1360),
    (-1.8850, 1.9897, 2.35, 3.1415, 5.0, 20.0, 1700),
    (-2.1468, 1.6057, 2.35, 3.1415, 5.0, 15.0, 1020),
    (-3.14158, 3.14158, 2.35, 3.1415, 5.0, 2.0, 1020),
    (-1.7453, 2.1468, 2.35, 3.1415, 5.0, 5.0, 1020),
    (-3.14158, 3.14158, 2.35, 3.1415, 5.0, 1.0, 1190),
]
CARTESIAN = {
    "fr3": (3.0, 9.0, 4500.0, 2.5, 17.0, 8500.0, 1.5, 10.0, 5000.0),
    "panda": (1.7, 13.0, 6500.0, 2.5, 25.0, 12500.0, 2.175, 10.0, 5000.0),
}


def load(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def by_joint(table, *columns):
    return [tuple(row) for row in zip(*(table[column] for column in columns), strict=True)]


@pytest.mark.parametrize(("name", "expected"), [("panda", PANDA), ("fr3", FR3)])
def test_the_joints_of_a_franka_are_those_of_its_table(name, expected):
    joints = load(name)["joints"]
    assert by_joint(joints, "lower", "upper", "speed", "acceleration", "jerk", "torque") == expected
    assert joints["names"] == [f"{name}_joint{i}" for i in range(1, 8)]


def test_the_rectangular_limits_of_the_fr3_are_those_of_the_table_and_within_the_full_ones():
    limits = load("fr3")
    assert by_joint(limits["rectangular"], "lower", "upper", "speed") == FR3_RECTANGULAR
    assert (np.array(limits["rectangular"]["lower"]) > limits["joints"]["lower"]).all()
    assert (np.array(limits["rectangular"]["upper"]) < limits["joints"]["upper"]).all()


@pytest.mark.parametrize("name", ["fr3", "panda"])
def test_the_cartesian_limits_are_those_of_the_table(name):
    assert tuple(load(name)["cartesian"].values()) == CARTESIAN[name]


def test_the_joints_of_the_widowx_are_those_of_its_table():
    limits = load("wx250s")
    columns = ("lower", "upper", "speed", "motor_speed", "acceleration", "torque", "effort_trip")
    assert by_joint(limits["joints"], *columns) == WX250S
    assert (limits["fingers"]["lower"], limits["fingers"]["upper"]) == (0.015, 0.037)


@pytest.mark.parametrize("name", ["fr3", "panda", "wx250s"])
def test_the_workspace_is_a_box_that_the_limiter_takes(name):
    box = load(name)["workspace"]
    check_safety_settings(SafetySettings(workspace_low=tuple(box["low"]), workspace_high=tuple(box["high"])))
    assert box["low"][2] > 0.0


def test_the_boxes_are_the_table_top_and_the_published_evaluation():
    default = SafetySettings()
    for name in ("fr3", "panda"):
        box = load(name)["workspace"]
        assert (tuple(box["low"]), tuple(box["high"])) == (default.workspace_low, default.workspace_high)
    assert load("wx250s")["workspace"] == {"low": [0.10, -0.20, 0.01], "high": [0.45, 0.25, 0.30]}


@pytest.mark.parametrize("name", ["fr3", "panda"])
def test_no_setting_can_ask_a_franka_for_more_than_it_allows(name):
    limits = load(name)["cartesian"]
    assert limits["speed"] > safety_settings.CAP_SPEED
    assert limits["acceleration"] > safety_settings.CAP_ACCELERATION
    assert limits["jerk"] > safety_settings.CAP_JERK
    assert limits["angular_speed"] > safety_settings.CAP_ANGULAR_SPEED
    assert limits["angular_acceleration"] > safety_settings.CAP_ANGULAR_ACCELERATION
    assert limits["angular_jerk"] > safety_settings.CAP_ANGULAR_JERK
