"""One step of a demonstration becomes one line of a training batch, through the code that serves the policy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openvla_core.action_statistics import ActionStatistics
from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.datasets.sources import Step
from openvla_core.errors import ConfigError, DatasetError, OpenVLAError
from openvla_core.image_preparation import ImagePreparation
from openvla_core.processor import Processor
from openvla_core.prompt import IGNORE_INDEX, training_sequence
from openvla_core.training.augmentation import Augmentation

Example = dict[str, Any]

# "camera": as a camera gives them, so everything is done to them that is done when the policy is served. "prepared": as
# the makers of a published data set left them, turned upright and already through JPEG: only the size is brought to.
FRAMES = ("camera", "prepared")


class ExampleBuilder:
    """Step -> {"pixel_values" (3 per tower, S, S) float32, "input_ids" (T,), "labels" (T,) int64, "dataset" str}."""

    def __init__(
        self,
        processor: Processor,
        statistics: dict[str, ActionStatistics],
        augmentation: Augmentation | None = None,
        frames: str = "camera",
    ) -> None:
        """statistics: per data set; one entry named "" serves them all. frames: one of FRAMES.

        Raises ConfigError where the policy would be served other pictures than it is trained on: the random crop of
        the augmentation and the centre crop of the processor's image preparation belong together.
        """
        if frames not in FRAMES:
            raise ConfigError(f"frames is {frames!r}; choose one of {', '.join(FRAMES)}.")
        self._processor, self._statistics, self._augmentation = processor, statistics, augmentation
        self._tokenizer = ActionTokenizer(processor.config.action_vocab_size)
        self._eos_id = processor.config.language.eos_token_id
        self._preparation = training_preparation(processor.preparation, augmentation, frames)

    def __call__(self, step: Step, rng: np.random.Generator) -> Example:
        """rng: of this sample alone, so that its augmentation does not depend on what came before.

        Raises DatasetError naming the step when it cannot be used.
        """
        try:
            pixels = self.pixels(step, rng)
            input_ids, labels = self.tokens(step)
        except OpenVLAError as error:
            raise DatasetError(f"{step.dataset}, episode {step.episode}, step {step.index}: {error}") from error
        return {"pixel_values": pixels, "input_ids": input_ids, "labels": labels, "dataset": step.dataset}

    def pixels(self, step: Step, rng: np.random.Generator) -> Tensor:
        """(3 per tower, S, S) float32: decoded, resized, augmented, normalised, in this order."""
        image = self._preparation(step.pixels())
        if self._augmentation is not None:
            image = self._augmentation(image, rng)
        return torch.from_numpy(self._processor.image_processor(image))

    def tokens(self, step: Step) -> tuple[Tensor, Tensor]:
        """input_ids and labels (T,) int64: the prompt, the action tokens of all actions of the step, the end."""
        normalized = self._statistics_of(step.dataset).normalize(step.actions)
        ids = self._tokenizer.encode(normalized).reshape(-1)
        prompt = self._processor.prompt_ids(step.instruction)
        input_ids, labels = training_sequence(prompt, self._processor.space_id, ids, self._eos_id)
        return torch.from_numpy(input_ids), torch.from_numpy(labels)

    def _statistics_of(self, dataset: str) -> ActionStatistics:
        for key in (dataset, ""):
            if key in self._statistics:
                return self._statistics[key]
        raise DatasetError(f"no action statistics; there are those of {', '.join(sorted(self._statistics)) or 'none'}.")


def training_preparation(
    serving: ImagePreparation, augmentation: Augmentation | None = None, frames: str = "camera"
) -> ImagePreparation:
    """What is done to frames before augmentation, given what is done to them when the policy is served.

    Raises ConfigError when one of random crop and centre crop is there without the other, or their areas differ.
    """
    random_area = 1.0 if augmentation is None else augmentation.crop_area
    center_area = 1.0 if serving.center_crop_area is None else serving.center_crop_area
    if augmentation is not None and random_area != center_area:
        raise ConfigError(
            f"the augmentation crops to {random_area} of the area, the policy is served {center_area} of it. Train "
            "with crop_area equal to the convention card's: 0.9 for image preprocessing center_crop and libero, else 1."
        )
    if augmentation is not None:
        serving = replace(serving, center_crop_area=None)
    return serving if frames == "camera" else replace(serving, rotate_180=False, jpeg_quality=None)


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, Any]:
    """A batch of B examples, padded on the right to the longest, L.

    Returns "input_ids", "attention_mask", "labels" (B, L) int64, "pixel_values" (B, 3 per tower, S, S) float32 and
    "datasets", B names. Padding has the id `pad_id`, attention 0 and the label -100.
    """
    if not examples:
        raise DatasetError("a batch needs at least one example.")
    ids = [example["input_ids"] for example in examples]
    labels = [example["labels"] for example in examples]
    lengths = torch.tensor([len(row) for row in ids])
    longest = int(lengths.max())
    return {
        "input_ids": _padded(ids, longest, pad_id),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "labels": _padded(labels, longest, IGNORE_INDEX),
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "datasets": [example["dataset"] for example in examples],
    }


def _padded(rows: Sequence[Tensor], length: int, value: int) -> Tensor:
    """(B, length): each row, then `value`."""
    padded = torch.full((len(rows), length), value, dtype=torch.long)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded
