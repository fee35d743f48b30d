"""A tiny training to look into: data set, recipe, and a watcher that keeps what it is told."""

import sys
from pathlib import Path
from typing import Any

from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.training.recipe import recipe_from_mapping
from openvla_core.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "datasets"))

from made_episodes import made


class Told:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.started: dict[str, Any] = {}
        self.steps: dict[int, dict[str, float]] = {}
        self.validations: dict[int, tuple[dict[str, float], list]] = {}
        self.ended: dict[str, Any] = {}

    def on_start(self, facts) -> None:
        self.started = dict(facts)

    def on_step(self, step, figures) -> None:
        self.steps[step] = dict(figures)

    def on_validation(self, step, figures, samples) -> None:
        self.validations[step] = dict(figures), list(samples)

    def on_end(self, facts) -> None:
        self.ended = dict(facts)


def shards(folder: Path, name: str = "table", episodes: int = 8, steps: int = 12) -> Path:
    """A data set of random pictures and actions, told in words that the checkpoint `words` knows."""
    write_shards(made(name, [steps] * episodes), folder / name, name)
    return folder / name


def trainer(base: Path, data: Path, out: Path, **values: Any) -> tuple[Trainer, Told]:
    """A training that has not begun: six steps of all weights, by default."""
    recipe = {
        "base": str(base), "data": str(data), "out": str(out), "strategy": "full", "learning_rate": 1e-3,
        "batch_size": 4, "max_steps": 6, "log_every": 2, "save_every": 100, "validate_every": 0, "workers": 0,
        "validation_share": 0.25, "validation_steps": 6, "stop_accuracy": None, "convention": "base", "seed": 0,
        **values,
    }  # fmt: skip
    told = Told()
    return Trainer(recipe_from_mapping(recipe), watchers=[told]), told
