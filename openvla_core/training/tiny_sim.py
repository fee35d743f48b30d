"""Trains the tiny OpenVLA that ships with the simulator, from random weights, on frames labelled by the expert.

Three phases in one command: see (vision alone), act (everything), and act where the learner itself goes (DAgger).
Judge the result in closed loop only: token accuracy under teacher forcing says little about it.
"""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from openvla_core.action_statistics import ActionStatistics, compute_statistics
from openvla_core.checkpoint import save_checkpoint
from openvla_core.config import setting
from openvla_core.model.config import OpenVLAConfig
from openvla_core.model.openvla import OpenVLA
from openvla_core.sim.tasks import COLORS, all_sentences
from openvla_core.training.batches import Batches
from openvla_core.training.packing import Packing, Sentences
from openvla_core.training.sim_frames import Frames, make_frames
from openvla_core.training.tiny_checkpoint import (
    UNNORM_KEY,
    tiny_config,
    tiny_convention,
    tiny_preprocessor_config,
    tiny_tokenizer,
)
from openvla_core.training.tiny_model import TinyTrainingModel, initialize
from openvla_core.training.tiny_rollout import collect, validate
from openvla_core.training.versions import library_versions

VALIDATION_SEED = 800_000  # scenes for validation while training; never used for training or final evaluation
WARM_UP_STEPS = 50


@dataclass(frozen=True)
class TinySimRecipe:
    """Every number of the training run."""

    seed: int = setting(7, "Seed of weights, data and order", minimum=0)
    random_frames: int = setting(14_000, "Frames of random states", minimum=1)
    expert_frames: int = setting(12_000, "Frames of disturbed expert walks", minimum=1)
    shards: int = setting(4, "Parts each kind of frames is made in", minimum=1)
    workers: int = setting(2, "Processes that make frames", minimum=1, maximum=64)
    threads: int = setting(1, "Threads of the training process", minimum=1, maximum=64)
    images: int = setting(24, "Images per step", minimum=1)
    instructions: int = setting(4, "Instructions per image", minimum=1, maximum=8)
    vision_steps: int = setting(1_200, "Steps of the vision phase", minimum=0)
    main_steps: int = setting(5_000, "Steps of the main phase", minimum=1)
    vision_learning_rate: float = setting(1e-3, "Learning rate of the vision phase", minimum=0.0)
    learning_rate: float = setting(1.5e-3, "Learning rate of the main phase", minimum=0.0)
    constant_share: float = setting(0.55, "Share of the main phase before the rate decays", minimum=0.0, maximum=1.0)
    weight_decay: float = setting(0.02, "Weight decay of AdamW", minimum=0.0)
    average: float = setting(0.998, "Decay of the averaged weights that are saved", minimum=0.0, maximum=0.99999)
    dagger_rounds: int = setting(3, "Times the learner's own walks are added", minimum=0, maximum=20)
    dagger_frames: int = setting(4_000, "Frames of each such round", minimum=1)
    dagger_delay: int = setting(500, "Steps between starting a round and using its frames", minimum=0)
    validation_scenes: int = setting(24, "Scenes of each closed-loop validation", minimum=0)
    validate_every: int = setting(1_250, "Steps between validations", minimum=1)
    save_every: int = setting(625, "Steps between saved checkpoints", minimum=1)


