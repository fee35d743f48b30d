"""The loop and its parts on a tiny model: loss, figures, splits, validation, when it ends."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_bench import made, shards, trainer

from openvla_core.action_statistics import statistics_of
from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.checkpoint import load_checkpoint
from openvla_core.datasets.examples import collate
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.datasets.streaming.shards import ShardSource
from openvla_core.datasets.streaming.sources import MadeSteps, Step
from openvla_core.errors import ConfigError, DatasetError
from openvla_core.training.data import ExtraSource, open_data
from openvla_core.training.distributed import Ranks
from openvla_core.training.loss import RowModel, row_loss
from openvla_core.training.metrics import GoodEnough
from openvla_core.training.recipe import Recipe, recipe_from_mapping
from openvla_core.training.rows import RowCollate
from openvla_core.training.split import held_out
from openvla_core.training.trainer import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def opened(word_checkpoint, data, tmp_path_factory):
    base = load_checkpoint(word_checkpoint)
    recipe = Recipe(
        data=(str(data),), out=str(tmp_path_factory.mktemp("out")), batch_size=4, workers=0, convention="base"
    )
    return base, open_data(recipe, base, Ranks())


@pytest.fixture(scope="module")
def examples(opened):
    """Four examples; the second has a longer sentence than the others, the fourth two actions."""
    _, data = opened
    make = data.validation.make_example
    steps = [data.loader._samples._sources[0][i] for i in (0, 5, 20, 33)]
    steps[1] = replace(steps[1], instruction="pick up the red cube to the blue cube")
    steps[3] = replace(steps[3], actions=np.concatenate([steps[3].actions] * 2))
    return [make(step, np.random.default_rng(0)) for step in steps]


@pytest.mark.parametrize("multiple", [1, 32])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_loss_of_some_rows_is_that_of_all_logits(word_checkpoint, opened, examples, attention, multiple):
    """Padded by any length, with the attention mask and without."""
    model = load_checkpoint(word_checkpoint, attn_implementation=attention).model
    images = opened[0].image_processor
    whole = collate(examples, opened[0].config.pad_token_id)
    pixels = torch.stack([torch.from_numpy(images(image.numpy())) for image in whole["pixels"]])
    expected = model(whole["input_ids"], whole["attention_mask"], pixels, whole["labels"]).loss

    batch = RowCollate(opened[0].config, {}, multiple)(examples)
    assert batch["input_ids"].shape[1] % multiple == 0
    logits = RowModel(model)(batch["input_ids"], pixels, batch["places"])
    assert len(logits) == (whole["labels"] != -100).sum() == 3 * 8 + 15
    assert row_loss(logits, batch["targets"]).item() == pytest.approx(expected.item(), rel=1e-6)


def test_rows_know_which_number_they_are(opened, examples):
    batch = opened[1].collate(examples)
    one = [*range(7), 7]
    assert batch["dimensions"].tolist() == one * 3 + [*range(7), *range(7), 7]
    statistics = opened[1].statistics["table"]["action"]
    spans = 0.5 * (np.array(statistics["q99"]) - np.array(statistics["q01"]))
    np.testing.assert_allclose(batch["scales"][:8], [*spans[:6], 1.0, 0.0], rtol=1e-6)


def test_distances_are_in_the_units_of_the_data(word_checkpoint, data, tmp_path):
    """Worked out once more from what the policy's own decoding makes of the predicted tokens."""
    training, _ = trainer(word_checkpoint, data, tmp_path)
    batch = next(training._batches())
    with torch.no_grad():
        logits = training.module(batch["input_ids"], training.pixels(batch), batch["places"])
        predicted = training.metrics.add(row_loss(logits, batch["targets"]), logits, batch)
    figures = training.metrics.read()
    is_action = batch["dimensions"] < 7
    tokenizer, statistics = ActionTokenizer(512), statistics_of(training.data.statistics, "table")
    ids = [np.clip(ids[is_action].numpy(), 256, 511).reshape(-1, 7) for ids in (predicted, batch["targets"])]
    actions = [statistics.unnormalize(tokenizer.decode(rows)) for rows in ids]
    names = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    expected = np.abs(actions[0] - actions[1]).mean(axis=0)
    np.testing.assert_allclose([figures[f"l1_{name}"] for name in names], expected, rtol=1e-5)
    assert training.metrics.read() == {}


