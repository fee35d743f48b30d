"""A card that is not understood word by word is refused, and the refusal names every problem."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import yaml

from openvla_core import rotations
from openvla_core.conventions import PREPROCESSING, convention_from_mapping, load_convention
from openvla_core.errors import ConventionError
from openvla_core.image_preparation import PRESETS
from openvla_core.types import Pose

CARDS = sorted((Path(__file__).parents[2] / "config/conventions").glob("*.yaml"))
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


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_every_ready_card_is_understood_named_after_its_file_and_survives_being_saved(path, tmp_path):
    card = load_convention(path)
    assert card.name == path.stem
    saved = tmp_path / "action_convention.json"
    saved.write_text(json.dumps(card.to_mapping()))
    assert load_convention(saved) == card
    saved_again = tmp_path / "card.yaml"
    saved_again.write_text(yaml.safe_dump(card.to_mapping()))
    assert load_convention(saved_again) == card


def test_the_ready_cards_hold_the_published_figures():
    cards = {path.stem: load_convention(path) for path in CARDS}
    figures = {
        name: (card.translation_scale, card.rotation_scale, card.rate_hz, card.reference, card.rotation)
        for name, card in cards.items()
    }
    assert figures["bridge_orig"] == (1.0, 1.0, 5.0, "commanded", "euler_difference_xyz")
    assert figures["droid"] == (0.075, 0.15, 15.0, "measured", "euler_xyz")
    assert figures["libero"] == (0.05, 0.5, 20.0, "measured", "rotation_vector")
    assert figures["metres_rotation_vector"] == (1.0, 1.0, 5.0, "commanded", "rotation_vector")
    half = 0.5**0.5  # a quarter turn about y: tool x to base -z
    assert np.allclose(cards["bridge_orig"].default_rotation, [0, half, 0, half])
    assert cards["bridge_orig"].tool_link == "wx250s/ee_gripper_link"
    assert {name: cards[name].image.preprocessing for name in ("bridge_orig", "libero")} == {
        "bridge_orig": "bridge",
        "libero": "libero",
    }


def test_a_card_can_name_every_image_preparation_there_is():
    """The names are written twice, so that the controller does not need the image libraries."""
    assert PREPROCESSING == PRESETS


def test_a_card_without_a_default_rotation_has_none():
    """Cards written before the key existed, such as those in published checkpoints, still load and save the same."""
    card = convention_from_mapping(CARD)
    assert card.default_rotation == (0.0, 0.0, 0.0, 1.0)
    assert card.to_mapping() == CARD
    assert "default_rotation" not in CARD


@pytest.mark.parametrize("rotation", [[[0, 0, 1], [0, 1, 0], [-1, 0, 0]], [0, 0.70710678, 0, 0.70710678]])
def test_a_default_rotation_is_a_matrix_or_a_quaternion(rotation):
    card = changed(rotation="euler_difference_xyz", default_rotation=rotation)
    assert np.allclose(rotations.to_matrix(np.array(card.default_rotation)), [[0, 0, 1], [0, 1, 0], [-1, 0, 0]])


@pytest.mark.parametrize(
    "rotation",
    [
        None, "down", 1.0, [], [0, 0, 1], [0, 0, 0, 0], [0, 0, 0, "w"], [[1, 0, 0], [0, 1]], [0, 0, 0, float("nan")],
        [[1, 0, 0], [0, 1, 0], [0, 0, -1]], [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
    ],
)  # fmt: skip
def test_a_default_rotation_that_is_none_is_refused(rotation):
    with pytest.raises(ConventionError, match=r"default_rotation is .* a quaternion \[x, y, z, w\] or a 3 x 3 matrix"):
        changed(rotation="euler_difference_xyz", default_rotation=rotation)


def test_keys_that_contradict_each_other_are_refused():
    with pytest.raises(ConventionError, match="only has a meaning"):
        changed(default_rotation=[0, 0, 0, 1])
    with pytest.raises(ConventionError, match="composition must be base_axes"):
        changed(rotation="euler_difference_xyz", composition="tool_axes")


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
    for part in (
        "name is missing",
        "reference is missing",
        "rotation_vector, euler_xyz, euler_difference_xyz",
        "rate_hz",
        "colour",
    ):
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
    assert [card.gripper.value(opening) for opening in (1.0, 0.5, 0.0)] == [-1.0, 0.0, 1.0]
