"""From the data sets that a recipe names to batches: split by episode, mixed, loaded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from openvla_core.action_statistics import statistics_of
from openvla_core.checkpoint import Checkpoint
from openvla_core.datasets.examples import Example, ExampleBuilder
from openvla_core.datasets.streaming.loader import StreamingLoader, sample_rng
from openvla_core.datasets.streaming.sources import Step, StepSource
from openvla_core.errors import ConfigError
from openvla_core.image_preparation import ImagePreparation
from openvla_core.processor import Processor
from openvla_core.training.augmentation import Augmentation
from openvla_core.training.demonstrations import Demonstrations, convention_of, open_shards
from openvla_core.training.distributed import Ranks
from openvla_core.training.recipe import Recipe
from openvla_core.training.rows import RowCollate
from openvla_core.training.split import HeldOut, held_out
from openvla_core.training.still import without_noise

MakeExample = Callable[[Step, np.random.Generator], Example]
CROPPED = {"none": "center_crop", "bridge": "center_crop"}  # what a card's preprocessing becomes by augmentation
COMPILED_LENGTHS = 16


@dataclass(frozen=True)
class ExtraSource:
    """Something else to train on than actions, such as pairs of images and texts.

    share: of all samples. make_example gives what ExampleBuilder gives with normalized=False: "pixels" (S, S, 3) uint8,
    "input_ids" and "labels" (T,) int64, "dataset", the name of the source.
    """

    source: StepSource
    make_example: MakeExample
    share: float


@dataclass
class TrainingData:
    """statistics: the dataset_statistics.json of the result. convention: its card, None when nobody told one.

    counts: "episodes", "steps", "validation_episodes", "validation_steps", "samples_per_epoch".
    """

    loader: StreamingLoader
    validation: "Validation"
    collate: RowCollate
    processor: Processor
    statistics: dict[str, Any]
    convention: dict[str, Any] | None
    counts: dict[str, int]


@dataclass
class Validation:
    """Steps of episodes that are not trained on: (source, number of the step), the same on every process."""

    steps: list[tuple[StepSource, int]]
    make_example: MakeExample
    collate: RowCollate

    def batches(self, size: int, ranks: Ranks) -> Iterator[tuple[list[Step], dict[str, Tensor]]]:
        """This process's part, in batches of at most `size`; equally many on every process."""
        each = max(1, len(self.steps) // ranks.world) if self.steps else 0
        # With fewer steps than processes some are looked at twice, so that all have something to do.
        mine = [self.steps[(ranks.rank + i * ranks.world) % len(self.steps)] for i in range(each)]
        for first in range(0, each, size):
            steps = [source[number] for source, number in mine[first : first + size]]
            yield steps, self.collate([self.make_example(step, sample_rng(0, i)) for i, step in enumerate(steps)])


def open_data(recipe: Recipe, base: Checkpoint, ranks: Ranks, extra: Sequence[ExtraSource] = ()) -> TrainingData:
    """Opens what the recipe names; the first process writes what are not shards yet as shards, below `out`.

    Raises ConfigError or DatasetError when there is nothing to train on or its parts do not fit together.
    """
    check = _processor(base, None).prompt_ids  # sentences it refuses are left out here, not met while training
    if ranks.first:
        opened = open_shards(recipe, base, check)
    ranks.wait()
    if not ranks.first:
        opened = open_shards(recipe, base, check)
    convention = _convention(recipe, base, opened)
    processor = _processor(base, convention)
    statistics = {one.source.name: without_noise(one.source.statistics, one.card) for one in opened}
    action_statistics = {name: statistics_of(statistics, name) for name in statistics}
    augmentation = Augmentation() if recipe.augment else None
    train_example = ExampleBuilder(processor, action_statistics, augmentation, recipe.frames, normalized=False)
    parts = [held_out(one.source, recipe.validation_share, recipe.seed) for one in opened]
    training: list[StepSource] = [part.training for part in parts]
    collate = RowCollate(base.config, action_statistics, COMPILED_LENGTHS if recipe.compile else 1)
    shares = {one.source.name: one.weight for one in opened}
    shares |= _extra_weights(extra, training, shares)
    loader = StreamingLoader(
        [*training, *(one.source for one in extra)],
        _Examples(train_example, {one.source.name: one.make_example for one in extra}),
        collate,
        recipe.batch_size,
        shares,
        seed=recipe.seed,
        rank=ranks.rank,
        world=ranks.world,
        workers=recipe.workers,
        window=recipe.shuffle_window,
        pin_memory=ranks.device.type == "cuda",
    )
    # Validation sees what serving shows: the centre crop of a policy that is trained with random ones.
    served = ExampleBuilder(processor, action_statistics, None, recipe.frames, normalized=False)
    validation = Validation(_spread_evenly(parts, recipe.validation_steps), served, collate)
    counts = _counts(parts, loader, len(validation.steps))
    return TrainingData(loader, validation, collate, processor, statistics, convention, counts)


class _Examples:
    """The right maker of examples for each data set."""

    def __init__(self, actions: MakeExample, others: Mapping[str, MakeExample]) -> None:
        self._actions, self._others = actions, dict(others)

    def __call__(self, step: Step, rng: np.random.Generator) -> Example:
        return self._others.get(step.dataset, self._actions)(step, rng)


def _convention(recipe: Recipe, base: Checkpoint, opened: Sequence[Demonstrations]) -> dict[str, Any] | None:
    """The card of the result; with the centre crop when random ones are trained."""
    card = convention_of(base, [one.card for one in opened])
    if card is None or not recipe.augment:
        return card
    image = dict(card.get("image") or {})
    image["preprocessing"] = CROPPED.get(str(image.get("preprocessing", "none")), image.get("preprocessing"))
    return {**card, "image": image}


def _processor(base: Checkpoint, convention: dict[str, Any] | None) -> Processor:
    preset = str(((convention or {}).get("image") or {}).get("preprocessing", "none"))
    preparation = ImagePreparation.from_card(preset, base.config.towers[0].image_size)
    return Processor(base.tokenizer, base.image_processor, base.config, preparation)


def _extra_weights(
    extra: Sequence[ExtraSource], training: Sequence[StepSource], weights: Mapping[str, float]
) -> dict[str, float]:
    """Weights that give each extra source its share of all samples."""
    total = sum(one.share for one in extra)
    if not 0.0 <= total < 1.0:
        raise ConfigError(f"image_text_weight is {total}; expected 0 or more, below 1.")
    actions = sum(weights[source.name] * len(source) for source in training)
    return {one.source.name: one.share / (1.0 - total) * actions / len(one.source) for one in extra}


def _spread_evenly(parts: Sequence[HeldOut], most: int) -> list[tuple[StepSource, int]]:
    """At most `most` steps of all that validate, evenly spaced."""
    every = [(part.validation, number) for part in parts for number in range(len(part.validation))]
    chosen = np.unique(np.linspace(0, len(every) - 1, min(most, len(every))).round().astype(int))
    return [every[i] for i in chosen]


def _counts(parts: Sequence[HeldOut], loader: StreamingLoader, validation_steps: int) -> dict[str, int]:
    return {
        "episodes": sum(part.training_episodes for part in parts),
        "steps": sum(len(part.training) for part in parts),
        "validation_episodes": sum(part.validation_episodes for part in parts),
        "validation_steps": validation_steps,
        "samples_per_epoch": loader.mixture.epoch_length,
    }
