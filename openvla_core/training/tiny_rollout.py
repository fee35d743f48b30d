"""Runs the tiny model in the simulator without ROS: many scenes at once, to collect frames and to validate."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from openvla_core.action_statistics import ActionStatistics
from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.model.config import OpenVLAConfig
from openvla_core.model.openvla import OpenVLA
from openvla_core.sim.tabletop import TabletopSim
from openvla_core.sim.tasks import COLORS, Judge, Task, all_sentences
from openvla_core.training.batches import Batches
from openvla_core.training.packing import Packing, Sentences
from openvla_core.training.sim_frames import Frames, advance, keep_above_table, learner_walk
from openvla_core.training.tiny_checkpoint import tiny_tokenizer
from openvla_core.training.tiny_model import choose_actions

SCENES_AT_ONCE = 8
EPISODE_STEPS = 40


@dataclass
class Learner:
    """The model as it acts: images and tasks in, actions out."""

    model: OpenVLA
    packing: Packing
    batches: Batches
    statistics: ActionStatistics
    temperature: float = 0.0
    seed: int = 0

    @classmethod
    def load(cls, weights: Path, config: dict, statistics: dict, temperature: float = 0.0, seed: int = 0) -> "Learner":
        """From a safetensors file written during training."""
        parsed = OpenVLAConfig.from_dict(config)
        model = OpenVLA(parsed)
        model.load_state_dict(load_file(weights))
        sentences = Sentences.build(all_sentences(), tiny_tokenizer(), COLORS)
        action_statistics = ActionStatistics.from_dict(statistics)
        batches = Batches(action_statistics, parsed.action_vocab_size, instructions=1, seed=seed)
        packing = Packing(sentences, parsed.patches, 1)
        return cls(model.eval(), packing, batches, action_statistics, temperature, seed)

    def __post_init__(self) -> None:
        self._tokens = ActionTokenizer(self.model.config.action_vocab_size)
        self._generator = torch.Generator().manual_seed(self.seed)

    def act(self, images: np.ndarray, tasks: list[Task]) -> np.ndarray:
        """images (B, 112, 112, 3) uint8 and one task each -> actions (B, 7) float64: metres, radians, gripper."""
        pixels = self.batches.normalize_images(torch.from_numpy(images))
        sentence = torch.tensor([self.packing.sentences.texts.index(task.sentence()) for task in tasks])
        ids = choose_actions(self.model, self.packing, pixels, sentence, self.temperature, self._generator)
        return self.statistics.unnormalize(self._tokens.decode(ids.numpy()))


def collect(weights: Path, config: dict, statistics: dict, frames: int, seed: int) -> Frames:
    """Frames the current model walks into, labelled by the expert. Meant for a worker process."""
    torch.set_num_threads(1)
    # Half the probability mass of sampling explores around the greedy choice.
    learner = Learner.load(weights, config, statistics, temperature=0.5, seed=seed)
    sims = [TabletopSim() for _ in range(SCENES_AT_ONCE)]
    try:
        return Frames.join(list(learner_walk(sims, frames, np.random.default_rng(seed), learner.act)))
    finally:
        for sim in sims:
            sim.close()


def validate(weights: Path, config: dict, statistics: dict, scenes: Iterable[int], temperature: float = 0.0) -> dict:
    """Closed-loop success in these scenes, each with every colour in turn: {"reach": [won, played], "pick": ...}."""
    torch.set_num_threads(1)
    learner = Learner.load(weights, config, statistics, temperature)
    result: dict[str, Any] = {}
    for kind in ("reach", "pick"):
        episodes = [(seed, Task(kind, COLORS[index % len(COLORS)])) for index, seed in enumerate(scenes)]
        judges = run_episodes(learner, episodes)
        result[kind] = [sum(judge.success for judge in judges), len(judges)]
        result[f"{kind}_wrong"] = sum(judge.wrong_object for judge in judges)
    return result


def run_episodes(learner: Learner, episodes: list[tuple[int, Task]]) -> list[Judge]:
    """Plays (scene seed, task) episodes, several at a time, and returns their judges."""
    judges = []
    for start in range(0, len(episodes), SCENES_AT_ONCE):
        part = episodes[start : start + SCENES_AT_ONCE]
        sims = [TabletopSim() for _ in part]
        playing = [Judge(task) for _, task in part]
        for sim, (seed, _) in zip(sims, part, strict=True):
            sim.reset(seed)
        for _ in range(EPISODE_STEPS):
            images = np.stack([sim.render("policy") for sim in sims])
            actions = learner.act(images, [task for _, task in part])
            for sim, judge, action in zip(sims, playing, actions, strict=True):
                if not judge.success:
                    advance(sim, keep_above_table(sim, action), judge)
            if all(judge.success for judge in playing):
                break
        judges += playing
        for sim in sims:
            sim.close()
    return judges
