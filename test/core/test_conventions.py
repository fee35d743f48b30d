"""A card that is not understood word by word is refused, and the refusal names every problem."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from openvla_core import rotations
from openvla_core.conventions import convention_from_mapping, load_convention
from openvla_core.errors import ConventionError
from openvla_core.types import Pose

CARD = load_convention(Path(__file__).parents[2] / "config/conventions/sim_tabletop.yaml").to_mapping()
TURNED = Pose(np.zeros(3), rotations.from_rotation_vector(np.array([0.0, 0.0, np.pi / 2])))


def changed(**changes):
    return convention_from_mapping({**deepcopy(CARD), **changes})


def test_the_default_card_says_what_the_embedded_arm_expects():
    card = convention_from_mapping(CARD)
    assert (card.name, card.rate_hz, card.tool_link) == ("sim_tabletop", 5.0, "panda_hand_tcp")
    assert (card.image.width, card.image.height, card.reference) == (112, 112, "measured")


def test_a_card_survives_json(tmp_path):
    path = tmp_path / "action_convention.json"
    path.write_text(json.dumps(CARD))
    assert load_convention(path) == convention_from_mapping(CARD)


@pytest.mark.parametrize("key", sorted(CARD))
def test_a_missing_line_is_named(key):
    card = {k: v for k, v in CARD.items() if k != key}
    with pytest.raises(ConventionError, match=f"{key} is missing"):
        convention_from_mapping(card)


def test_every_problem_is_listed_at_once():
    card = {k: v for k, v in CARD.items() if k not in ("name", "reference")}
    card.update(rotation="quaternion", rate_hz=-1, colour="red")
    with pytest.raises(ConventionError) as refusal:
        convention_from_mapping(card)
    for part in ("name is missing", "reference is missing", "rotation_vector, euler_xyz", "rate_hz", "colour"):
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"frame": "camera"},
        {"composition": "left"},
        {"translation_scale": float("nan")},
        {"translation_scale": 0.0},
        {"rotation_scale": "1.0"},
        {"rate_hz": True},
        {"name": " "},
        {"tool_link": None},
        {"gripper": 1.0},
        {"gripper": {"open": 1.0, "closed": 1.0, "threshold": 1.0}},
        {"gripper": {"open": 1.0, "closed": 0.0, "threshold": 1.5}},
        {"gripper": {"open": 1.0, "closed": 0.0}},
        {"image": {"width": 112, "height": 0, "preprocessing": "none"}},
        {"image": {"width": 112, "height": 112, "preprocessing": "sepia"}},
    ],
)
def test_a_value_that_is_not_understood_is_refused(changes):
    with pytest.raises(ConventionError):
        changed(**changes)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("card.json", "{"),
        ("card.yaml", "a: [1"),
        ("card.json", "[1]"),
        ("card.yaml", "!!python/object/apply:os.getcwd []"),
    ],
)
def test_a_file_that_is_not_a_card_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConventionError, match=name):
        load_convention(path)


@pytest.mark.parametrize("path", ["", "nowhere.json"])
def test_no_card_is_an_error_that_says_what_to_set(path):
    with pytest.raises(ConventionError, match="parameter convention"):
        load_convention(path)


def test_scales_turn_the_numbers_into_metres_and_radians():
    card = changed(translation_scale=0.05, rotation_scale=0.5)
    action = card.action(np.array([1.0, 0, 0, 0, 0, -1.0, 0.0]), TURNED)
    assert np.allclose(action.translation, [0.05, 0, 0])
    assert np.allclose(action.rotation, [0, 0, -0.5])


def test_a_full_turn_counts_as_a_full_turn_although_it_ends_where_it_began():
    row = np.array([0.3, 0.0, 0.4, 2 * np.pi, 0.0, 0.0, 1.0])
    assert changed(translation_scale=0.1).size(row) == pytest.approx((0.05, 2 * np.pi))


def test_a_step_in_tool_axes_equals_the_same_step_turned_into_base_axes():
    row = np.array([0.01, -0.02, 0.03, 0.1, 0.2, -0.1, 1.0])
    action = changed(composition="tool_axes").action(row, TURNED)
    assert np.allclose(action.translation, [0.02, 0.01, 0.03])
    on_the_left = rotations.moved(TURNED, action.translation, action.rotation).quaternion
    on_the_right = rotations.multiply(TURNED.quaternion, rotations.from_rotation_vector(row[3:6]))
    assert np.allclose(on_the_left, on_the_right)


def test_euler_angles_turn_about_fixed_x_then_y_then_z():
    row = np.array([0, 0, 0, np.pi / 2, 0, np.pi / 2, 1.0])
    action = changed(rotation="euler_xyz").action(row, TURNED)
    turned = rotations.rotate(rotations.from_rotation_vector(action.rotation), np.array([0.0, 1.0, 0.0]))
    assert np.allclose(turned, [0, 0, 1])  # y goes to z about x, and z stays about z


def test_the_gripper_number_becomes_an_opening():
    card = changed(gripper={"open": -1.0, "closed": 1.0, "threshold": 0.0})
    openings = [card.action(np.array([0, 0, 0, 0, 0, 0, g]), TURNED).gripper for g in (-3.0, -1.0, 0.0, 1.0)]
    assert openings == [1.0, 1.0, 0.5, 0.0]
    assert card.gripper_threshold == 0.5
