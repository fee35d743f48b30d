"""A training that is interrupted ends as if it had not been, and its newest checkpoint is always complete."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training_bench import shards, trainer

from openvla_core.errors import CheckpointError, ConfigError
from openvla_core.training.checkpointing import TrainingCheckpoints, random_state, restore_random_state
from openvla_core.training.distributed import Ranks

CRASH = Path(__file__).resolve().parents[3] / "benchmarks" / "training_crash.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("data"))


class Interrupt(Exception):
    """Stands for whatever ends a process."""


def interrupted(training, step: int) -> None:
    """Runs it up to the middle of a step."""
    take = training._take_step

    def stop(batches) -> None:
        if training.progress.step == step:
            raise Interrupt
        take(batches)

    training._take_step = stop
    with pytest.raises(Interrupt):
        training.run()


def last_files(out: Path) -> dict[str, bytes]:
    folder = sorted((out / "checkpoints").glob("step-*"))[-1]
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "training.json"}


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_weights_moments_and_random_numbers_end_the_same(word_checkpoint, data, tmp_path, strategy):
    """Interrupted twice, once before the first checkpoint, with workers that had read ahead."""
    values = {"strategy": strategy, "save_every": 2, "workers": 1, "max_steps": 7, "accumulation": 2, "augment": False}
    whole, told = trainer(word_checkpoint, data, tmp_path / "whole", **values)
    whole.run()
    for step in (1, 5):
        broken, _ = trainer(word_checkpoint, data, tmp_path / "broken", **values)
        interrupted(broken, step)
    ended, told_last = trainer(word_checkpoint, data, tmp_path / "broken", **values)
    assert ended.progress.step == 4
    ended.run()
    assert last_files(tmp_path / "whole") == last_files(tmp_path / "broken")
    for step in told_last.steps:
        same = ("loss", "accuracy", "l1", "l1_x", "gradient_norm", "epoch")
        assert [told.steps[step][key] for key in same] == [told_last.steps[step][key] for key in same]


def test_it_ends_when_the_uninterrupted_one_does(word_checkpoint, tmp_path):
    """How long the accuracy has been good is part of what is saved."""
    few = shards(tmp_path, "few", episodes=2, steps=3)
    values = {"batch_size": 6, "learning_rate": 1e-2, "log_every": 3, "save_every": 7, "max_steps": 400}
    values |= {"validation_share": 0.0, "stop_accuracy": 0.3, "stop_window": 12}
    whole, _ = trainer(word_checkpoint, few, tmp_path / "whole", **values)
    outcome = whole.run()
    broken, _ = trainer(word_checkpoint, few, tmp_path / "broken", **values)
    interrupted(broken, outcome.step - 2)
    ended, _ = trainer(word_checkpoint, few, tmp_path / "broken", **values)
    assert ended.run().step == outcome.step
    assert last_files(tmp_path / "whole") == last_files(tmp_path / "broken")


def test_killed_processes_leave_complete_checkpoints_and_end_the_same(tmp_path):
    """A few of the kills of the benchmark."""
    out = tmp_path / "crash.json"
    command = [sys.executable, str(CRASH), "--kills", "1", "--writing-kills", "5", "--worlds", "1", "--out", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    results = json.loads(out.read_text())
    assert results["writing"]["complete_newest"] == 5 and results["writing"]["lost_reported"] == 0
    assert results["trainings"][0]["bit_identical"] == 1


def test_a_training_goes_on_only_as_itself(word_checkpoint, data, tmp_path):
    trainer(word_checkpoint, data, tmp_path, max_steps=2)[0].run()
    trainer(word_checkpoint, data, tmp_path, max_steps=3, batch_size=2, accumulation=2)[0].run()
    for values, word in (
        ({"learning_rate": 2e-3}, "learning_rate"),
        ({"seed": 8}, "seed"),
        ({"strategy": "lora"}, "strategy"),
        ({"batch_size": 2}, "samples per step"),
    ):
        with pytest.raises(ConfigError, match=word):
            trainer(word_checkpoint, data, tmp_path, **values)


def test_it_says_when_it_cannot_go_on_to_the_bit(word_checkpoint, data, tmp_path, caplog):
    trainer(word_checkpoint, data, tmp_path, max_steps=2)[0].run()
    assert trainer(word_checkpoint, data, tmp_path, max_steps=3)[0].progress.step == 2
    assert "to the bit" not in caplog.text
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        trainer(word_checkpoint, data, tmp_path, max_steps=3, batch_size=2, accumulation=2)
    finally:
        torch.set_num_threads(threads)
    assert f"batch_size 4, now 2; CPU threads {threads}, now {threads + 1}" in caplog.text
    assert "goes on, but not to the bit" in caplog.text


def test_another_base_is_noticed(word_checkpoint, data, tmp_path):
    from openvla_core.checkpoint import load_checkpoint

    trainer(word_checkpoint, data, tmp_path / "out", strategy="lora", max_steps=1)[0].run()
    other = load_checkpoint(word_checkpoint)
    with torch.no_grad():
        other.model.projector.fc1.weight[0] += 1.0
    with pytest.raises(ConfigError, match="not the checkpoint"):
        trainer(other.save(tmp_path / "other"), data, tmp_path / "out", strategy="lora")


# Checkpoints by themselves ----------------------------------------------------------------------------------------


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((5, 3), float(value)), "b": torch.full((), float(value)), "c": torch.zeros(0, 4)}


def test_the_newest_that_is_complete_is_found_and_old_ones_leave(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path, keep_last=2, ranks=Ranks())
    assert checkpoints.newest() is None
    for step in (5, 10, 15):
        checkpoints.save(step, tensors(step), {"here": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]
    assert checkpoints.newest().step == 15
    (tmp_path / "step-00000015" / "part-00000-of-00001.safetensors").write_bytes(b"torn")
    (tmp_path / "step-00000020").mkdir()
    (tmp_path / ".step-00000025.part").mkdir()
    saved = checkpoints.newest()
    assert (saved.step, saved.facts) == (10, {"here": 10})
    found = tensors(0.0)
    saved.read(found)
    assert all(bool((tensor == 10).all()) for tensor in found.values())
    checkpoints.save(15, tensors(15), {})  # takes the place of the damaged one
    assert checkpoints.newest().step == 15 and not (tmp_path / ".step-00000025.part").exists()


@pytest.mark.parametrize("name", ["part-00000-of-00001.safetensors", "random-00000.json"])
def test_a_flipped_bit_sends_the_training_back_to_the_checkpoint_before(tmp_path, name, caplog):
    checkpoints = TrainingCheckpoints(tmp_path, keep_last=2, ranks=Ranks())
    for step in (5, 10):
        checkpoints.save(step, tensors(step), {})
    damaged = tmp_path / "step-00000010" / name
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    assert checkpoints.newest().step == 5
    assert name in caplog.text and "not as it was written" in caplog.text


def test_what_is_not_in_a_checkpoint_cannot_be_read(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path, keep_last=1, ranks=Ranks())
    checkpoints.save(1, tensors(1.0), {})
    for wanted in ({"d": torch.zeros(1)}, {"a": torch.zeros(5, 4)}):
        with pytest.raises(CheckpointError, match=next(iter(wanted))):
            checkpoints.newest().read(wanted)


def test_every_file_is_json_or_safetensors(word_checkpoint, data, tmp_path):
    trainer(word_checkpoint, data, tmp_path, max_steps=1)[0].run()
    files = [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert len(files) == 3 and all(os.path.getsize(path) for path in files)


def test_random_numbers_continue(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path, keep_last=1, ranks=Ranks())
    before = random_state(Ranks().device)
    checkpoints.save(1, tensors(1.0), {})
    drawn = torch.rand(3), np.random.random(3), random.random(), np.random.normal()
    restore_random_state(checkpoints.newest(), Ranks())
    assert random_state(Ranks().device) == before
    again = torch.rand(3), np.random.random(3), random.random(), np.random.normal()
    assert torch.equal(drawn[0], again[0]) and (drawn[1] == again[1]).all() and drawn[2:] == again[2:]
