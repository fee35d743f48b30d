"""Whatever format a lab has its demonstrations in, it trains on the same samples, and knows what they mean."""

import json
from dataclasses import replace

import pytest
import torch
from recorded import EXACT, NAME, bags, written_as
from training_bench import made, shards

from openvla_core import load_policy
from openvla_core.checkpoint import load_checkpoint
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.errors import ConfigError, DatasetError
from openvla_core.training.data import open_data
from openvla_core.training.distributed import Ranks
from openvla_core.training.finetune import main
from openvla_core.training.recipe import recipe_from_mapping
from openvla_core.training.tiny_checkpoint import tiny_convention

QUICK = {
    "strategy": "full", "learning_rate": 1e-3, "max_steps": 2, "batch_size": 4, "log_every": 1, "workers": 0,
    "device": "cpu", "validation_share": 0.3, "seed": 2, "tensorboard": "false",
}  # fmt: skip


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Four recordings and one that failed."""
    return bags(tmp_path_factory.mktemp("bags"), failures=1)


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "ours.json"
    path.write_text(json.dumps(tiny_convention()))
    return path


def train(data, base, out, *more) -> int:
    """By the command."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    return main(["--data", str(data), "--base", str(base), "--out", str(out), *options, *map(str, more)])


def opened(data, base, out, **more):
    values = {**QUICK, "tensorboard": False, "data": str(data), "base": str(base), "out": str(out), **more}
    return open_data(recipe_from_mapping(values), load_checkpoint(base, read_weights=False), Ranks())


@pytest.fixture(scope="module")
def from_bags(recordings, word_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("from bags") / "policy"
    assert train(recordings, word_checkpoint, out) == 0
    return out


@pytest.mark.parametrize("kind", EXACT)
def test_a_policy_from_another_format_is_the_one_from_the_bags(kind, from_bags, recordings, word_checkpoint, tmp_path):
    """Same weights to the bit: same samples, order, statistics and split. And the same card and failures left out."""
    assert train(written_as(kind, recordings, tmp_path / kind), word_checkpoint, tmp_path / "out") == 0
    ours, theirs = load_policy(tmp_path / "out"), load_policy(from_bags)
    expected = theirs.model.state_dict()
    assert [name for name, tensor in ours.model.state_dict().items() if not torch.equal(tensor, expected[name])] == []
    assert ours.convention == theirs.convention and ours.convention["name"] == "sim_tabletop"
    assert ours.statistics == theirs.statistics and set(ours.statistics) == {NAME}
    cards = [json.loads((out / "training_card.json").read_text()) for out in (tmp_path / "out", from_bags)]
    assert cards[0]["data"] == cards[1]["data"] and cards[0]["data"]["episodes"] < 4
    assert cards[0]["data"]["episodes"] + cards[0]["data"]["validation_episodes"] == 4


def test_hdf5_gives_the_same_samples_under_a_given_card(recordings, word_checkpoint, card, tmp_path):
    """Its pictures are plain pixels, which shards compress a second time."""
    data = written_as("hdf5", recordings, tmp_path / "hdf5")
    ours = opened(data, word_checkpoint, tmp_path / "a", validation_share=0.0, convention=str(card))
    theirs = opened(recordings, word_checkpoint, tmp_path / "b", validation_share=0.0)
    assert ours.convention == theirs.convention and ours.statistics == theirs.statistics
    first, expected = next(iter(ours.loader)), next(iter(theirs.loader))
    pixels, lossless = first.pop("pixels").float(), expected.pop("pixels").float()
    assert (pixels - lossless).abs().mean() < 3.0
    assert set(first) == set(expected) and all(torch.equal(first[name], expected[name]) for name in first)


def test_hdf5_trains_when_its_card_is_given(recordings, word_checkpoint, card, tmp_path, capsys):
    data = written_as("hdf5", recordings, tmp_path / "hdf5")
    assert train(data, word_checkpoint, tmp_path / "out") == 3
    told = capsys.readouterr().err
    assert f"{NAME} carries no convention card" in told and "--convention" in told
    assert train(data, word_checkpoint, tmp_path / "out", "--convention", tmp_path / "none.json") == 3
    assert "no convention card at" in capsys.readouterr().err
    assert train(data, word_checkpoint, tmp_path / "out", "--convention", card) == 0
    assert load_policy(tmp_path / "out").convention["name"] == "sim_tabletop"


def test_bags_without_a_card_are_given_one(word_checkpoint, card, tmp_path):
    silent = bags(tmp_path / "silent", episodes=1, cards=False)
    with pytest.raises(DatasetError, match="carries no convention card.*convention"):
        opened(silent, word_checkpoint, tmp_path / "a", validation_share=0.0)
    told = opened(silent, word_checkpoint, tmp_path / "b", validation_share=0.0, convention=str(card))
    assert told.convention["name"] == "sim_tabletop"


def test_the_card_of_the_checkpoint_can_be_meant(word_checkpoint, golden_checkpoint, tmp_path):
    """Only when that is said; and where it has none, none is made up."""
    data = shards(tmp_path)
    with pytest.raises(ConfigError, match="table carries no convention card"):
        opened(data, word_checkpoint, tmp_path / "a")
    assert opened(data, word_checkpoint, tmp_path / "b", convention="base").convention == {"name": "test"}
    assert opened(data, golden_checkpoint, tmp_path / "c").convention is None
    with pytest.raises(ConfigError, match="has no card"):
        opened(data, golden_checkpoint, tmp_path / "d", convention="base")


def test_new_words_in_shards_are_learned_too(word_checkpoint, tmp_path):
    """They are not read while they are made into shards, but before that."""
    episodes = [replace(one, instruction="pick up the purple cube") for one in made("table", [6, 6])]
    write_shards(episodes, tmp_path / "table", "table")
    assert train(tmp_path / "table", word_checkpoint, tmp_path / "out", "--convention", "base") == 0
    assert load_policy(tmp_path / "out").check_instruction("pick up the purple cube") == "pick up the purple cube"