class TinySimTraining:
    """One run of the recipe. `run()` returns the directory of the trained checkpoint."""

    def __init__(self, recipe: TinySimRecipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        self.work = out.parent / f"{out.name}.work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.config, self.tokenizer = tiny_config(), tiny_tokenizer()
        self.started = time.monotonic()
        self.history: list[dict[str, Any]] = []
        self.frames_used = 0
        torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        parsed = OpenVLAConfig.from_dict(self.config)
        model = OpenVLA(parsed, attn_implementation="eager")
        initialize(model)
        sentences = Sentences.build(all_sentences(), self.tokenizer, COLORS)
        packing = Packing(sentences, parsed.patches, recipe.instructions)
        color_ids = torch.tensor([self.tokenizer.token_to_id(color) for color in COLORS])
        self.learner = TinyTrainingModel(model, packing, color_ids, eos_id=parsed.language.eos_token_id)
        self.average = {name: value.clone() for name, value in model.state_dict().items()}

    def run(self) -> Path:
        recipe = self.recipe
        # Worker processes start fresh: a forked process would share the renderer and the thread pools.
        with ProcessPoolExecutor(recipe.workers, get_context("spawn"), initializer=os.nice, initargs=(5,)) as workers:
            random = [workers.submit(make_frames, "random", n, s) for n, s in self._shards(recipe.random_frames, 100)]
            expert = [workers.submit(make_frames, "expert", n, s) for n, s in self._shards(recipe.expert_frames, 200)]
            seen = self._join(random, "frames of random states")
            self.statistics = compute_statistics(seen.actions.reshape(-1, seen.actions.shape[-1]))
            scale = ActionStatistics.from_dict(self.statistics)
            base = self.learner.model.config.action_vocab_size
            self.batches = Batches(scale, base, recipe.instructions, recipe.seed)
            self.batches.add(seen, 0.4)
            self._vision_phase()
            self.batches.add(self._join(expert, "frames of expert walks"), 0.3)
            self._main_phase(workers)
        return self.out

    def _shards(self, frames: int, first_seed: int) -> list[tuple[int, int]]:
        per_shard = -(-frames // self.recipe.shards)
        return [(per_shard, self.recipe.seed * 10_000 + first_seed + i) for i in range(self.recipe.shards)]

    def _join(self, parts: list[Future], what: str) -> Frames:
        frames = Frames.join([part.result() for part in tqdm(parts, desc=what)])
        self.frames_used += len(frames)
        self._note({"what": what, "frames": len(frames)})
        return frames

    def _vision_phase(self) -> None:
        recipe = self.recipe
        optimizer = self._optimizer(recipe.vision_learning_rate)
        for step in (bar := tqdm(range(recipe.vision_steps), desc="vision")):
            set_rate(optimizer, recipe.vision_learning_rate * min(1.0, (step + 1) / WARM_UP_STEPS))
            values = self._step(optimizer, *self.learner.vision_loss(self.batches.draw(recipe.images)))
            if step % 100 == 99:
                bar.set_postfix(values)
                self._note({"phase": "vision", "step": step + 1, **values})
        self.average = {name: value.clone() for name, value in self.learner.model.state_dict().items()}

    def _main_phase(self, workers: ProcessPoolExecutor) -> None:
        recipe, optimizer = self.recipe, self._optimizer(self.recipe.learning_rate)
        rounds = dict(self._dagger_schedule())
        pending: dict[int, Future] = {}
        validations: list[tuple[int, Future]] = []
        for step in (bar := tqdm(range(recipe.main_steps), desc="actions")):
            set_rate(optimizer, recipe.learning_rate * self._schedule(step))
            values = self._step(optimizer, *self.learner.loss(self.batches.draw(recipe.images)))
            self._update_average()
            done = step + 1
            if done % 50 == 0:
                bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()})
                self._note({"phase": "main", "step": done, **values})
            if done in rounds:
                seed = recipe.seed * 10_000 + 300 + rounds[done]
                pending[done + recipe.dagger_delay] = workers.submit(
                    collect, self._weights(done), self.config, self.statistics, recipe.dagger_frames, seed
                )
            if done in pending:
                walked = self._join([pending.pop(done)], "frames of the learner's walks")
                self.batches.add(walked, 0.3 / recipe.dagger_rounds)
            if done % recipe.validate_every == 0 and done < recipe.main_steps and recipe.validation_scenes:
                validations.append((done, self._validate(workers, done)))
            if done % recipe.save_every == 0 and done < recipe.main_steps:
                self._save(done)
            validations = self._report(validations, wait=False)
        if recipe.validation_scenes:
            validations.append((recipe.main_steps, self._validate(workers, recipe.main_steps)))
        self._report(validations, wait=True)
        self._save(recipe.main_steps)

    def _dagger_schedule(self) -> Iterator[tuple[int, int]]:
        """(step, round) pairs spread over the middle of the main phase."""
        for index in range(self.recipe.dagger_rounds):
            yield int(self.recipe.main_steps * (0.25 + 0.45 * index / max(1, self.recipe.dagger_rounds - 1))), index

    def _schedule(self, step: int) -> float:
        progress = (step + 1) / self.recipe.main_steps
        constant = self.recipe.constant_share
        decay = 1.0 if progress <= constant else 1.0 - 0.95 * (progress - constant) / (1.0 - constant)
        return decay * min(1.0, (step + 1) / WARM_UP_STEPS)

    def _optimizer(self, rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.learner.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=self.recipe.weight_decay, fused=True
        )

    def _step(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor, values: dict[str, float]) -> dict[str, float]:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        optimizer.step()
        return values

    @torch.no_grad()
    def _update_average(self) -> None:
        for name, value in self.learner.model.state_dict().items():
            self.average[name].lerp_(value, 1.0 - self.recipe.average)

    def _weights(self, step: int) -> Path:
        path = self.work / f"average-{step}.safetensors"
        save_file({name: value.contiguous() for name, value in self.average.items()}, path)
        return path

    def _validate(self, workers: ProcessPoolExecutor, step: int) -> Future:
        scenes = range(VALIDATION_SEED, VALIDATION_SEED + self.recipe.validation_scenes)
        return workers.submit(validate, self._weights(step), self.config, self.statistics, scenes)

    def _report(self, validations: list[tuple[int, Future]], wait: bool) -> list[tuple[int, Future]]:
        for step, future in validations:
            if wait or future.done():
                result = future.result()
                tqdm.write(f"closed loop after {step} steps: {result}")
                self._note({"phase": "validation", "step": step, **result})
        return [(step, future) for step, future in validations if not (wait or future.done())]

    def _note(self, entry: dict[str, Any]) -> None:
        entry = {"seconds": round(time.monotonic() - self.started, 1), **entry}
        self.history.append(entry)
        with (self.work / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    def _save(self, step: int) -> None:
        validations = [entry for entry in self.history if entry.get("phase") == "validation"]
        card = {
            "recipe": asdict(self.recipe),
            "steps": step,
            "frames": self.frames_used,
            "seconds": round(time.monotonic() - self.started),
            "validation": validations,
            "last_step": next((e for e in reversed(self.history) if e.get("phase") == "main"), None),
            "hardware": f"CPU, {self.recipe.threads} training thread(s), {self.recipe.workers} worker process(es)",
            "versions": library_versions(),
            "instructions": list(all_sentences()),
        }
        save_checkpoint(
            self.out,
            self.average,
            self.config,
            self.tokenizer,
            {UNNORM_KEY: {"action": self.statistics, "num_transitions": self.frames_used, "num_trajectories": 0}},
            tiny_preprocessor_config(),
            {"action_convention.json": tiny_convention(), "training_card.json": card},
            overwrite=True,
        )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
