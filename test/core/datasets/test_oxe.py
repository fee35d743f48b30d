"""The table of the mixtures, and episodes made by it."""

import numpy as np
import pytest

from openvla_core.datasets.episode import PRIMARY, SECONDARY, WRIST
from openvla_core.datasets.oxe.catalog import DATASETS, MIXTURES, PAD, mixture_weights, to_episode
from openvla_core.datasets.oxe.curation import Description, reasons_to_leave_out
from openvla_core.datasets.oxe.standardize import TRANSFORMS
from openvla_core.errors import DatasetError

T = 5
FRAMES = [bytes([i]) for i in range(T)]


def test_the_table_is_whole():
    assert len(DATASETS) == 27
    members = {mixture: mixture_weights(mixture) for mixture in MIXTURES}
    assert [len(weights) for weights in members.values()] == [23, 27, 25]
    sums = [round(sum(weights.values()), 6) for weights in members.values()]
    assert sums == [29.574976, 31.034976, 31.334105]
    primary = {name for name, weight in members["oxe_magic_soup_plus_minus"].items() if weight == 1.0}
    assert "fractal20220817_data" in primary
    assert "fractal20220817_data" not in [n for n, w in members["oxe_magic_soup"].items() if w == 1.0]


def test_the_last_mixture_lacks_what_the_released_model_was_not_finished_on():
    released = set(mixture_weights("oxe_magic_soup_plus_minus"))
    assert set(DATASETS) - released == {"droid", "language_table"}


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_can_be_used(name):
    card = DATASETS[name]
    assert PRIMARY in card.images
    assert set(card.images) <= {PRIMARY, SECONDARY, WRIST}
    assert card.transform in TRANSFORMS
    assert card.state_encoding in ("POS_EULER", "POS_QUAT", "JOINT", "NONE")
    assert all(weight is None or 0 < weight <= 3 for weight in card.weights)


def test_unknown_names_are_told():
    with pytest.raises(DatasetError, match="oxe_magic_soup_plus_minus"):
        mixture_weights("soup")
    with pytest.raises(DatasetError, match="bridge_orig"):
        to_episode("my_robot", {}, "e0")


def austin(**changes):
    rng = np.random.default_rng(0)
    trajectory = {
        "observation": {
            "image": FRAMES, "wrist_image": np.zeros((T, 4, 4, 3), dtype=np.uint8), "state": rng.random((T, 24))
        },
        "action": rng.random((T, 7)),
        "language_instruction": [b"open the drawer"] * T,
    }  # fmt: skip
    return {**trajectory, **changes}


def test_a_trajectory_becomes_an_episode():
    name = "austin_buds_dataset_converted_externally_to_rlds"
    episode = to_episode(name, austin(), "train_0")
    assert len(episode) == T
    assert (episode.name, episode.instruction) == ("train_0", "open the drawer")
    assert episode.images[PRIMARY].encoded(3) == FRAMES[3]
    assert episode.images[WRIST][2].shape == (4, 4, 3)
    assert episode.state["proprio"].shape == (T, 8)
    assert episode.metadata["source"] == name


def test_the_state_is_filled_up_with_zeros():
    trajectory = {
        "observation": {"image": FRAMES, "state": np.ones((T, 7))},
        "action": {"world_vector": np.ones((T, 3)), "rotation_delta": np.ones((T, 3)), "open_gripper": np.ones(T)},
        "natural_language_instruction": "pour",
    }
    episode = to_episode("toto", trajectory, "e")
    np.testing.assert_array_equal(episode.state["proprio"], [[1] * 7 + [0]] * T)
    assert DATASETS["toto"].state == ("state", PAD)


@pytest.mark.parametrize("instruction", ["", "  ", [b""] * T])
def test_without_an_instruction_there_is_no_episode(instruction):
    name = "austin_buds_dataset_converted_externally_to_rlds"
    assert to_episode(name, austin(language_instruction=instruction), "e") is None


def droid(motion: np.ndarray):
    view = [bytes([i]) for i in range(T)]
    return {
        "observation": {
            "exterior_image_1_left": view, "exterior_image_2_left": view, "wrist_image_left": view,
            "cartesian_position": np.arange(6 * T).reshape(T, 6), "gripper_position": np.zeros((T, 1)),
        },
        "action": {"cartesian_velocity": motion, "gripper_position": np.ones((T, 1))},
        "language_instruction": "stack",
    }  # fmt: skip


def test_steps_of_droid_without_motion_are_dropped_with_their_frames():
    motion = np.zeros((T, 6))
    motion[[1, 3], 2] = 0.1
    episode = to_episode("droid", droid(motion), "e")
    assert len(episode) == 2
    assert [episode.images[PRIMARY].encoded(i) for i in (0, 1)] == [b"\x01", b"\x03"]
    np.testing.assert_array_equal(episode.state["proprio"][:, 0], [6, 18])
    np.testing.assert_array_equal(episode.times_s, [1, 3])
    assert to_episode("droid", droid(np.zeros((T, 6))), "e") is None


def test_a_missing_camera_is_told():
    trajectory = austin()
    del trajectory["observation"]["wrist_image"]
    with pytest.raises(DatasetError, match="lacks wrist_image"):
        to_episode("austin_buds_dataset_converted_externally_to_rlds", trajectory, "e")


GOOD = {"name": "mine", "arms": 1, "views": {"front": "third_person", "hand": "wrist"}, "control": "end_effector"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arms": 2}, "2 arms"),
        ({"arms": 0}, "0 arms"),
        ({"views": {"hand": "wrist"}}, "outside"),
        ({"views": {}}, "outside"),
        ({"control": "joints"}, "joints"),
        ({"labelled": False}, "instruction"),
    ],
)
def test_data_sets_are_left_out_for_a_reason(change, reason):
    assert reasons_to_leave_out(Description.from_dict(GOOD)) == []
    (told,) = reasons_to_leave_out(Description.from_dict({**GOOD, **change}))
    assert reason in told


@pytest.mark.parametrize(
    "change", [{"arms": "one"}, {"arms": True}, {"views": ["front"]}, {"views": {"a": "side"}}, {"control": None},
               {"labelled": "yes"}]
)  # fmt: skip
def test_a_description_that_is_not_understood_is_refused(change):
    with pytest.raises(DatasetError, match="mine"):
        Description.from_dict({**GOOD, **change})
