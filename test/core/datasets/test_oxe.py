"""The table of the mixtures, and episodes made by it."""

from itertools import islice

import numpy as np
import pytest
from made_episodes import Episodes

from openvla_core.action_statistics import compute_statistics
from openvla_core.datasets.episode import PRIMARY, SECONDARY, WRIST
from openvla_core.datasets.oxe.catalog import DATASETS, MIXTURES, PAD, mixture_weights, to_episode
from openvla_core.datasets.oxe.curation import Description, moving_steps, reasons_to_leave_out
from openvla_core.datasets.oxe.standardize import TRANSFORMS
from openvla_core.datasets.streaming.loader import StreamingLoader
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.datasets.streaming.shards import ShardSource
from openvla_core.datasets.streaming.sources import EpisodeSteps
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
    """Its two outside cameras see 1, 2, 3, ... and 101, 102, 103, ..."""
    steps = len(motion)
    return {
        "observation": {
            "exterior_image_1_left": [bytes([i]) for i in range(steps)],
            "exterior_image_2_left": [bytes([100 + i]) for i in range(steps)],
            "wrist_image_left": [bytes([200 + i]) for i in range(steps)],
            "cartesian_position": np.arange(6 * steps).reshape(steps, 6), "gripper_position": np.zeros((steps, 1)),
        },
        "action": {"cartesian_velocity": motion, "gripper_position": np.ones((steps, 1))},
        "language_instruction": "stack",
    }  # fmt: skip


def motion_at(*steps: int, length: int = T) -> np.ndarray:
    motion = np.zeros((length, 6))
    motion[list(steps), 2] = 0.1
    return motion


def test_still_steps_are_those_without_motion():
    """The published training compares normalised actions with zero, to within 1e-5."""
    actions = np.zeros((5, 1, 7))
    actions[1, 0, 4], actions[2, 0, 6] = -1e-3, 1.0
    actions[3, 0, 0], actions[4, 0, 0] = 7.6e-6, 7.8e-6  # half of the first range, 1.5374, times 1e-5 is 7.69e-6
    np.testing.assert_array_equal(moving_steps(actions), [False, True, False, False, True])


def test_still_steps_of_droid_count_in_everything_but_the_samples(tmp_path):
    """They are dropped last: after the statistics, after the chunks, and after the weights of the mixture."""
    given = [droid(motion_at(1, 4, length=9)), droid(motion_at())]
    drawn = [to_episode("droid", trajectory, f"e{i}") for i, trajectory in enumerate(given)]
    assert [len(episode) for episode in drawn] == [9, T]
    description = write_shards(drawn, tmp_path / "droid", "droid", future=1)
    source = ShardSource(tmp_path / "droid")
    # A step stays when any action of its chunk moves: 0 and 3 as well, because of what follows them.
    kept = [source[index].index for index in range(len(source))]
    assert kept == [0, 1, 3, 4]
    np.testing.assert_allclose([source[i].actions[:, 2] for i in range(4)], [[0, 0.1], [0.1, 0], [0, 0.1], [0.1, 0]])
    assert [source[i].image for i in range(4)] == [drawn[0].images[PRIMARY].encoded(i) for i in kept]
    rows = np.concatenate([episode.actions for episode in drawn])
    assert description["statistics"]["action"] == compute_statistics(rows)
    assert (description["steps"], source.transitions) == (4, 9 + T)
    stream = StreamingLoader([source], lambda step, rng: (step.episode, step.index), list, 2)
    assert stream.mixture.sizes == (9 + T,)
    assert {sample for batch in islice(stream, 7) for sample in batch} == {(0, step) for step in kept}
    direct = EpisodeSteps(Episodes("droid", drawn), future=1)
    assert [direct[index].index for index in range(len(direct))] == kept
    np.testing.assert_array_equal(direct[1].state["proprio"], drawn[0].state["proprio"][1])


def test_droid_s_outside_cameras_are_swapped_for_half_of_the_trajectories_and_always_for_the_same():
    names = [f"e{number}" for number in range(200)]

    def swapped(seed):
        episodes = [to_episode("droid", droid(motion_at(0)), name, seed=seed) for name in names]
        seen = [
            (episode.images[PRIMARY].encoded(3)[0], episode.images[SECONDARY].encoded(3)[0]) for episode in episodes
        ]
        assert set(seen) == {(3, 103), (103, 3)}
        assert all(episode.images[WRIST].encoded(3) == bytes([203]) for episode in episodes)
        return [first > second for first, second in seen]

    assert 70 <= sum(swapped(0)) <= 130  # 100 expected, 7 standard deviation
    assert swapped(0) == swapped(0) != swapped(1)


def test_cameras_of_other_data_sets_stay():
    name = "nyu_franka_play_dataset_converted_externally_to_rlds"
    assert [name for name, card in DATASETS.items() if card.swap_cameras or card.drop_still_steps] == ["droid"]
    assert DATASETS[name].images == {PRIMARY: "image", SECONDARY: "image_additional_view"}


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
