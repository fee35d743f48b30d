"""The loop: batches, gradients, steps, figures, checkpoints, until it is good enough or the steps are used up.

with ranks(recipe.device) as here:                    # alone, or one of many under torchrun
    trainer = Trainer(recipe, here, watchers=[...])   # opens base and data, continues where it was left
    outcome = trainer.run()
    state = trainer.whole_state()                     # whole tensors by name; on the first process only
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from openvla_core.checkpoint import load_checkpoint
from openvla_core.errors import ConfigError
from openvla_core.training.checkpointing import Saved, TrainingCheckpoints, restore_random_state
from openvla_core.training.data import ExtraSource, open_data
from openvla_core.training.distributed import Ranks, gather, last_pass
from openvla_core.training.loss import Pixels, row_loss
from openvla_core.training.metrics import GoodEnough, Metrics
from openvla_core.training.optimizer import clip_gradients, make_optimizer
from openvla_core.training.recipe import Recipe, resolved, to_mapping
from openvla_core.training.setup import compute_dtype, fingerprint, prepare_model
from openvla_core.training.split import SPLIT_VERSION
from openvla_core.training.state import (
    arithmetic,
    check_same_training,
    tell_other_arithmetic,
    training_targets,
    training_tensors,
)
from openvla_core.training.validation import validate
from openvla_core.training.versions import library_versions
from openvla_core.weights import stored_tensors

CHECKPOINTS = "checkpoints"


class Watcher(Protocol):
    """Told what happens, on the first process only. Figures are plain numbers; asking for none costs nothing.

    facts of on_start: "recipe" (plain values), "step" (where it begins), "max_steps", "parameters", "trainable",
    "strategy", "world", "device", "dtype", "data" (counts), "split", "base", "versions".
    figures: see openvla_core.training.metrics, of on_step over the steps since the last call; there also
    "gradient_norm" of the last step, "learning_rate", "epoch", "samples_per_s", and "memory_gb" on a GPU.
    samples: dicts with "dataset", "episode", "index", "instruction", "image" (H, W, 3) uint8, "predicted" and "true"
    (D,) lists in the units of the data set. Predicted under teacher forcing, as the training sees it.
    facts of on_end: "step", "reason" ("accuracy", "max_steps" or "stopped"), "seconds", "figures", "validation".
    """

    def on_start(self, facts: Mapping[str, Any]) -> None: ...

    def on_step(self, step: int, figures: Mapping[str, float]) -> None: ...

    def on_validation(self, step: int, figures: Mapping[str, float], samples: Sequence[Mapping[str, Any]]) -> None: ...

    def on_end(self, facts: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a training ended. reason: "accuracy", "max_steps", or "stopped": told to, with a checkpoint to continue from.

    figures, validation: the last ones, maybe empty.
    """

    step: int
    reason: str
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)


@dataclass
class Progress:
    """What a training knows of itself beside its weights. passes: batches that were trained on, per process.

    logged: the step of the last figures. seconds: of all parts of the training together.
    """

    step: int = 0
    passes: int = 0
    logged: int = 0
    good_since: int | None = None
    ended: bool = False
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)


class Trainer:
    """One training. base: the checkpoint it starts from, without weights. data: what it trains on. recipe: resolved."""

    def __init__(
        self,
        recipe: Recipe,
        ranks: Ranks | None = None,
        watchers: Sequence[Watcher] = (),
        extra: Sequence[ExtraSource] = (),
        told_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """told_to_stop: asked after every step; when it is so on one process, all of them save and end.

        Raises an OpenVLAError when base, data or recipe cannot be used, or `out` holds another training."""
        self.recipe, self.ranks = resolved(recipe), ranks or Ranks()
        self._watchers = list(watchers) if self.ranks.first else []
        self._told_to_stop = told_to_stop
        if not recipe.base or not recipe.out:
            raise ConfigError("a training needs base, the checkpoint it starts from, and out, where its result goes.")
        torch.manual_seed(recipe.seed)
        device = self.ranks.device
        # Written out attention is faster to train on a CPU.
        attention = "eager" if device.type == "cpu" else "sdpa"
        self.base = load_checkpoint(recipe.base, read_weights=False, attn_implementation=attention)
        self.data = open_data(self.recipe, self.base, self.ranks, extra)
        self.module, self.trainable = prepare_model(self.base, self.recipe, self.ranks)
        self.optimizer = make_optimizer(self.trainable, self.recipe)
        self.dtype = compute_dtype(self.recipe, device)
        self.pixels = Pixels(self.base.image_processor).to(device)
        self.metrics = Metrics(self.base.config, self.data.collate.dimensions, device)
        self.progress = Progress()
        self._checkpoints = TrainingCheckpoints(Path(recipe.out) / CHECKPOINTS, recipe.keep_last, self.ranks)
        self._fingerprint = fingerprint(stored_tensors(self.base.directory))
        saved = self._checkpoints.newest()
        if saved is not None:
            self._restore(saved)
        self._good = GoodEnough(recipe.stop_accuracy, recipe.stop_window, self.progress.good_since)

    def run(self) -> Outcome:
        """Trains until the end; continues a training that was interrupted. Every process calls it."""
        recipe, progress = self.recipe, self.progress
        self._clock = time.monotonic()
        self._begun = self._clock - progress.seconds
        self._tell("on_start", self._facts())
        batches, stopped = self._batches(), False
        while not (stopped or progress.ended) and progress.step < recipe.max_steps:
            self._take_step(batches)
            last = progress.step == recipe.max_steps
            if progress.step % recipe.log_every == 0 or last:
                progress.ended = self._log()
            ends = last or progress.ended
            stopped = not ends and self.ranks.any_says(self._told_to_stop())
            validates = recipe.validate_every and progress.step % recipe.validate_every == 0
            if ends or (validates and not stopped):  # who is told to stop may have seconds
                self._validate()
            if ends or stopped or progress.step % recipe.save_every == 0:
                self._save()
        reason = "stopped" if stopped else "accuracy" if progress.ended else "max_steps"
        outcome = Outcome(progress.step, reason, progress.seconds, progress.figures, progress.validation)
        self._tell("on_end", asdict(outcome))
        return outcome

    def whole_state(self) -> dict[str, Tensor]:
        """Every tensor of the model, trained or not, on the CPU of the first process; nothing on the others.

        Under adapters the names are peft's: `lora.adapter_tensors` and `lora.published_name` translate them. Every
        process must call it.
        """
        return gather(self.module.model.named_parameters(), self.ranks)

    def _take_step(self, batches: Iterator[dict[str, Tensor]]) -> None:
        recipe, device = self.recipe, self.ranks.device
        for index in range(recipe.accumulation):
            last_pass(self.module, index == recipe.accumulation - 1)
            batch = next(batches)
            with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
                logits = self.module(batch["input_ids"], self.pixels(batch), batch["places"])
            loss = row_loss(logits, batch["targets"])
            (loss / recipe.accumulation).backward()
            self.metrics.add(loss, logits, batch)
            self.progress.passes += 1
        self._gradient_norm = clip_gradients(self.trainable.values(), recipe.clip_norm or 0.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        """Batches on the device, each asked for while the one before is computed."""
        state = self.data.loader.state_dict()
        self.data.loader.load_state_dict({**state, "samples": self._samples()})
        device = self.ranks.device
        for batch in self.data.loader:
            yield {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    def _samples(self) -> int:
        """How many samples all processes together have trained on."""
        return self.progress.passes * self.recipe.batch_size * self.ranks.world

    def _log(self) -> bool:
        """Reads the figures, tells them, and says whether they are good enough to end."""
        progress, recipe = self.progress, self.recipe
        figures = self.metrics.read(self.ranks.all_sum)
        if not figures["loss"] < float("inf"):
            raise ConfigError(
                f"the loss is {figures['loss']} at step {progress.step}; the training cannot recover. Lower "
                "learning_rate, and continue from the last checkpoint or choose another `out`."
            )
        figures["gradient_norm"] = self._gradient_norm.item()
        figures["learning_rate"] = recipe.learning_rate or 0.0
        figures["epoch"] = self._samples() / self.data.loader.mixture.epoch_length
        now, steps = time.monotonic(), progress.step - progress.logged
        per_step = recipe.accumulation * recipe.batch_size * self.ranks.world
        figures["samples_per_s"] = steps * per_step / max(now - self._clock, 1e-9)
        if self.ranks.device.type == "cuda":
            figures["memory_gb"] = torch.cuda.max_memory_allocated(self.ranks.device) / 1e9
        good = self._good(progress.logged, progress.step, figures.get("accuracy"))
        self._clock = now
        progress.logged, progress.figures, progress.good_since = progress.step, figures, self._good.since
        self._tell("on_step", progress.step, figures)
        return good

    def _validate(self) -> None:
        if not self.data.validation.steps:
            return
        figures, samples = validate(self)
        self.progress.validation = figures
        self._tell("on_validation", self.progress.step, figures, samples)

    def _save(self) -> None:
        self.progress.seconds = time.monotonic() - self._begun
        facts = {
            "recipe": to_mapping(self.recipe),
            "world": self.ranks.world,
            "samples_per_step": self._samples() // max(self.progress.step, 1),
            "progress": asdict(self.progress),
            "base": self._fingerprint,
            "split": SPLIT_VERSION,
            "arithmetic": self._arithmetic(),
            "sums": self.ranks.all_sum(self.metrics.sums).tolist(),
            "data": {**self.data.loader.state_dict(), "samples": self._samples()},
        }
        self._checkpoints.save(self.progress.step, training_tensors(self.trainable, self.optimizer), facts)

    def _restore(self, saved: Saved) -> None:
        facts, recipe = saved.facts, self.recipe
        per_step = recipe.batch_size * recipe.accumulation * self.ranks.world
        check_same_training(recipe, per_step, facts)
        if facts["base"] != self._fingerprint:
            raise ConfigError(f"{recipe.base} is not the checkpoint that the training in `out` began with. Give that.")
        if self.ranks.first:
            tell_other_arithmetic(self._arithmetic(), facts)
        self.data.loader.load_state_dict(facts["data"])
        saved.read(training_targets(self.trainable, self.optimizer, saved.shapes))
        self.progress = Progress(**facts["progress"])
        self.progress.passes = saved.step * recipe.accumulation
        if self.ranks.first:  # these are of all processes together
            self.metrics.sums.copy_(torch.tensor(facts["sums"], dtype=torch.float64))
        restore_random_state(saved, self.ranks)

    def _arithmetic(self) -> dict[str, str | int]:
        return arithmetic(self.recipe, self.ranks.world, self.ranks.device, self.dtype)

    def _facts(self) -> dict[str, Any]:
        model = self.module.model
        return {
            "recipe": to_mapping(self.recipe),
            "step": self.progress.step,
            "max_steps": self.recipe.max_steps,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "trainable": sum(parameter.numel() for parameter in self.trainable.values()),
            "strategy": self.recipe.strategy,
            "world": self.ranks.world,
            "device": str(self.ranks.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "data": self.data.counts,
            "split": {
                "version": SPLIT_VERSION,
                "by": "episode name",
                "share": self.recipe.validation_share,
                "seed": self.recipe.seed,
            },
            "base": str(self.base.directory),
            "versions": library_versions(),
        }

    def _tell(self, what: str, *arguments: Any) -> None:
        for watcher in self._watchers:
            getattr(watcher, what)(*arguments)
