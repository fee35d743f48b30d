"""`openvla finetune --data BAGS --base CHECKPOINT --out DIR`: from demonstrations to a policy that can be started.

Every setting of a recipe is an option, and `--recipe FILE` gives several at once. On several GPUs or machines:
torchrun --nproc-per-node 8 training/finetune.py --recipe FILE
"""

import argparse
import dataclasses
import difflib
import signal
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openvla_core.errors import ConfigError, OpenVLAError
from openvla_core.training.interruption import Interruption, Stopped, is_first
from openvla_core.training.recipe import ADAPTERS, Recipe, load_recipe

EXIT_ERROR, EXIT_SIGNAL = 3, 128  # plus the number of the signal, as shells have it
CHECKPOINTS, BASE_WITH_WORDS = "checkpoints", "base"
NOTHING = ("none", "null")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 3 for anything the user can correct, 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        recipe, resume = parse(arguments)
        folder = finetune(recipe, resume)
    except OpenVLAError as error:
        sys.stderr.write(f"openvla finetune: {' '.join(str(error).split())}\n")
        return EXIT_ERROR
    except Stopped as stopped:
        saved = "" if stopped.step is None else f" after step {stopped.step}, of which a checkpoint was written"
        if is_first():
            sys.stderr.write(f"\nStopped by {stopped}{saved}. Continue: the same command and --resume\n")
        return EXIT_SIGNAL + stopped.number
    if folder is not None:
        sys.stdout.write(f"trained policy: {folder}\n  openvla up --checkpoint {folder}\n")
    return 0


def parse(argv: Sequence[str]) -> tuple[Recipe, bool]:
    """The recipe that the options describe, and whether to continue. Raises ConfigError for unknown ones."""
    parser = build_parser()
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else " `openvla finetune --help` lists all options."
        raise ConfigError(f"unknown option {unknown[0]!r}.{hint}")
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)}
    overrides = {name: _value(name, text) for name, text in given.items() if text is not None}
    return load_recipe(options.recipe, overrides), options.resume


def build_parser() -> argparse.ArgumentParser:
    """--recipe, --resume, and one option per field of Recipe."""
    parser = argparse.ArgumentParser(
        prog="openvla finetune",
        description="Trains a checkpoint on demonstrations: bags, LeRobot, RLDS, HDF5 or shards.",
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", type=Path, help="YAML file with settings; options given beside it win")
    parser.add_argument("--resume", action="store_true", help="continue the training that --out holds")
    for field in dataclasses.fields(Recipe):
        default = "" if field.default in (None, "", ()) else f" (default {str(field.default).lower()})"
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            dest=field.name,
            metavar=field.name.upper(),
            nargs="+" if _is_list(field) else "?" if field.type is bool else None,
            const="true" if field.type is bool else None,
            help=field.metadata["description"].replace("%", "%%") + default,
        )
    return parser


def finetune(recipe: Recipe, resume: bool = False) -> Path | None:
    """Trains, and writes the result into `recipe.out`; returns it on the first process, None on the others.

    Raises an OpenVLAError when base, data or recipe cannot be used, or `out` holds a training and `resume` is False;
    Stopped after Ctrl-C and SIGTERM, while it trains with a checkpoint of the step that was being made.
    """
    _check(recipe, resume)
    with Interruption() as interruption:
        return _finetune(recipe, interruption)


def _finetune(recipe: Recipe, interruption: Interruption) -> Path | None:
    from openvla_core.checkpoint import load_checkpoint
    from openvla_core.training.distributed import ranks
    from openvla_core.training.image_text import image_text_source
    from openvla_core.training.trainer import Trainer
    from openvla_core.training.watchers import History, watchers_of

    out, base_name = Path(recipe.out), Path(recipe.base).resolve().name
    with ranks(recipe.device) as here:
        # Missing packages are missed before the data are opened.
        watchers = watchers_of(recipe, out) if here.first else []
        recipe, sentences, words = _with_new_words(recipe, here)
        extra = []
        if recipe.image_text is not None and recipe.image_text_weight > 0.0:
            base = load_checkpoint(recipe.base, read_weights=False)
            extra.append(image_text_source(recipe.image_text, base, recipe.image_text_weight))
        trainer = Trainer(recipe, here, watchers, extra, interruption.came)
        with interruption.held():
            outcome = trainer.run()
        if outcome.reason == "stopped":
            # On another process the signal may not have come.
            raise Stopped(interruption.number or signal.SIGTERM, outcome.step)
        weights = _weights(trainer, base_name)
        if not here.first:
            return None
        (history,) = (watcher for watcher in watchers if isinstance(watcher, History))
        return _write(trainer, weights, history, base_name, sentences, words)


