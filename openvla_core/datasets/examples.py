"""One step of a demonstration becomes one line of a training batch, through the code that serves the policy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openvla_core.action_statistics import ActionStatistics
from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.datasets.streaming.sources import Step
from openvla_core.errors import ConfigError, DatasetError, OpenVLAError
from openvla_core.image_preparation import ImagePreparation
from openvla_core.image_processor import ImageProcessor
from openvla_core.processor import Processor
from openvla_core.prompt import IGNORE_INDEX, training_sequence
from openvla_core.training.augmentation import Augmentation

Example = dict[str, Any]

# "camera": as a camera gives them, so everything is done to them that is done when the policy is served. "prepared": as
# the makers of a published data set left them, turned upright and already through JPEG: only the size is brought to.
FRAMES = ("camera", "prepared")


class ExampleBuilder:
    """Step -> {"pixel_values" (3 per tower, S, S) float32, "input_ids" (T,), "labels" (T,) int64, "dataset" str}.

    With normalized=False there is "pixels" (S, S, 3) uint8 instead: an eighth of the bytes to carry from the workers to
    the GPU, where PixelNormalizer makes the same pixel_values of them.
    """

    def __init__(
        self,
        processor: Processor,
        statistics: dict[str, ActionStatistics],
        augmentation: Augmentation | None = None,
        frames: str = "camera",
        normalized: bool = True,
    ) -> None:
        """statistics: per data set; one entry named "" serves them all. frames: one of FRAMES.

        Raises ConfigError where the policy would be served other pictures than it is trained on: the random crop of
        the augmentation and the centre crop of the processor's image preparation belong together.
        """
        if frames not in FRAMES:
            raise ConfigError(f"frames is {frames!r}; choose one of {', '.join(FRAMES)}.")
        self._processor, self._statistics, self._augmentation = processor, statistics, augmentation
        self._normalized = normalized
        self._tokenizer = ActionTokenizer(processor.config.action_vocab_size)
        self._eos_id = processor.config.language.eos_token_id
        self._preparation = training_preparation(processor.preparation, augmentation, frames)

    def __call__(self, step: Step, rng: np.random.Generator) -> Example:
        """rng: of this sample alone, so that its augmentation does not depend on what came before.

        Raises DatasetError naming the step when it cannot be used.
        """
        try:
            image = self.image(step, rng)
            images = self._processor.image_processor
            key, pixels = ("pixel_values", images(image)) if self._normalized else ("pixels", images.resized(image))
            input_ids, labels = self.tokens(step)
        except OpenVLAError as error:
            raise DatasetError(f"{step.dataset}, episode {step.episode}, step {step.index}: {error}") from error
        # A frame that nothing had to be done to is still that of the data set, and may be read-only.
        pixels = np.require(pixels, requirements=["C", "W"])
        return {key: torch.from_numpy(pixels), "input_ids": input_ids, "labels": labels, "dataset": step.dataset}

    def image(self, step: Step, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8, what the image processor is given: decoded, resized, augmented, in this order."""
        image = self._preparation(step.pixels())
        return image if self._augmentation is None else self._augmentation(image, rng)

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


class PixelNormalizer(nn.Module):
    """What the image processor does last, for a whole batch on its device: each grey level to its normalised value."""

    table: Tensor

    def __init__(self, image_processor: ImageProcessor) -> None:
        super().__init__()
        tables = np.concatenate([tower.table for tower in image_processor.towers])  # (C, 256)
        self.register_buffer("table", torch.from_numpy(tables), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, C, S, S) float32, C = 3 per tower; equal to the processor's to the last bit."""
        levels = pixels.permute(3, 0, 1, 2).int()
        planes = [table[levels[channel % 3]] for channel, table in enumerate(self.table)]
        return torch.stack(planes, dim=1)


def training_preparation(
    serving: ImagePreparation, augmentation: Augmentation | None = None, frames: str = "camera"
) -> ImagePreparation:
    """What is done to frames before augmentation, given what is done to them when the policy is served.

    Raises ConfigError when there is an augmentation whose crop is not that of the centre crop in serving.
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

    Returns "input_ids", "attention_mask", "labels" (B, L) int64, "pixel_values" (B, 3 per tower, S, S) float32, or
    "pixels" (B, S, S, 3) uint8, and "datasets", B names. Padding has the id `pad_id`, attention 0 and the label -100.
    """
    if not examples:
        raise DatasetError("a batch needs at least one example.")
    ids = [example["input_ids"] for example in examples]
    labels = [example["labels"] for example in examples]
    lengths = torch.tensor([len(row) for row in ids])
    longest = int(lengths.max())
    image = "pixels" if "pixels" in examples[0] else "pixel_values"
    return {
        "input_ids": _padded(ids, longest, pad_id),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "labels": _padded(labels, longest, IGNORE_INDEX),
        image: torch.stack([example[image] for example in examples]),
        "datasets": [example["dataset"] for example in examples],
    }


def _padded(rows: Sequence[Tensor], length: int, value: int) -> Tensor:
    """(B, length): each row, then `value`."""
    padded = torch.full((len(rows), length), value, dtype=torch.long)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded
