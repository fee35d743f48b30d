"""The data sets that a recipe names: opened in whatever format they have, and made into shards once, below `out`.

Shards keep what their numbers mean, the convention card of the recordings. Data that carry none are given one by the
recipe; a policy with a card that nobody told for its data would move an arm by guessed units.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openvla_core.checkpoint import Checkpoint
from openvla_core.conventions import load_convention
from openvla_core.datasets.convert import detect, open_source
from openvla_core.datasets.episode import Episode
from openvla_core.datasets.oxe.catalog import DATASETS, MIXTURES, mixture_weights
from openvla_core.datasets.oxe.source import OxeEpisodes
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.datasets.streaming.shards import ShardSource
from openvla_core.errors import ConfigError, DatasetError
from openvla_core.json_file import read_json, write_json
from openvla_core.training.recipe import OF_BASE, Recipe
from openvla_core.training.split import episode_starts

SHARDS = "dataset.json"
Card = dict[str, Any]


@dataclass(frozen=True)
class Demonstrations:
    """One data set as shards, its weight in the mixture, and its convention card, None when nobody told one."""

    source: ShardSource
    weight: float
    card: Card | None


def open_shards(recipe: Recipe, base: Checkpoint, check: Callable[[str], object]) -> list[Demonstrations]:
    """Every data set of the recipe. check: refuses sentences that the checkpoint cannot read.

    Raises ConfigError or DatasetError when there is nothing to train on, names are the same, or a card is missing.
    """
    given = given_card(recipe, base)
    opened = []
    for path, weight in _paths(recipe):
        source = _as_shards(path, recipe, check)
        opened.append(Demonstrations(source, weight, source.convention or given))
    names = [one.source.name for one in opened]
    if len(set(names)) < len(names):
        raise DatasetError(f"two data sets have the same name: {', '.join(names)}. Rename a folder.")
    silent = [one.source.name for one in opened if one.card is None]
    if silent and base.convention is not None:
        raise ConfigError(
            f"{', '.join(silent)} carries no convention card, so nobody knows in which units and frame its actions "
            "are. Give --convention with a card, such as config/conventions/libero.yaml, or --convention base when "
            f"they mean what the actions of {base.directory.name} do."
        )
    return opened


def sentences(recipe: Recipe) -> Iterator[str]:
    """The instruction of every episode, in every data set."""
    for path, _ in _paths(recipe):
        if (path / SHARDS).is_file():
            source = ShardSource(path)
            yield from (source[start].instruction for start in episode_starts(source)[0].tolist())
        else:
            yield from (episode.instruction for episode in _episodes(path, recipe))


def convention_of(base: Checkpoint, cards: Sequence[Card | None]) -> Card | None:
    """The one card of the result. Raises DatasetError when the data sets have different ones."""
    told = [card for card in cards if card is not None]
    if any(card != told[0] for card in told[1:]):
        raise DatasetError("the data sets have different conventions; a policy can have one. Train on one of them.")
    return dict(told[0]) if told else (None if base.convention is None else dict(base.convention))


def given_card(recipe: Recipe, base: Checkpoint) -> Card | None:
    """What the recipe tells of data without a card. Raises ConfigError or ConventionError when it is no card."""
    if recipe.convention is None:
        return None
    if recipe.convention != OF_BASE:
        # As shards hold it: lists for tuples.
        return dict(json.loads(json.dumps(load_convention(recipe.convention).to_mapping())))
    if base.convention is None:
        raise ConfigError(f"convention is 'base', and {base.directory} has no card. Give a file with one.")
    return dict(base.convention)


def _paths(recipe: Recipe) -> list[tuple[Path, float]]:
    """The data sets and their weights."""
    if not recipe.data:
        raise ConfigError("the recipe names no data. Set data to folders of bags, LeRobot, RLDS, HDF5 or shards.")
    if len(recipe.data) == 1 and recipe.data[0] in MIXTURES:
        named = mixture_weights(recipe.data[0])
        if recipe.data_root is None:
            raise ConfigError(f"data is the mixture {recipe.data[0]!r}; set data_root to the folder of its data sets.")
        return [(Path(recipe.data_root) / name, weight) for name, weight in named.items()]
    weights = [1.0] * len(recipe.data) if recipe.weights is None else recipe.weights
    return list(zip(map(Path, recipe.data), weights, strict=True))


def _as_shards(path: Path, recipe: Recipe, check: Callable[[str], object]) -> ShardSource:
    if (path / SHARDS).is_file():
        return ShardSource(path)
    name = _name(path)
    folder = Path(recipe.out) / "data" / name
    origin = folder.with_name(f"{name}.json")
    if not ((folder / SHARDS).is_file() and origin.is_file()):
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed between the two
        write_shards(_episodes(path, recipe), folder, name, check=check)
        draft = origin.with_name(f".{origin.name}")
        write_json(draft, {"source": str(path.resolve())})
        os.replace(draft, origin)
    made_of = read_json(origin).get("source")
    if made_of != str(path.resolve()):
        raise DatasetError(f"{folder} was made of {made_of}, not of {path}. Choose another `out`.")
    return ShardSource(folder)


def _episodes(path: Path, recipe: Recipe) -> Iterable[Episode]:
    """What is published as Open X-Embodiment needs the transform of its name; everything else tells what it is."""
    if not path.exists():
        return open_source(path)
    kind = detect(path)
    if kind == "rlds" and _name(path) in DATASETS:
        return OxeEpisodes(path, _name(path))
    if kind == "bags":
        return _bags(path, recipe)
    return open_source(path)


def _bags(path: Path, recipe: Recipe) -> Iterable[Episode]:
    """Reading a bag needs its card already: actions are made from poses by it."""
    from openvla_core.datasets.bags.reader import BagSource, ReadingSettings, load_settings

    settings = ReadingSettings() if recipe.bag_settings is None else load_settings(recipe.bag_settings)
    if recipe.convention is not None:
        card = Path(recipe.base) / "action_convention.json" if recipe.convention == OF_BASE else recipe.convention
        settings = replace(settings, convention=str(card))
    return BagSource(path, settings)


def _name(path: Path) -> str:
    return (path.stem if path.is_file() else path.resolve().name).replace(".", "_")
