"""A training run as numbers: a short YAML names what differs from the defaults, and nothing unknown is accepted."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvla_core.config import check_setting, setting
from openvla_core.errors import ConfigError

STRATEGIES = ("full", "last-layer", "frozen-vision", "sandwich", "lora", "qlora")
ADAPTERS = ("lora", "qlora")
LORA_TARGETS = ("reference", "modern")
REMAT = ("none", "selective", "full")
DTYPES = ("auto", "float32", "bfloat16")
FRAMES = ("camera", "prepared")
SHARDING = ("auto", "none", "node", "all")
OF_BASE = "base"

# What the published trainings used; a recipe that leaves them out gets those of its strategy.
FULL_DEFAULTS = {"learning_rate": 2e-5, "weight_decay": 0.0, "clip_norm": 1.0}
ADAPTER_DEFAULTS = {"learning_rate": 5e-4, "weight_decay": 0.01, "clip_norm": 0.0}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every number of a fine-tuning or a full training. None: the default of the strategy, see `resolved`."""

    base: str = setting("", "Directory of the checkpoint to start from")
    data: tuple[str, ...] = setting((), "Data sets: folders of bags, LeRobot, RLDS, HDF5 or shards; or one mixture")
    data_root: str | None = setting(None, "Folder that holds the data sets of a mixture")
    weights: tuple[float, ...] | None = setting(None, "Weight of each data set; None: 1 each, or the mixture's")
    out: str = setting("", "Directory for checkpoints of the training and for its result")
    strategy: str = setting("lora", "What is trained", choices=STRATEGIES)
    lora_rank: int = setting(32, "Rank of the adapters", minimum=1, maximum=4096)
    lora_alpha: float | None = setting(None, "Scale of the adapters; None: the rank, at most 16", minimum=0.0)
    lora_targets: str = setting("reference", "Layers with adapters; modern: no head, no patches", choices=LORA_TARGETS)
    quantization: str | None = setting(None, "How qlora stores the frozen weights; None: nf4", choices=("nf4",))
    learning_rate: float | None = setting(None, "Constant learning rate", minimum=0.0, maximum=10.0)
    weight_decay: float | None = setting(None, "Weight decay of AdamW", minimum=0.0, maximum=10.0)
    clip_norm: float | None = setting(None, "Largest norm of all gradients together; 0: any", minimum=0.0)
    batch_size: int = setting(16, "Samples per process and pass", minimum=1)
    accumulation: int = setting(1, "Passes per step of the optimizer", minimum=1)
    max_steps: int = setting(10_000, "Steps after which the training ends", minimum=1)
    stop_accuracy: float | None = setting(
        0.95, "Ends when the share of right action tokens stays above this; None: never", minimum=0.0, maximum=1.0
    )
    stop_window: int = setting(200, "Steps for which it has to stay there", minimum=1)
    seed: int = setting(7, "Seed of adapters, order, augmentation and split", minimum=0)
    device: str = setting("auto", "cpu, cuda or auto: a GPU where there is one")
    dtype: str = setting("auto", "What is computed in; auto: bfloat16 on a GPU, else float32", choices=DTYPES)
    remat: str = setting("none", "Activations computed again in the backward pass", choices=REMAT)
    compile: bool = setting(False, "Compile every layer with torch.compile")
    sharding: str = setting(
        "auto", "Who shares a copy of the weights: nobody, a machine, all; auto: none under adapters", choices=SHARDING
    )
    log_every: int = setting(20, "Steps between the figures that are shown", minimum=1)
    save_every: int = setting(1_000, "Steps between checkpoints of the training", minimum=1)
    keep_last: int = setting(2, "Checkpoints of the training that are kept", minimum=1)
    validate_every: int = setting(500, "Steps between validations; 0: only at the end", minimum=0)
    validation_share: float = setting(0.05, "Share of the episodes that only validate", minimum=0.0, maximum=0.5)
    validation_steps: int = setting(512, "Most steps of these episodes per validation", minimum=1)
    workers: int = setting(2, "Processes that prepare batches; 0: the training itself", minimum=0, maximum=256)
    shuffle_window: int = setting(0, "Shards of a data set read at a time; 0: any", minimum=0)
    augment: bool = setting(False, "Random crop and colours; the policy is then served the centre crop")
    frames: str = setting("camera", "prepared: as the makers of a data set left them", choices=FRAMES)
    bag_settings: str | None = setting(None, "YAML file that tells how bags become episodes")
    convention: str | None = setting(None, "Card of data that carry none: a file; or base, that of the checkpoint")
    image_text: str | None = setting(None, "Pairs of images and texts to train on as well")
    image_text_weight: float = setting(0.1, "Share of samples that are such pairs", minimum=0.0, maximum=0.9)
    tensorboard: bool = setting(True, "Write figures for TensorBoard")
    wandb: str | None = setting(None, "Project of Weights & Biases; None: nothing is sent")
    merge: bool = setting(True, "Save adapters merged into the weights, not beside them")


