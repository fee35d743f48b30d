"""What is seen of a training while it runs: a bar in the terminal, TensorBoard, and Weights & Biases when asked for.

Each watcher is told the same things, see `openvla_core.training.trainer.Watcher`. None of them decides anything.
"""

import importlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from openvla_core.errors import ConfigError
from openvla_core.training.recipe import Recipe

Figures = Mapping[str, float]
Samples = Sequence[Mapping[str, Any]]
LOG = "log.jsonl"
SHOWN_SAMPLES = 8


def watchers_of(recipe: Recipe, folder: Path, stream: TextIO | None = None) -> list[Any]:
    """The watchers a recipe asks for; folder: of the training, where their files go.

    Raises ConfigError when one of them needs a package that is not installed.
    """
    watchers: list[Any] = [ProgressBar(stream), History(folder)]
    if recipe.tensorboard:
        watchers.append(TensorBoard(folder / "tensorboard"))
    if recipe.wandb is not None:
        watchers.append(WeightsAndBiases(recipe.wandb, folder))
    return watchers


class ProgressBar:
    """A bar with loss, accuracy, samples per second and time left; single lines where nobody looks at a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False)
        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=self._console, speed_estimate_period=120.0)
        self._task: TaskID | None = None
        self._total, self._first, self._began = 0, 0, 0.0

    def on_start(self, facts: Mapping[str, Any]) -> None:
        self._total, self._first, self._began = int(facts["max_steps"]), int(facts["step"]), time.monotonic()
        self._console.print(_introduction(facts), markup=False, soft_wrap=True)
        self._task = self._bar.add_task("training", total=self._total, completed=self._first, figures="")
        if self._console.is_terminal:
            self._bar.start()

    def on_step(self, step: int, figures: Figures) -> None:
        assert self._task is not None
        shown = short_figures(figures)
        self._bar.update(self._task, completed=step, figures=shown)
        if not self._console.is_terminal:
            self._console.print(f"step {step}/{self._total}  {shown}  {self._left(step)}", markup=False, soft_wrap=True)

    def on_validation(self, step: int, figures: Figures, samples: Samples) -> None:
        self._console.print(f"validation at step {step}: {short_figures(figures)}", markup=False, soft_wrap=True)

    def on_end(self, facts: Mapping[str, Any]) -> None:
        self._bar.stop()
        reasons = {"accuracy": "accurate enough", "max_steps": "the step limit", "stopped": "told to stop"}
        why = reasons.get(facts["reason"], facts["reason"])
        self._console.print(f"ended at step {facts['step']} ({why}) after {_duration(facts['seconds'])}", markup=False)

    def _left(self, step: int) -> str:
        done = step - self._first
        if done <= 0:
            return ""
        return f"{_duration((time.monotonic() - self._began) / done * (self._total - step))} left at most"


class History:
    """Keeps all figures and the newest samples, for the report, and in a file that a resumed training continues.

    events: dicts with "kind" ("step" or "validation"), "step" and the figures.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG
        self.facts: dict[str, Any] = {}
        self.end: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.samples: list[Mapping[str, Any]] = []

    def on_start(self, facts: Mapping[str, Any]) -> None:
        self.facts = dict(facts)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Figures after the checkpoint that is continued from belong to steps that are made again.
        self.events = [event for event in read_events(self.path) if event["step"] <= facts["step"]]
        lines = "".join(json.dumps(event) + "\n" for event in self.events)
        self.path.write_text(lines, encoding="utf-8")

    def on_step(self, step: int, figures: Figures) -> None:
        self._add("step", step, figures)

    def on_validation(self, step: int, figures: Figures, samples: Samples) -> None:
        self._add("validation", step, figures)
        self.samples = list(samples)

    def on_end(self, facts: Mapping[str, Any]) -> None:
        self.end = dict(facts)

    def curve(self, kind: str, name: str) -> list[tuple[int, float]]:
        """(step, value) of one figure."""
        return [(event["step"], event[name]) for event in self.events if event["kind"] == kind and name in event]

    def _add(self, kind: str, step: int, figures: Figures) -> None:
        event = {"kind": kind, "step": step, **{name: float(value) for name, value in figures.items()}}
        self.events.append(event)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events in a log; a last line that was cut off is left out, and so is everything without kind and step."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and type(event.get("step")) is int and event.get("kind") in ("step", "validation"):
            events.append(event)
    return events


