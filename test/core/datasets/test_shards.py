"""Tar shards: what is written comes back, WebDataset's rules hold, and damage is told."""

import json
import os
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from made_episodes import Episodes, made

from openvla_core.action_statistics import compute_statistics
from openvla_core.datasets.chunking import chunk_actions, relative_mask
from openvla_core.datasets.episode import PRIMARY
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.datasets.streaming.shards import ShardSource
from openvla_core.datasets.streaming.sources import EpisodeSteps
from openvla_core.errors import DatasetError
from openvla_core.image_preparation import lanczos_resize

LENGTHS = [7, 12, 5]


@pytest.fixture(scope="module")
def episodes():
    return made("cubes", LENGTHS)


@pytest.fixture
def folder(episodes, tmp_path):
    write_shards(episodes, tmp_path / "cubes", "cubes", shard_steps=10, future=2)
    return tmp_path / "cubes"


def test_every_step_comes_back_as_it_was(episodes, folder):
    source = ShardSource(folder)
    assert len(source) == sum(LENGTHS)
    np.testing.assert_array_equal(source.block_ends, [10, 20, 24])
    direct = EpisodeSteps(episodes, future=2)
    for index in reversed(range(len(source))):
        stored, given = source[index], direct[index]
        assert (stored.episode, stored.index) == (given.episode, given.index)
        assert stored.instruction == given.instruction
        assert stored.image == given.image  # the file itself, not a copy of its pixels
        np.testing.assert_array_equal(stored.actions, given.actions)
        np.testing.assert_array_equal(stored.state["pose"], given.state["pose"])


def test_chunks_reach_into_the_future(episodes, folder):
    chunks = chunk_actions(episodes[1].actions, relative_mask(7), future=2)
    np.testing.assert_array_equal(np.stack([ShardSource(folder)[7 + step].actions for step in range(12)]), chunks)


def test_plain_pixels_are_stored_as_jpeg(tmp_path):
    episodes = made("plain", [3], encoded=False)
    write_shards(episodes, tmp_path / "plain", "plain")
    pixels = ShardSource(tmp_path / "plain")[1].pixels().astype(int)
    assert np.abs(pixels - episodes[0].images[PRIMARY][1]).mean() < 4  # quality 95, half the colour resolution


def test_the_files_follow_webdataset(folder):
    """One key per sample, its members neighbours, plain tar, nothing else: readers that know only tar must do."""
    with tarfile.open(folder / "cubes-000001.tar", "r:") as tar:
        names = tar.getnames()
        label = json.loads(tar.extractfile(names[1]).read())
    assert names[:4] == ["00000001_00003.jpg", "00000001_00003.json", "00000001_00004.jpg", "00000001_00004.json"]
    assert len(names) == 20
    assert label["instruction"] == "pick up the blue cube"
    assert (label["dataset"], label["episode"], label["step"], label["steps"]) == ("cubes", 1, 3, 12)
    assert sorted(os.listdir(folder)) == [
        "cubes-000000.tar", "cubes-000001.tar", "cubes-000002.tar", "dataset.json", "index.npy",
    ]  # fmt: skip


def test_the_same_episodes_give_the_same_files(episodes, folder, tmp_path):
    write_shards(episodes, tmp_path / "again", "cubes", shard_steps=10, future=2)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_statistics_are_those_of_all_actions(episodes, folder):
    actions = np.concatenate([episode.actions for episode in episodes])
    statistics = ShardSource(folder).statistics
    assert statistics["action"] == compute_statistics(actions)
    assert (statistics["num_transitions"], statistics["num_trajectories"]) == (24, 3)


def test_episodes_without_instruction_are_left_out(tmp_path):
    whole = made("mixed", [3, 4])
    silent = replace(whole[0], instruction="  ")
    description = write_shards(Episodes("mixed", [silent, whole[1]]), tmp_path / "mixed", "mixed")
    assert (description["episodes"], description["left_out"], description["steps"]) == (1, 1, 4)
    with pytest.raises(DatasetError, match="no episode"):
        write_shards([silent], tmp_path / "none", "none")
    assert len(EpisodeSteps(Episodes("mixed", [silent, whole[1]]))) == 4


def test_sentences_that_no_model_is_shown_are_left_out_and_told(tmp_path, caplog):
    """Found at the step itself, one of them would end a training after days."""
    whole = made("mixed", [3, 4, 5, 6])
    sentences = ["pick up\x07 the cup", "  push the cup ", "take " * 200, "open the </s> drawer"]
    given = Episodes("mixed", [replace(e, instruction=text) for e, text in zip(whole, sentences, strict=True)])
    description = write_shards(given, tmp_path / "mixed", "mixed")
    assert (description["episodes"], description["left_out"], description["steps"]) == (2, 2, 4 + 6)
    assert list(description["left_out_because"]) == ["mixed_0", "mixed_2"]
    assert "mixed: episodes left out: 2, such as mixed_0: the instruction contains control char" in caplog.text
    assert ShardSource(tmp_path / "mixed")[0].instruction == "push the cup"
    caplog.clear()
    assert len(EpisodeSteps(given)) == 4 + 6
    assert "mixed: episodes left out: 2" in caplog.text