def load_recipe(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Reads a recipe from YAML, then replaces what `overrides` names.

    Raises ConfigError for a file that cannot be read, an unknown key (naming the nearest) and a value of the wrong
    type or outside its range.
    """
    values = {} if path is None else _read_yaml(Path(path))
    return recipe_from_mapping({**values, **(overrides or {})})


def recipe_from_mapping(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values, as YAML has them. Errors as in `load_recipe`."""
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            nearest = difflib.get_close_matches(str(key), fields, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else f" A recipe has: {', '.join(sorted(fields))}."
            raise ConfigError(f"unknown setting {str(key)!r} in the recipe.{hint}")
        checked[key] = _typed(fields[key], value)
        if checked[key] is not None:
            check_setting(fields[key], checked[key])
    recipe = Recipe(**checked)
    if recipe.weights is not None and len(recipe.weights) != len(recipe.data):
        raise ConfigError(f"{len(recipe.weights)} weights for {len(recipe.data)} data sets; give each its own.")
    if recipe.quantization is not None and recipe.strategy != "qlora":
        raise ConfigError(f"quantization goes with strategy 'qlora', not {recipe.strategy!r}.")
    return recipe


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with every default of its strategy filled in."""
    adapters = recipe.strategy in ADAPTERS
    defaults: dict[str, Any] = dict(ADAPTER_DEFAULTS if adapters else FULL_DEFAULTS)
    defaults["lora_alpha"] = float(min(recipe.lora_rank, 16))
    defaults["quantization"] = "nf4" if recipe.strategy == "qlora" else None
    missing = {key: value for key, value in defaults.items() if getattr(recipe, key) is None}
    return dataclasses.replace(recipe, **missing)


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """["learning_rate=1e-4", "data=[a, b]"] -> values as YAML reads them. Raises ConfigError without "="."""
    import yaml

    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r} is not understood; write a name and a value, such as learning_rate=1e-4.")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{text!r} is not understood: {' '.join(str(error).split())[:200]}") from error
    return values


def to_mapping(recipe: Recipe) -> dict[str, Any]:
    """Plain values, as JSON and YAML hold them; `recipe_from_mapping` reads them again."""
    values = dataclasses.asdict(recipe)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the recipe {path} cannot be read: {' '.join(str(error).split())[:300]}") from error
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"the recipe {path} must hold names and values, such as `strategy: lora`.")
    return values or {}


def _typed(field: dataclasses.Field, value: Any) -> Any:
    """The value in the type of its field; whole numbers serve as numbers, one text as a list of one."""
    kinds = _kinds(field.type)
    if value is None and types.NoneType in kinds:
        return None
    for kind in kinds:
        origin = typing.get_origin(kind)
        if origin is tuple:
            items = value if isinstance(value, (list, tuple)) else [value]
            item = typing.get_args(kind)[0]
            if all(_fits(one, item) for one in items):
                return tuple(_as(one, item) for one in items)
        elif origin is None and _fits(value, kind):
            return _as(value, kind)
    names = " or ".join("null" if kind is types.NoneType else str(getattr(kind, "__name__", kind)) for kind in kinds)
    raise ConfigError(f"{field.name} is {str(value)[:80]!r}; expected {names}.")


def _kinds(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if is_union else (annotation,)


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) or (isinstance(value, str) and _number(value) is not None)
    return type(value) is kind


def _as(value: Any, kind: type) -> Any:
    # YAML reads 5e-4, without a point, as text.
    return float(value) if kind is float else value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
