"""What is seen of a training: lines or a bar, TensorBoard, Weights & Biases only when asked for, and a history."""

import io
import json
import sys
import types

import numpy as np
import pytest

from openvla_core.errors import ConfigError
from openvla_core.training.recipe import recipe_from_mapping
from openvla_core.training.watchers import LOG, History, ProgressBar, TensorBoard, read_events, watchers_of

FACTS = {
    "recipe": {"strategy": "lora", "seed": 7}, "step": 0, "max_steps": 40, "parameters": 2_000_000,
    "trainable": 50_000, "strategy": "lora", "world": 1, "device": "cpu", "dtype": "float32",
    "data": {"episodes": 3, "steps": 30}, "split": {"version": 2}, "base": "tiny", "versions": {},
}  # fmt: skip
END = {"step": 40, "reason": "accuracy", "seconds": 3723.0, "figures": {}, "validation": {}}
FIGURES = {"loss": 1.25, "accuracy": 0.5, "l1": 0.125, "l1_x": 0.004, "samples_per_s": 30.0}


def sample(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "dataset": "mine", "episode": 1, "index": 2, "instruction": "pick up <the> cube",
        "image": rng.integers(0, 256, (32, 48, 3), dtype=np.uint8),
        "predicted": rng.normal(size=7).tolist(), "true": rng.normal(size=7).tolist(),
    }  # fmt: skip


def watch(watcher, first: int = 0) -> None:
    watcher.on_start({**FACTS, "step": first})
    for step in range(first + 10, 41, 10):
        watcher.on_step(step, {**FIGURES, "loss": 10.0 / step})
    watcher.on_validation(40, {"loss": 0.3, "accuracy": 0.75}, [sample()])
    watcher.on_end(END)


def test_without_a_terminal_there_are_lines_with_loss_accuracy_speed_and_what_is_left():
    stream = io.StringIO()
    watch(ProgressBar(stream))
    lines = stream.getvalue().splitlines()
    assert "50,000 of 2,000,000 parameters (2.5%)" in lines[0]
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == 4
    for word in ("step 20/40", "loss 0.500", "accuracy 50.0%", "30.0 samples/s", "left at most"):
        assert word in steps[1]
    assert "validation at step 40: loss 0.300  accuracy 75.0%" in lines
    assert "accurate enough" in lines[-1] and "1 h 02 min" in lines[-1]


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    stream.isatty = lambda: True
    watch(ProgressBar(stream))
    assert "━" in stream.getvalue() and "step 20/40" not in stream.getvalue()


def test_a_resumed_history_goes_on_where_the_checkpoint_was(tmp_path):
    watch(History(tmp_path))
    with (tmp_path / LOG).open("a") as file:
        file.write('{"kind": "step", "st')  # killed while it wrote
    later = History(tmp_path)
    later.on_start({**FACTS, "step": 20})
    assert [event["step"] for event in later.events] == [10, 20]
    later.on_step(30, FIGURES)
    assert later.curve("step", "loss") == [(10, 1.0), (20, 0.5), (30, 1.25)]
    assert read_events(tmp_path / LOG) == later.events


def test_tensorboard_shows_curves_pictures_and_the_recipe(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch(TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("train/l1_x")[0].value == pytest.approx(0.004)
    assert [event.step for event in events.Scalars("train/loss")] == [10, 20, 30, 40]
    assert events.Scalars("validation/accuracy")[0].value == 0.75
    assert events.Tags()["images"] == ["samples/0"]


def test_a_resumed_training_replaces_what_was_shown_beyond_its_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch(TensorBoard(tmp_path))
    watch(TensorBoard(tmp_path), first=20)
    assert [event.step for event in EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")] == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("module", "settings", "hint"),
    [
        ("torch.utils.tensorboard", {}, "pip install tensorboard.*tensorboard: false"),
        ("wandb", {"wandb": "arms", "tensorboard": False}, "pip install wandb"),
    ],
)
def test_a_missing_package_is_named_before_anything_begins(tmp_path, monkeypatch, module, settings, hint):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=hint):
        watchers_of(recipe_from_mapping(settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensorboard_by_default_and_nothing_is_sent_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    kinds = [type(watcher).__name__ for watcher in watchers_of(recipe_from_mapping({}), tmp_path)]
    assert kinds == ["ProgressBar", "History", "TensorBoard"]


def test_weights_and_biases_is_told_the_same(tmp_path, monkeypatch):
    told = []
    run = types.SimpleNamespace(log=lambda values, step: told.append((step, values)), finish=lambda: told.append("end"))
    fake = types.SimpleNamespace(
        init=lambda **options: told.append(options) or run, Image=lambda picture, caption: (picture.shape, caption)
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    watchers = watchers_of(recipe_from_mapping({"wandb": "arms", "tensorboard": False}), tmp_path)
    watch(watchers[-1])
    assert told[0]["project"] == "arms" and told[0]["config"]["seed"] == 7
    assert told[1] == (10, {f"train/{name}": value for name, value in {**FIGURES, "loss": 1.0}.items()})
    (shape, caption) = told[-2][1]["samples"][0]
    assert shape == (32, 48, 3) and caption.startswith("pick up <the> cube: predicted [")
    assert told[-1] == "end"


def test_events_are_json(tmp_path):
    watch(History(tmp_path))
    assert all(json.loads(line) for line in (tmp_path / LOG).read_text().splitlines())