class TensorBoard:
    """Curves, and pictures of the validation with predicted and true action, for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError when the package is not installed."""
        self._folder = folder
        self._writer_class = _imported("torch.utils.tensorboard", "tensorboard", "tensorboard: false").SummaryWriter
        self._writer: Any = None

    def on_start(self, facts: Mapping[str, Any]) -> None:
        # What an interrupted training wrote beyond its checkpoint is not shown.
        self._writer = self._writer_class(str(self._folder), purge_step=int(facts["step"]) + 1, flush_secs=20)
        self._writer.add_text("recipe", "    " + json.dumps(facts["recipe"], indent=2).replace("\n", "\n    "))

    def on_step(self, step: int, figures: Figures) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def on_validation(self, step: int, figures: Figures, samples: Samples) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        for place, sample in enumerate(samples[:SHOWN_SAMPLES]):
            self._writer.add_image(f"samples/{place}", np.asarray(sample["image"]), step, dataformats="HWC")
            self._writer.add_text(f"samples/{place}", describe_sample(sample), step)
        self._writer.flush()

    def on_end(self, facts: Mapping[str, Any]) -> None:
        self._writer.close()


class WeightsAndBiases:
    """The same figures sent to a Weights & Biases project. It reads its own environment for account and server."""

    def __init__(self, project: str, folder: Path) -> None:
        """Raises ConfigError when the package is not installed."""
        self._wandb = _imported("wandb", "wandb", "wandb: null")
        self._project, self._folder = project, folder

    def on_start(self, facts: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        config = {name: value for name, value in facts.items() if name != "recipe"} | dict(facts["recipe"])
        self._run = self._wandb.init(project=self._project, dir=str(self._folder), config=config)

    def on_step(self, step: int, figures: Figures) -> None:
        self._run.log({f"train/{name}": value for name, value in figures.items()}, step=step)

    def on_validation(self, step: int, figures: Figures, samples: Samples) -> None:
        pictures = [
            self._wandb.Image(np.asarray(sample["image"]), caption=describe_sample(sample))
            for sample in samples[:SHOWN_SAMPLES]
        ]
        self._run.log({**{f"validation/{n}": v for n, v in figures.items()}, "samples": pictures}, step=step)

    def on_end(self, facts: Mapping[str, Any]) -> None:
        self._run.finish()


def short_figures(figures: Figures) -> str:
    """The figures that tell most, in one line."""
    texts = {
        "loss": "loss {:.3f}",
        "accuracy": "accuracy {:.1%}",
        "l1": "L1 {:.3f}",
        "samples_per_s": "{:.1f} samples/s",
    }
    return "  ".join(text.format(figures[name]) for name, text in texts.items() if name in figures)


def describe_sample(sample: Mapping[str, Any]) -> str:
    """Instruction, predicted and true action in one line."""
    predicted, true = (", ".join(f"{value:.3f}" for value in sample[key]) for key in ("predicted", "true"))
    return f"{sample['instruction']}: predicted [{predicted}], true [{true}]"


def _introduction(facts: Mapping[str, Any]) -> str:
    share = facts["trainable"] / max(1, facts["parameters"])
    begin = f", continuing at step {facts['step']}" if facts["step"] else ""
    return (
        f"{facts['strategy']}: {facts['trainable']:,} of {facts['parameters']:,} parameters ({share:.1%}) on "
        f"{facts['world']} x {facts['device']} in {facts['dtype']}{begin}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _imported(module: str, package: str, instead: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"the package {package!r} is not installed, which the recipe's {package} needs. Install it with "
            f"`pip install {package}`, or set `{instead}` in the recipe."
        ) from error