def test_it_learns_and_tells(word_checkpoint, data, tmp_path):
    """Twelve actions can be learned by heart."""
    few = shards(tmp_path, "few", episodes=2, steps=3)
    training, told = trainer(
        word_checkpoint, few, tmp_path / "out", max_steps=400, batch_size=6, learning_rate=1e-2, log_every=5,
        validation_share=0.0, stop_accuracy=0.95, stop_window=10,
    )  # fmt: skip
    outcome = training.run()
    assert outcome.reason == "accuracy" and outcome.step < 400
    assert told.steps[5]["loss"] > 4.0 > 1.0 > outcome.figures["loss"]
    assert all(figures["accuracy"] >= 0.95 for step, figures in told.steps.items() if step > outcome.step - 10)
    assert (
        told.started["trainable"] == told.started["parameters"] == sum(p.numel() for p in training.trainable.values())
    )
    assert told.ended["step"] == outcome.step and told.ended["reason"] == "accuracy"
    assert Trainer(training.recipe).run().step == outcome.step, "what has ended stays ended"


def test_only_what_is_chosen_changes(word_checkpoint, data, tmp_path):
    before = dict(load_checkpoint(word_checkpoint).model.named_parameters())
    training, _ = trainer(word_checkpoint, data, tmp_path, strategy="last-layer", max_steps=2)
    training.run()
    after = training.whole_state()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed <= set(training.trainable)


@pytest.mark.parametrize("remat", ["selective", "full"])
def test_activations_that_are_computed_again_are_the_same(word_checkpoint, data, tmp_path, remat):
    def gradients(**values):
        training, _ = trainer(word_checkpoint, data, tmp_path / values["remat"], **values)
        training.optimizer.step = lambda: None
        training.optimizer.zero_grad = lambda set_to_none: None
        training._take_step(training._batches())
        return {name: p.grad for name, p in training.trainable.items() if p.grad is not None}

    plain, again = gradients(remat="none"), gradients(remat=remat)
    assert set(plain) == set(again)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_bfloat16_is_close_to_float32(word_checkpoint, data, tmp_path):
    losses = []
    for dtype in ("float32", "bfloat16"):
        training, told = trainer(word_checkpoint, data, tmp_path / dtype, dtype=dtype, strategy="lora", max_steps=2)
        training.run()
        losses.append(told.steps[2]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2) and losses[0] != losses[1]


def test_validation_is_on_episodes_that_are_not_trained_on(word_checkpoint, data, tmp_path):
    training, told = trainer(word_checkpoint, data, tmp_path, validate_every=4, max_steps=4)
    trained = {(s.episode, s.index) for s in (training.data.loader._samples._sources[0][i] for i in range(72))}
    held = {(s.episode, s.index) for s in (source[i] for source, i in training.data.validation.steps)}
    assert len(trained) == 72 and len(held) == 6
    assert not {episode for episode, _ in trained} & {episode for episode, _ in held}
    training.run()
    figures, samples = told.validations[4]
    assert {"loss", "accuracy", "l1", "l1_gripper"} <= set(figures)
    source = ShardSource(data)
    for sample in samples:
        (step,) = (
            s for s in (source[i] for i in range(96)) if (s.episode, s.index) == (sample["episode"], sample["index"])
        )
        np.testing.assert_array_equal(sample["true"], step.actions[0])
        assert sample["instruction"] == step.instruction and sample["image"].shape == (32, 32, 3)
        assert len(sample["predicted"]) == 7 and all(map(math.isfinite, sample["predicted"]))


def test_a_split_keeps_every_step_once_and_every_shard_together():
    lengths = [5, 1, 40, 3, 17, 2, 33, 8]
    ends = np.cumsum(lengths)

    def make(number: int) -> Step:
        episode = int(np.searchsorted(ends, number, side="right"))
        return Step("d", episode, number, b"", "", np.zeros((1, 7), np.float32))

    source = MadeSteps("d", np.array([30, 60, int(ends[-1])]), make)
    parts = held_out(source, 0.4, seed=3)
    numbers = [[part[i].index for i in range(len(part))] for part in (parts.training, parts.validation)]
    assert sorted(numbers[0] + numbers[1]) == list(range(ends[-1]))
    assert parts.training_episodes + parts.validation_episodes == 8 and parts.validation_episodes
    for part, mine in zip((parts.training, parts.validation), numbers, strict=True):
        before = [sum(number < end for number in mine) for end in (30, 60, ends[-1])]
        assert part.block_ends.tolist() == before
    whole = held_out(source, 0.0, seed=3)
    assert whole.training is source and not len(whole.validation)


def test_an_episode_stays_on_its_side_when_others_come(tmp_path):
    """By its name: new recordings lie between the old ones, so that numbers change, and the folder has another name."""
    episodes = list(made("table", [3] * 40))
    sides = []
    for name, chosen in (("old", episodes[::2]), ("more", episodes)):
        write_shards(chosen, tmp_path / name, name)
        parts = held_out(ShardSource(tmp_path / name), 0.3, seed=5)
        sides.append([{part[i].episode_name for i in range(len(part))} for part in (parts.training, parts.validation)])
    (old_training, old_validation), (training, validation) = sides
    assert len(old_training) + len(old_validation) == 20 and len(training) + len(validation) == 40
    assert old_training < training and old_validation < validation and len(old_validation) > 2
    again = held_out(ShardSource(tmp_path / "more"), 0.3, seed=6)
    assert {again.validation[i].episode_name for i in range(len(again.validation))} != validation


