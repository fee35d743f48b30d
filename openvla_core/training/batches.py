"""Turns labelled frames into training batches: pixels, K instructions per image, action ids and their disturbance."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openvla_core.action_statistics import ActionStatistics
from openvla_core.action_tokenizer import BINS, ActionTokenizer
from openvla_core.sim.tasks import ALL_TASKS, COLORS, PHRASINGS
from openvla_core.training.grounding import Truth, patch_of
from openvla_core.training.sim_frames import Frames
from openvla_core.training.tiny_checkpoint import tiny_preprocessor_config

JITTER_SHARE, JITTER_BINS, RANDOM_SHARE = 0.8, 8.0, 0.3
MOTION = 3  # the first three action tokens are the translation


@dataclass
class Batch:
    """pixels (B, 6, S, S); sentence (B, K) indices; actions and read_actions (B, K, 7) ids; truth for the heads."""

    pixels: Tensor
    sentence: Tensor
    actions: Tensor
    read_actions: Tensor
    truth: Truth


class Batches:
    """Draws batches from pools of frames. All randomness comes from the seed."""

    def __init__(self, statistics: ActionStatistics, action_base: int, instructions: int, seed: int) -> None:
        """action_base: first id above the action ids; instructions: K."""
        self._statistics = statistics
        self._tokenizer = ActionTokenizer(action_base)
        towers = tiny_preprocessor_config()
        self._mean, self._std = (torch.tensor(towers[key]).view(-1, 1, 1) for key in ("means", "stds"))
        self._instructions = instructions
        self._rng = np.random.default_rng(seed)
        self._pools: list[tuple[Frames, np.ndarray, float]] = []

    def add(self, frames: Frames, weight: float) -> None:
        """Adds a pool that is drawn from with this relative weight."""
        ids = self._tokenizer.encode(self._statistics.normalize(frames.actions))
        self._pools.append((frames, ids, weight))

    def draw(self, images: int) -> Batch:
        weights = np.array([weight for *_, weight in self._pools])
        pool = self._rng.choice(len(self._pools), size=images, p=weights / weights.sum())
        rows = [self._rng.integers(len(self._pools[p][0])) for p in pool]
        tasks = np.stack([self._choose_tasks(self._pools[p][0].actions[r]) for p, r in zip(pool, rows, strict=True)])

        def gather(name: str) -> Tensor:
            parts = [getattr(self._pools[p][0], name)[r] for p, r in zip(pool, rows, strict=True)]
            return torch.from_numpy(np.stack(parts))

        ids = np.stack([self._pools[p][1][r] for p, r in zip(pool, rows, strict=True)])
        actions = np.take_along_axis(ids, tasks[..., None], axis=1)
        steps = np.take_along_axis(gather("actions").numpy()[..., :3], tasks[..., None], axis=1)
        truth = Truth(
            patches=patch_of(gather("pixels"), self._image_size()),
            points=gather("points"),
            tools=gather("tools"),
            openings=gather("openings"),
            colors=torch.from_numpy(tasks % len(COLORS)),
            steps=torch.from_numpy(steps),
        )
        return Batch(
            pixels=self.normalize_images(gather("images")),
            sentence=torch.from_numpy(self._choose_sentences(tasks)),
            actions=torch.from_numpy(actions),
            read_actions=torch.from_numpy(self._disturb(actions)),
            truth=truth,
        )

    def normalize_images(self, images: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 6, S, S) float32, as the image processor does at this size."""
        pixels = images.permute(0, 3, 1, 2).float() / 255.0
        return (torch.cat([pixels, pixels], dim=1) - self._mean) / self._std

    def _image_size(self) -> int:
        return self._pools[0][0].images.shape[1]

    def _choose_tasks(self, actions: np.ndarray) -> np.ndarray:
        """K of the eight tasks; picks, and above all picks that close the gripper, come more often."""
        is_pick = np.array([task.kind == "pick" for task in ALL_TASKS])
        score = self._rng.random(len(ALL_TASKS)) + 0.2 * is_pick
        if self._rng.random() < 0.8:
            score += 2.0 * (is_pick & (actions[:, 6] < 0.5))
        return np.argsort(-score)[: self._instructions]

    def _choose_sentences(self, tasks: np.ndarray) -> np.ndarray:
        """One of each task's wordings, as an index into `all_sentences()`."""
        counts = np.array([len(PHRASINGS[task.kind]) for task in ALL_TASKS])
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        return first[tasks] + np.floor(self._rng.random(tasks.shape) * counts[tasks]).astype(np.int64)

    def _disturb(self, actions: np.ndarray) -> np.ndarray:
        """Wrong motion tokens to read, so that the next token is decided by the image and not by the previous ones."""
        rng, read = self._rng, actions.copy()
        low, high = self._tokenizer.first_id, self._tokenizer.vocab_size - 1
        motion = read[..., :MOTION]
        jittered = np.clip(motion + np.rint(rng.normal(0, JITTER_BINS, motion.shape)), low, high)
        motion = np.where(rng.random((*read.shape[:2], 1)) < JITTER_SHARE, jittered, motion)
        random = rng.integers(low, low + BINS, motion.shape)
        motion = np.where(rng.random((*read.shape[:2], 1)) < RANDOM_SHARE, random, motion)
        read[..., :MOTION] = motion
        return read
