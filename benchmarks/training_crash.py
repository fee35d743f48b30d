"""Kills trainings at random points, and while they write checkpoints, and looks at what is left.

    python benchmarks/training_crash.py --out benchmarks/results/<date>-training-crash.json

A tiny training runs to its end without interruption. Then, for each kill point, a fresh one is killed by SIGKILL at a
random moment, started again and run to its end: the weights and the moments of the optimizer must be the same to the
bit. That is done with one process, and with two that share the model through FSDP2 over gloo. Before that, a process
that does nothing but write checkpoints is killed while it writes, again and again: the newest checkpoint must always
be complete, and not older than the last one that was reported as written.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import socket
import sys
import tempfile
import time
from datetime import date
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvla_core.action_statistics import compute_statistics
from openvla_core.checkpoint import save_checkpoint
from openvla_core.datasets.episode import PRIMARY, Episode, PixelFrames
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.model import OpenVLA, OpenVLAConfig
from openvla_core.sim.tasks import all_sentences
from openvla_core.training.checkpointing import TrainingCheckpoints
from openvla_core.training.distributed import Ranks, ranks
from openvla_core.training.recipe import recipe_from_mapping
from openvla_core.training.tiny_checkpoint import tiny_config, tiny_convention, tiny_preprocessor_config, tiny_tokenizer
from openvla_core.training.trainer import CHECKPOINTS, Trainer
from openvla_core.training.versions import library_versions

STEPS, SAVE_EVERY = 24, 5
ADDRESS = "127.0.0.1"
FORK = get_context("fork")


# What is trained --------------------------------------------------------------------------------------------------


def make_inputs(folder: Path) -> dict[str, Any]:
    """A tiny checkpoint with random weights and a data set of random pictures; what a recipe says of them."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    config = tiny_config(width=32, layers=2, tower_width=16, tower_depth=3)
    actions = rng.normal(0, 0.02, (64, 7)).astype(np.float32)
    base = save_checkpoint(
        folder / "base",
        OpenVLA(OpenVLAConfig.from_dict(config)),
        config,
        tiny_tokenizer(),
        {"made": {"action": compute_statistics(actions)}},
        tiny_preprocessor_config(),
        {"action_convention.json": tiny_convention()},
    )
    write_shards((episode(rng, number) for number in range(8)), folder / "made", "made")
    return {
        "base": str(base), "data": [str(folder / "made")], "strategy": "full", "learning_rate": 1e-3, "batch_size": 2,
        "accumulation": 2, "max_steps": STEPS, "save_every": SAVE_EVERY, "log_every": 1, "validate_every": 0,
        "validation_share": 0.25, "validation_steps": 8, "workers": 0, "stop_accuracy": None, "device": "cpu",
    }  # fmt: skip


def episode(rng: np.random.Generator, number: int, steps: int = 12) -> Episode:
    """Random pictures and actions under one of the known sentences."""
    return Episode(
        name=f"made_{number}",
        instruction=all_sentences()[number],
        images={PRIMARY: PixelFrames(rng.integers(0, 256, (steps, 112, 112, 3), dtype=np.uint8))},
        actions=rng.normal(0, 0.02, (steps, 7)).astype(np.float32),
        state={},
        times_s=np.arange(steps) / 5.0,
        rate_hz=5.0,
        convention=tiny_convention(),
    )


class Reporter:
    """Tells the one who kills how far the training is."""

    def __init__(self, reached: Any) -> None:
        self._reached = reached

    def on_start(self, facts: Any) -> None:
        self._reached.value = facts["step"]

    def on_step(self, step: int, figures: Any) -> None:
        self._reached.value = step

    def on_validation(self, step: int, figures: Any, samples: Any) -> None:
        pass

    def on_end(self, facts: Any) -> None:
        pass