def test_the_accuracy_has_to_stay():
    good = GoodEnough(0.9, window=20)
    assert [good(step - 10, step, accuracy) for step, accuracy in [(10, 0.95), (20, 0.8), (30, 0.91), (40, 0.92)]] == [
        False, False, False, True,
    ]  # fmt: skip
    assert not GoodEnough(None, window=1)(0, 100, 1.0)


def test_random_crops_are_served_as_the_centre(word_checkpoint, data, tmp_path):
    base = load_checkpoint(word_checkpoint, read_weights=False)
    base.convention = {"name": "test", "image": {"preprocessing": "none"}}
    recipe = Recipe(data=(str(data),), out=str(tmp_path), workers=0, augment=True, convention="base")
    opened = open_data(recipe, base, Ranks())
    assert opened.convention["image"]["preprocessing"] == "center_crop"
    assert opened.processor.preparation.center_crop_area == 0.9


def test_demonstrations_become_shards_once(word_checkpoint, tmp_path, monkeypatch):
    """With their card; sentences that the checkpoint cannot read are left out; a killed attempt is made again."""
    card = {"name": "told", "image": {"preprocessing": "bridge"}}
    episodes = [replace(episode, convention=card) for episode in made("demos", [4, 5, 6])]
    episodes[1] = replace(episodes[1], instruction="pick up the </s> cube")
    opened_times = []

    def read(path, recipe):
        opened_times.append(path)
        return episodes

    monkeypatch.setattr("openvla_core.training.demonstrations._episodes", read)
    (tmp_path / "demos").mkdir()
    recipe = Recipe(data=(str(tmp_path / "demos"),), out=str(tmp_path / "out"), workers=0, validation_share=0.0)
    base = load_checkpoint(word_checkpoint, read_weights=False)
    for _ in range(2):
        opened = open_data(recipe, base, Ranks())
        assert opened.convention == card and opened.counts["steps"] == 10
        assert set(opened.statistics) == {"demos"}
    assert len(opened_times) == 1
    (tmp_path / "out" / "data" / "demos.json").unlink()
    assert open_data(recipe, base, Ranks()).counts["steps"] == 10 and len(opened_times) == 2
    episodes[2] = replace(episodes[2], convention={"name": "another"})
    with pytest.raises(DatasetError, match="convention"):
        open_data(replace(recipe, out=str(tmp_path / "mixed")), base, Ranks())


def test_pairs_of_images_and_texts_get_their_share(word_checkpoint, data, tmp_path):
    base = load_checkpoint(word_checkpoint, read_weights=False)
    text = MadeSteps("text", np.array([10]), lambda i: Step("text", i, 0, b"", "", np.zeros((1, 1), np.float32)))

    def example(step, rng):
        labels = torch.tensor([-100, -100, 7, 2])
        return {
            "pixels": torch.zeros(112, 112, 3, dtype=torch.uint8), "input_ids": torch.tensor([1, 5, 7, 2]),
            "labels": labels, "dataset": "text",
        }  # fmt: skip

    recipe = Recipe(data=(str(data),), out=str(tmp_path), workers=0, batch_size=100, convention="base")
    opened = open_data(recipe, base, Ranks(), [ExtraSource(text, example, 0.25)])
    batch = next(iter(opened.loader))
    texts = int((batch["targets"] == 7).sum())
    assert 20 <= texts <= 30
    assert (batch["dimensions"] == 7).sum() == 100 + texts, "ends of all, and words"


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"data": []}, ConfigError, "no data"),
        ({"data": ["/nowhere"]}, DatasetError, "/nowhere"),
        ({"data": ["oxe_magic_soup"]}, ConfigError, "data_root"),
        ({"base": ""}, ConfigError, "base"),
        ({"validation_share": 0.5, "seed": 3, "max_steps": 1}, None, ""),
    ],
)
def test_what_cannot_be_trained_is_refused(word_checkpoint, data, tmp_path, values, error, words):
    recipe = {"base": str(word_checkpoint), "data": str(data), "out": str(tmp_path), "convention": "base"} | values
    if error is None:
        Trainer(recipe_from_mapping(recipe))
        return
    with pytest.raises(error, match=words):
        Trainer(recipe_from_mapping(recipe))


def test_a_loss_that_is_no_number_ends_the_training(word_checkpoint, data, tmp_path):
    training, _ = trainer(word_checkpoint, data, tmp_path, learning_rate=10.0, clip_norm=0.0, max_steps=60)
    with torch.no_grad():
        training.trainable["projector.fc1.bias"].fill_(float("nan"))
    with pytest.raises(ConfigError, match="learning_rate"):
        training.run()
