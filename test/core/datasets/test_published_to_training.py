"""From the files that Open X-Embodiment publishes to the lines of a training batch, computed once more by hand."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from published import BRIDGE, RT1, SIDE, bridge_episode, publish, rt1_episode

from openvla_core.action_statistics import ActionStatistics
from openvla_core.checkpoint import load_checkpoint
from openvla_core.datasets.command import main
from openvla_core.datasets.examples import ExampleBuilder
from openvla_core.datasets.oxe.catalog import mixture_weights, to_episode
from openvla_core.datasets.rlds.reader import RldsTrajectories
from openvla_core.datasets.streaming.loader import StreamingLoader
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.datasets.streaming.shards import ShardSource
from openvla_core.images import decode_compressed
from openvla_core.training.data import open_data
from openvla_core.training.distributed import Ranks
from openvla_core.training.recipe import recipe_from_mapping

BRIDGE_NAME, RT1_NAME = "bridge_orig", "fractal20220817_data"
GIVEN = {
    BRIDGE_NAME: [bridge_episode(seed, steps) for seed, steps in ((1, 7), (2, 6), (3, 9))],
    RT1_NAME: [rt1_episode(11, 8), rt1_episode(12, 5)],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return {
        BRIDGE_NAME: publish(root, BRIDGE_NAME, BRIDGE, GIVEN[BRIDGE_NAME]),
        RT1_NAME: publish(root, RT1_NAME, RT1, GIVEN[RT1_NAME]),
    }


def bridge_by_hand(given: dict) -> tuple[np.ndarray, list[bytes]]:
    """Actions (T - 2, 7) and pictures: the first step is left out, the last has no following state."""
    state = given["steps/observation/state"]
    moved = np.stack([state[t + 1, :6] - state[t, :6] for t in range(1, len(state) - 1)])
    gripper = given["steps/action"][1:-1, 6:]  # recorded as 0 and 1, which are decided
    return np.concatenate([moved, gripper], axis=1), given["steps/observation/image_0"][1:-1]


def rt1_by_hand(given: dict) -> tuple[np.ndarray, list[bytes]]:
    """Actions (T, 7): open before the first command, closed from the second step to the fourth, then open again."""
    steps = len(given["steps/action/world_vector"])
    gripper = np.array([[0.0 if 1 <= step < 3 else 1.0] for step in range(steps)])
    motion = [given["steps/action/world_vector"], given["steps/action/rotation_delta"]]
    return np.concatenate([*motion, gripper], axis=1), given["steps/observation/image"]


def expected(policy) -> dict[tuple[str, int, int], dict]:
    """(data set, episode, step) -> what training is to see."""
    samples = {}
    for name, by_hand in ((BRIDGE_NAME, bridge_by_hand), (RT1_NAME, rt1_by_hand)):
        episodes = [by_hand(given) for given in GIVEN[name]]
        rows = np.concatenate([actions for actions, _ in episodes]).astype(np.float64)
        low, high = (np.quantile(rows[:, :6], share, axis=0) for share in (0.01, 0.99))
        for number, (actions, pictures) in enumerate(episodes):
            scaled = np.clip(2 * (actions[:, :6] - low) / (high - low + 1e-8) - 1, -1, 1)
            for step in range(len(actions)):
                samples[name, number, step] = {
                    "normalized": np.append(scaled[step], actions[step, 6]),
                    "image": decode_compressed(pictures[step]),
                }
    return samples


def test_samples_of_a_mixture_are_those_computed_by_hand(folders, golden_policy, tmp_path):
    policy = golden_policy
    for name, folder in folders.items():
        trajectories = enumerate(RldsTrajectories(folder))
        write_shards((to_episode(name, t, f"e{i}") for i, t in trajectories), tmp_path / name, name, shard_steps=4)
    sources = [ShardSource(tmp_path / name) for name in folders]
    statistics = {source.name: ActionStatistics.from_dict(source.statistics["action"]) for source in sources}
    build = ExampleBuilder(policy.processor, statistics, frames="prepared")
    weights = {name: mixture_weights("oxe_magic_soup")[name] for name in folders}
    stream = StreamingLoader(
        sources, lambda step, rng: ((step.dataset, step.episode, step.index), build(step, rng)), list, 4, weights,
        workers=1,
    )  # fmt: skip
    samples = expected(policy)
    sizes = Counter(name for name, *_ in samples)
    assert sizes == {BRIDGE_NAME: 5 + 4 + 7, RT1_NAME: 8 + 5}
    drawn = [sample for batch in islice(stream, 2 * stream.batches_per_epoch) for sample in batch]

    # An epoch sees every step of bridge_orig, whose weight is 1, once; RT-1 has its 0.54 of 13 steps.
    length = round(16 * (16 + 0.54087122203 * 13) / 16)
    assert abs(stream.mixture.epoch_length - length) <= 1
    first = [where for where, _ in drawn[: stream.mixture.epoch_length]]
    assert sorted(where for where in first if where[0] == BRIDGE_NAME) == [w for w in samples if w[0] == BRIDGE_NAME]
    assert len({where for where in first if where[0] == RT1_NAME}) == len(first) - 16 == 7
    assert {where for where, _ in drawn} == set(samples)

    means = [0.484375, 0.455078125, 0.40625, 0.5, 0.5, 0.5]  # of the two towers, as in the checkpoint
    deviations = [0.228515625, 0.2236328125, 0.224609375, 0.5, 0.5, 0.5]
    sentences = {BRIDGE_NAME: "put the spoon on the towel", RT1_NAME: "move the apple near the can"}
    for where, example in drawn:
        known = samples[where]
        image = np.concatenate([known["image"]] * 2, axis=2) / 255.0
        pixels = ((image - means) / deviations).transpose(2, 0, 1)
        np.testing.assert_allclose(example["pixel_values"].numpy(), pixels, atol=2e-6)
        tokens = example["labels"][example["labels"] >= 0].tolist()
        assert tokens[-1] == 2
        # 255 bins between -1 and 1, the ids counted downwards from the top of the vocabulary.
        middles = (32000 - 1 - np.array(tokens[:-1])).clip(0, 254) * (2 / 255) - 1 + 1 / 255
        np.testing.assert_allclose(middles, known["normalized"], atol=1 / 255 + 1e-5)
        prompt = f"In: What action should the robot take to {sentences[where[0]]}?\nOut:"
        ids = policy.processor.tokenizer.encode(prompt).ids
        assert example["input_ids"].tolist()[: len(ids)] == ids
        assert example["dataset"] == where[0]


def test_pictures_of_a_published_data_set_reach_the_shards_as_the_files_they_are(folders, tmp_path):
    """bridge_orig loses its first and last step; decoding and compressing again would lose a little of each picture."""
    episodes = (to_episode("bridge_orig", t, f"e{i}") for i, t in enumerate(RldsTrajectories(folders[BRIDGE_NAME])))
    write_shards(episodes, tmp_path / "shards", "bridge_orig")
    source = ShardSource(tmp_path / "shards")
    recorded = [file for given in GIVEN[BRIDGE_NAME] for file in given["steps/observation/image_0"][1:-1]]
    assert [source[index].image for index in range(len(source))] == recorded


def test_the_command_writes_shards_of_a_published_data_set(folders, tmp_path, capsys):
    out = tmp_path / "shards"
    assert main(["shard", str(folders[RT1_NAME]), str(out), "--oxe", RT1_NAME, "--frame-size", "64"]) == 0
    assert f"13 steps of 2 episodes written to {out}" in capsys.readouterr().out
    source = ShardSource(out)
    assert source.name == RT1_NAME
    actions, _ = rt1_by_hand(GIVEN[RT1_NAME][1])
    np.testing.assert_array_equal(source[8 + 3].actions[0], actions[3].astype(np.float32))
    assert source[0].pixels().shape == (64, 64, 3)
    assert main(["shard", str(folders[RT1_NAME]), str(tmp_path / "as recorded"), "--oxe", RT1_NAME]) == 0
    assert ShardSource(tmp_path / "as recorded")[0].pixels().shape == (SIDE, SIDE, 3)


def test_the_command_tells_what_it_left_out(tmp_path, capsys, caplog):
    given = [rt1_episode(1, 4), rt1_episode(2, 4, ""), rt1_episode(3, 4, "tab\there")]
    folder = publish(tmp_path, RT1_NAME, RT1, given)
    assert main(["shard", str(folder), str(tmp_path / "out"), "--oxe", RT1_NAME]) == 0
    assert "4 steps of 1 episodes" in (told := capsys.readouterr().out)
    assert "2 left out" in told
    assert "want of an instruction or steps: 1" in caplog.text
    assert "left out: 1, such as episode_000002: the instruction contains control characters (U+0009)" in caplog.text


def test_published_files_that_are_taken_as_they_are_get_a_warning(folders, tmp_path, caplog):
    """bridge_orig would pass: its actions are seven numbers, though not yet those that are trained on."""
    assert main(["shard", str(folders[BRIDGE_NAME]), str(tmp_path / "out")]) == 0
    assert "--oxe bridge_orig" in caplog.text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--oxe", "bridge"], "bridge_orig"),
        (["--oxe", BRIDGE_NAME, "--split", "val"], "no split 'val'"),
        (["--oxe", BRIDGE_NAME, "--frame-size", "0"], "frame_size 0"),
        ([], "openvla_core.datasets.oxe"),
    ],
)
def test_what_the_command_cannot_use_is_an_error_of_one_line(folders, tmp_path, capsys, options, told):
    assert main(["shard", str(folders[RT1_NAME]), str(tmp_path / "out"), *options]) == 3
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_training_on_the_published_files_standardises_them(folders, golden_checkpoint, tmp_path):
    """Without that the actions of bridge_orig would be what was commanded, not how the arm moved."""
    recipe = recipe_from_mapping(
        {"base": str(golden_checkpoint), "data": [str(folders[BRIDGE_NAME])], "out": str(tmp_path), "workers": 0}
    )
    data = open_data(recipe, load_checkpoint(golden_checkpoint), Ranks())
    rows = np.concatenate([bridge_by_hand(given)[0] for given in GIVEN[BRIDGE_NAME]])
    np.testing.assert_allclose(data.statistics[BRIDGE_NAME]["action"]["min"], rows.min(0), atol=1e-6)
    np.testing.assert_allclose(data.statistics[BRIDGE_NAME]["action"]["max"], rows.max(0), atol=1e-6)
