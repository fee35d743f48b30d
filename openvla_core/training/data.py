"""From the data sets that a recipe names to batches: made into shards, split by episode, mixed, loaded."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from openvla_core.action_statistics import statistics_of
from openvla_core.checkpoint import Checkpoint
from openvla_core.datasets.convert import detect, open_source
from openvla_core.datasets.episode import Episode
from openvla_core.datasets.examples import Example, ExampleBuilder
from openvla_core.datasets.oxe.catalog import DATASETS, MIXTURES, mixture_weights
from openvla_core.datasets.oxe.source import OxeEpisodes
from openvla_core.datasets.streaming.loader import StreamingLoader, sample_rng
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.datasets.streaming.shards import ShardSource
from openvla_core.datasets.streaming.sources import Step, StepSource
from openvla_core.errors import ConfigError, DatasetError
from openvla_core.image_preparation import ImagePreparation
from openvla_core.json_file import read_json, write_json
from openvla_core.processor import Processor
from openvla_core.training.augmentation import Augmentation
from openvla_core.training.distributed import Ranks
from openvla_core.training.recipe import Recipe
from openvla_core.training.rows import RowCollate
from openvla_core.training.split import HeldOut, held_out
from openvla_core.training.still import without_noise

MakeExample = Callable[[Step, np.random.Generator], Example]
SHARDS = "dataset.json"
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
    if ranks.first:
        sources, weights, cards = _sources(recipe, base)
    ranks.wait()
    if not ranks.first:
        sources, weights, cards = _sources(recipe, base)
    convention = _convention(recipe, base, cards)
    processor = _processor(base, convention)
    statistics = {s.name: without_noise(s.statistics, card) for s, card in zip(sources, cards, strict=True)}
    action_statistics = {name: statistics_of(statistics, name) for name in statistics}
    augmentation = Augmentation() if recipe.augment else None
    train_example = ExampleBuilder(processor, action_statistics, augmentation, recipe.frames, normalized=False)
    parts = [held_out(source, recipe.validation_share, recipe.seed) for source in sources]
    training: list[StepSource] = [part.training for part in parts]
    collate = RowCollate(base.config, action_statistics, COMPILED_LENGTHS if recipe.compile else 1)
    shares = dict(zip([source.name for source in training], weights, strict=True))
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


def _sources(recipe: Recipe, base: Checkpoint) -> tuple[list[ShardSource], list[float], list[dict[str, Any] | None]]:
    """The data sets as shards, their weights, and what their actions mean."""
    if not recipe.data:
        raise ConfigError("the recipe names no data. Set data to folders of bags, LeRobot, RLDS, HDF5 or shards.")
    if len(recipe.data) == 1 and recipe.data[0] in MIXTURES:
        named = mixture_weights(recipe.data[0])
        if recipe.data_root is None:
            raise ConfigError(f"data is the mixture {recipe.data[0]!r}; set data_root to the folder of its data sets.")
        paths, weights = [Path(recipe.data_root) / name for name in named], list(named.values())
    else:
        paths = [Path(path) for path in recipe.data]
        weights = list(recipe.weights) if recipe.weights is not None else [1.0] * len(paths)
    opened = [_as_shards(path, recipe, base) for path in paths]
    names = [source.name for source, _ in opened]
    if len(set(names)) < len(names):
        raise DatasetError(f"two data sets have the same name: {', '.join(names)}. Rename a folder.")
    return [source for source, _ in opened], weights, [card for _, card in opened]


def _as_shards(path: Path, recipe: Recipe, base: Checkpoint) -> tuple[ShardSource, dict[str, Any] | None]:
    if (path / SHARDS).is_file():
        return ShardSource(path), None
    name = (path.stem if path.is_file() else path.resolve().name).replace(".", "_")
    folder = Path(recipe.out) / "data" / name
    facts = folder.with_name(f"{name}.json")
    if not ((folder / SHARDS).is_file() and facts.is_file()):
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed between the two
        bag_settings = None if recipe.bag_settings is None else Path(recipe.bag_settings)
        # What is published as Open X-Embodiment needs the transform of its name; everything else tells what it is.
        published = name in DATASETS and detect(path) == "rlds"
        cards = _Cards(OxeEpisodes(path, name) if published else open_source(path, bag_settings=bag_settings))
        # Sentences that the checkpoint cannot read are left out here, with a warning, not met while training.
        write_shards(cards, folder, name, check=_processor(base, None).prompt_ids)
        draft = facts.with_name(f".{facts.name}")
        write_json(draft, {"source": str(path.resolve()), "convention": cards.card})
        os.replace(draft, facts)
    known = read_json(facts)
    if known.get("source") != str(path.resolve()):
        raise DatasetError(f"{folder} was made of {known.get('source')}, not of {path}. Choose another `out`.")
    return ShardSource(folder), known.get("convention")


@dataclass
class _Cards:
    """Hands on the episodes that did not fail and remembers the one convention that all of them have."""

    source: Iterable[Episode]
    card: dict[str, Any] | None = field(default=None)

    def __iter__(self) -> Iterator[Episode]:
        for place, episode in enumerate(episode for episode in self.source if episode.success is not False):
            card = None if episode.convention is None else dict(episode.convention)
            if place and card != self.card:
                raise DatasetError(f"episode {episode.name!r} has another convention than those before; train on one.")
            self.card = card
            yield episode


def _convention(recipe: Recipe, base: Checkpoint, cards: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The card of the result: that of the data, else of the base; with the centre crop when random ones are trained."""
    told = [card for card in cards if card is not None]
    if any(card != told[0] for card in told[1:]):
        raise DatasetError("the data sets have different conventions; a policy can have one. Train on one of them.")
    card = dict(told[0]) if told else (None if base.convention is None else dict(base.convention))
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
