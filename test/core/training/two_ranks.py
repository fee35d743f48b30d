"""Trains a tiny model in one process and in several, and prints how far apart they end, as JSON.

    python two_ranks.py FOLDER

Run by test_distributed.py. Processes are forked from this one, which has imported everything and has no threads.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

from training_crash import ADDRESS, FORK, free_port, make_inputs

from openvla_core.training.distributed import ranks
from openvla_core.training.recipe import recipe_from_mapping
from openvla_core.training.trainer import Trainer

SAMPLES_PER_STEP, STEPS = 8, 4


class Losses:
    """A watcher that keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_start(self, facts: Any) -> None:
        pass

    def on_step(self, step: int, figures: Any) -> None:
        self.losses.append(figures["loss"])

    def on_validation(self, step: int, figures: Any, samples: Any) -> None:
        self.losses.append(figures["loss"])

    def on_end(self, facts: Any) -> None:
        pass


def one_of(recipe: dict[str, Any], rank: int, world: int, machines: int, port: int, stop_at: int | None) -> None:
    """One process: trains, and the first one writes down losses and weights.

    stop_at: the step after which the last process alone is told to stop.
    """
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank % (world // machines)), "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world // machines), "MASTER_ADDR": ADDRESS, "MASTER_PORT": str(port),
    }  # fmt: skip
    watcher = Losses()
    with ranks("cpu") as here:
        trainer = Trainer(
            recipe_from_mapping(recipe), here, [watcher],
            told_to_stop=lambda: rank == world - 1 and trainer.progress.step == stop_at,
        )  # fmt: skip
        assert (trainer.run().reason == "stopped") is (stop_at is not None)
        state = trainer.whole_state()
    if rank == 0:
        out = Path(recipe["out"])
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, out / "whole.safetensors")
        (out / "losses.json").write_text(json.dumps(watcher.losses))


def train(
    inputs: dict[str, Any], out: Path, world: int, machines: int = 1, stop_at: int | None = None, **changes: Any
) -> Path:
    """Trains with this many processes, all together on the same samples; returns `out`."""
    recipe = {**inputs, "out": str(out), "max_steps": STEPS, "save_every": STEPS, **changes}
    recipe["accumulation"] = SAMPLES_PER_STEP // (world * recipe["batch_size"])
    port = free_port()
    processes = [
        FORK.Process(target=one_of, args=(recipe, rank, world, machines, port, stop_at)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * world, changes
    return out


def apart(one: Path, other: Path) -> dict[str, float]:
    """Largest relative difference of losses, as far as both have them, and largest difference of weights."""
    losses = [json.loads((out / "losses.json").read_text()) for out in (one, other)]
    weights = [load_file(out / "whole.safetensors") for out in (one, other)]
    assert set(weights[0]) == set(weights[1])
    return {
        "losses": max(abs(a - b) / a for a, b in zip(losses[0][::-1], losses[1][::-1], strict=False)),
        "weights": max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]),
    }


def parts(out: Path) -> dict[str, bytes]:
    folder = out / "checkpoints" / f"step-{STEPS:08d}"
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    inputs = make_inputs(folder)
    lora = {"strategy": "lora", "lora_rank": 4}
    alone, alone_lora = train(inputs, folder / "alone", 1), train(inputs, folder / "alone-lora", 1, **lora)
    two = train(inputs, folder / "two", 2, sharding="node")
    results: dict[str, Any] = {
        "spread over two": apart(alone, two),
        "two copies": apart(alone, train(inputs, folder / "copies", 2, sharding="none")),
        "adapters": apart(alone_lora, train(inputs, folder / "lora", 2, **lora)),
        "two machines of two": apart(alone, train(inputs, folder / "four", 4, machines=2, sharding="node")),
    }
    train(inputs, folder / "two-again", 2, sharding="node", max_steps=2)
    again = train(inputs, folder / "two-again", 2, sharding="node")
    results["two, interrupted: same bytes"] = parts(again) == parts(two) and len(parts(two)) == 2
    stopped = train(inputs, folder / "two-stopped", 2, sharding="node", stop_at=3)
    results["two, one told to stop: checkpoints"] = sorted(path.name for path in (stopped / "checkpoints").iterdir())
    train(inputs, folder / "two-stopped", 2, sharding="node")
    results["two, one told to stop: same bytes"] = parts(stopped) == parts(two)
    train(inputs, folder / "moved", 2, sharding="node", max_steps=2)
    results["begun by two, ended by one"] = apart(alone, train(inputs, folder / "moved", 1))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