def _check(recipe: Recipe, resume: bool) -> None:
    for name, what in (("data", "the demonstrations"), ("base", "the checkpoint to start from"), ("out", "a folder")):
        if not getattr(recipe, name):
            raise ConfigError(f"{name} is missing: give --{name} with {what}.")
    if any((Path(recipe.out) / CHECKPOINTS).glob("step-*")) and not resume:
        raise ConfigError(f"{recipe.out} holds a training already. Continue it with --resume, or choose another --out.")


def _with_new_words(recipe: Recipe, here: Any) -> tuple[Recipe, list[str], list[str]]:
    """The recipe, from a base that knows the words of the data; the sentences, where they were read; the new words."""
    from openvla_core.checkpoint import load_checkpoint
    from openvla_core.training.demonstrations import sentences as sentences_of
    from openvla_core.training.new_words import knows_words_only, new_words, save_with_words

    base = load_checkpoint(recipe.base, read_weights=False)
    if not knows_words_only(base.tokenizer):
        return recipe, [], []
    sentences = list(dict.fromkeys(sentences_of(recipe)))
    words = new_words(base, sentences)
    if not words:
        return recipe, sentences, []
    folder = Path(recipe.out) / BASE_WITH_WORDS
    if here.first:
        save_with_words(base, words, folder)
    here.wait()
    return dataclasses.replace(recipe, base=str(folder)), sentences, words


def _weights(trainer: Any, base_name: str) -> Any:
    """What was trained, whole, on the first process; every process has to ask."""
    from openvla_core.training.distributed import gather
    from openvla_core.training.lora import adapter_config, adapter_tensors, is_adapter
    from openvla_core.training.result import Adapter
    from openvla_core.training.setup import lora_settings

    recipe, model = trainer.recipe, trainer.module.model
    if recipe.strategy not in ADAPTERS:
        return trainer.whole_state()
    named = ((name, parameter) for name, parameter in model.named_parameters() if is_adapter(name))
    tensors = adapter_tensors(gather(named, trainer.ranks))
    return Adapter(adapter_config(model, lora_settings(recipe), base_name), tensors, recipe.merge)


def _write(
    trainer: Any, weights: Any, history: Any, base_name: str, sentences: Sequence[str], words: Sequence[str]
) -> Path:
    from openvla_core.training.card import training_card
    from openvla_core.training.report import report_html
    from openvla_core.training.result import Result, write_result

    recipe, data = trainer.recipe, trainer.data
    names = list(data.statistics)
    facts = {**history.facts, "base": base_name, "data": {"names": names, **history.facts["data"]}}
    seen = sentences or [sample["instruction"] for sample in history.samples]
    card = training_card(facts, history.end, seen, data.convention)
    if words:
        card["new_words"] = list(words)
    title = f"{Path(recipe.out).resolve().name}: {base_name} trained on {', '.join(names)}"
    return write_result(
        recipe.out,
        Result(
            base=trainer.base,
            weights=weights,
            statistics=data.statistics,
            card=card,
            report=report_html(title, card, history),
            convention=data.convention,
        ),
    )


def _is_list(field: dataclasses.Field) -> bool:
    return any(typing.get_origin(kind) is tuple for kind in (field.type, *typing.get_args(field.type)))


def _value(name: str, text: Any) -> Any:
    """The text of an option as YAML would read it; texts stay texts."""
    import yaml

    (field,) = (field for field in dataclasses.fields(Recipe) if field.name == name)
    if isinstance(text, list):
        return [one if str in _parts(field.type) else yaml.safe_load(one) for one in text]
    kinds = _parts(field.type)
    if types.NoneType in kinds and text.lower() in NOTHING:
        return None
    try:
        return text if str in kinds else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{name.replace('_', '-')} is {text!r}, which is not understood.") from error


def _parts(annotation: Any) -> set[Any]:
    """The plain types in an annotation: of str | None both, of tuple[str, ...] str."""
    inner = [part for part in typing.get_args(annotation) if part is not ...]
    return set().union(*map(_parts, inner)) if inner else {annotation}


if __name__ == "__main__":
    sys.exit(main())