def test_a_checkpoint_may_refuse_more_sentences(tmp_path, golden_policy):
    whole = made("mixed", [3, 4])
    given = [whole[0], replace(whole[1], instruction="open the </s> drawer")]
    check = golden_policy.processor.prompt_ids
    assert write_shards(given, tmp_path / "mixed", "mixed", check=check)["left_out"] == 1
    assert len(EpisodeSteps(Episodes("mixed", given), check=check)) == 3


def test_frames_can_be_brought_to_a_size(tmp_path):
    """As training would resize them; a picture that has the size already stays the file it is."""
    episodes = [*made("large", [2], side=48), *made("right", [2], side=32), *made("plain", [2], side=48, encoded=False)]
    write_shards(episodes, tmp_path / "small", "small", frame_size=32)
    source = ShardSource(tmp_path / "small")
    assert [source[index].pixels().shape for index in range(6)] == [(32, 32, 3)] * 6
    assert source[2].image == episodes[1].images[PRIMARY].encoded(0)
    for index, episode in ((0, episodes[0]), (5, episodes[2])):
        wanted = lanczos_resize(episode.images[PRIMARY][index % 2], 32, 32).astype(int)
        assert np.abs(source[index].pixels() - wanted).mean() < 4  # quality 95, half the colour resolution
    with pytest.raises(DatasetError, match="frame_size 0"):
        write_shards(episodes, tmp_path / "none", "none", frame_size=0)


def test_nothing_appears_before_all_is_written(episodes, tmp_path):
    def breaking():
        yield episodes[0]
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_shards(breaking(), tmp_path / "cubes", "cubes", shard_steps=2)
    assert not (tmp_path / "cubes").exists()
    write_shards(episodes, tmp_path / "cubes", "cubes")
    assert os.listdir(tmp_path) == ["cubes"]


def test_an_existing_folder_is_not_overwritten(episodes, folder):
    with pytest.raises(DatasetError, match="exists"):
        write_shards(episodes, folder, "cubes")


def test_few_files_are_held_open(folder):
    source = ShardSource(folder, keep_open=1)
    before = len(os.listdir("/proc/self/fd"))
    for index in (0, 23, 1, 12):
        source[index]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before


def cut_a_shard(folder):
    os.truncate(folder / "cubes-000001.tar", 5000)


def lose_a_shard(folder):
    (folder / "cubes-000002.tar").unlink()


def shorten_the_index(folder):
    np.save(folder / "index.npy", np.load(folder / "index.npy", allow_pickle=False)[:-1], allow_pickle=False)


def spoil_the_index(folder):
    (folder / "index.npy").write_bytes(b"nothing")


def spoil_the_description(folder):
    (folder / "dataset.json").write_text('{"format": "openvla-shards-1"}', encoding="utf-8")


def point_elsewhere(folder):
    text = (folder / "dataset.json").read_text(encoding="utf-8")
    (folder / "dataset.json").write_text(text.replace("cubes-000001.tar", "../cubes-000001.tar"), encoding="utf-8")


@pytest.mark.parametrize(
    "spoil",
    [cut_a_shard, lose_a_shard, shorten_the_index, spoil_the_index, spoil_the_description, point_elsewhere],
)
def test_an_incomplete_folder_is_refused_when_it_is_opened(folder, spoil):
    spoil(folder)
    with pytest.raises(DatasetError, match=r"[Cc]opy"):
        ShardSource(folder)


def test_a_damaged_step_is_told_when_it_is_read(folder):
    path = folder / "cubes-000000.tar"
    data = bytearray(path.read_bytes())
    place = data.index(b'{"instruction"')
    data[place : place + 5] = b"\0\0\0\0\0"
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match="step 0 in .*cubes-000000.tar is damaged"):
        ShardSource(folder)[0]
    ShardSource(folder)[1]


def test_the_lengths_must_fit_the_episodes(episodes):
    with pytest.raises(DatasetError, match="2 lengths for 3 episodes"):
        EpisodeSteps(episodes, lengths=[1, 2])
    with pytest.raises(DatasetError, match="episode 1 has 12 trained steps"):
        EpisodeSteps(episodes, lengths=[7, 13, 5])[7 + 12]