def child(recipe: dict[str, Any], rank: int, world: int, port: int, reached: Any) -> None:
    """One process of a training, to its end."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": ADDRESS, "MASTER_PORT": str(port),
    }  # fmt: skip
    with ranks(recipe["device"]) as here:
        Trainer(recipe_from_mapping(recipe), here, [Reporter(reached)]).run()


# The one that kills -----------------------------------------------------------------------------------------------


def start(recipe: dict[str, Any], world: int) -> tuple[list[ForkProcess], Any]:
    """The processes of a training, forked so that they need not import anything, and the step they have reached."""
    reached, port = FORK.Value("q", -1, lock=False), free_port()
    processes = [FORK.Process(target=child, args=(recipe, rank, world, port, reached)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes, reached


def finish(recipe: dict[str, Any], world: int) -> str:
    """Runs a training to its end; the digest of the weights and moments it ends with."""
    processes, _ = start(recipe, world)
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    assert codes == [0] * world, f"the training ended with {codes}"
    return digest(Path(recipe["out"]) / CHECKPOINTS / f"step-{recipe['max_steps']:08d}")


def kill_at(recipe: dict[str, Any], world: int, step: int, delay_s: float) -> None:
    """Starts a training and kills all of its processes `delay_s` after it has reached a step."""
    processes, reached = start(recipe, world)
    while reached.value < step and all(process.is_alive() for process in processes):
        time.sleep(0.001)
    time.sleep(delay_s)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    for process in processes:
        process.join()


def digest(folder: Path) -> str:
    """Of all tensors of a checkpoint."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("part-*.safetensors")):
        whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def kill_points(inputs: dict[str, Any], folder: Path, world: int, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kills fresh trainings, each at another moment, and compares how they end."""
    reference = finish({**inputs, "out": str(folder / f"{world}-whole")}, world)
    points, equal = [], 0
    for number in range(kills):
        recipe = {**inputs, "out": str(folder / f"{world}-killed-{number}")}
        step, delay_s = chance.randrange(inputs["max_steps"]), chance.uniform(0.0, 0.1)
        kill_at(recipe, world, step, delay_s)
        left = sorted(path.name for path in (Path(recipe["out"]) / CHECKPOINTS).glob("*"))
        same = finish(recipe, world) == reference
        equal += same
        points.append({"step": step, "delay_s": round(delay_s, 4), "left": left, "same": same})
        print(
            f"{world} process(es), killed after step {step} + {delay_s * 1e3:.0f} ms: {left}: same {same}", flush=True
        )
    return {"processes": world, "kills": kills, "bit_identical": equal, "points": points}


def writer(folder: Path, reported: Any) -> None:
    """Writes one checkpoint after the other, each full of the number of its step, and reports those that are done."""
    torch.set_num_threads(1)
    checkpoints = TrainingCheckpoints(folder, keep_last=2, ranks=Ranks())
    newest = checkpoints.newest()
    step = newest.step if newest is not None else 0
    while True:
        step += 1
        checkpoints.save(step, tensors_of(step), {"step": step})
        reported.value = step


def tensors_of(step: int) -> dict[str, torch.Tensor]:
    return {f"tensor{i}": torch.full((100_000,), float(step)) for i in range(20)}


def kill_writers(folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kills a process that writes checkpoints, in the middle of it, and reads what is newest."""
    reported = FORK.Value("q", 0, lock=False)
    complete, while_writing, lost = 0, 0, 0
    checkpoints = TrainingCheckpoints(folder, keep_last=2, ranks=Ranks())
    for number in range(kills):
        before = reported.value
        process = FORK.Process(target=writer, args=(folder, reported))
        process.start()
        while reported.value <= before:  # so that there is something to lose
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.1))
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
        while_writing += any(folder.glob(".step-*"))
        saved = checkpoints.newest()
        assert saved is not None, f"kill {number}: no complete checkpoint"
        targets = {name: torch.zeros_like(tensor) for name, tensor in tensors_of(0).items()}
        saved.read(targets)
        right = all(bool((tensor == saved.step).all()) for tensor in targets.values())
        complete += right and saved.facts == {"step": saved.step}
        lost += saved.step < reported.value
        reported.value = max(reported.value, saved.step)
    return {"kills": kills, "while_writing": while_writing, "complete_newest": complete, "lost_reported": lost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kill points for each number of processes")
    parser.add_argument("--writing-kills", type=int, default=100, help="kills while a checkpoint is written")
    parser.add_argument("--worlds", type=int, nargs="*", default=[1, 2], help="numbers of processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)  # what forks must not have threads
    chance = random.Random(options.seed)
    results: dict[str, Any] = {
        "date": date.today().isoformat(), "machine": platform.machine(), "cores": os.cpu_count(),
        "versions": library_versions(), "seed": options.seed, "steps": STEPS, "save_every": SAVE_EVERY,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        results["writing"] = kill_writers(folder / "writing", options.writing_kills, chance)
        print(results["writing"], flush=True)
        inputs = make_inputs(folder)
        results["trainings"] = [kill_points(inputs, folder, world, options.kills, chance) for world in options.worlds]
    text = json.dumps(results, indent=2)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    wrong = results["writing"]["complete_newest"] < options.writing_kills or results["writing"]["lost_reported"]
    wrong = wrong or any(run["bit_identical"] < run["kills"] for run in results["trainings"])
    print("FAILED" if wrong else "every training ended as if it had not been killed")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
