"""A tokenizer of whole words learns the words of new demonstrations; those of published checkpoints know every text."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from openvla_core.checkpoint import Checkpoint
from openvla_core.checkpoint_saving import PASSED_ON
from openvla_core.durable import sync_tree
from openvla_core.errors import ConfigError
from openvla_core.model.config import ACTION_BINS
from openvla_core.processor import Processor

FILES = (
    "config.json",
    "preprocessor_config.json",
    "dataset_statistics.json",
    "action_convention.json",
    "training_card.json",
    *PASSED_ON,
)


def knows_words_only(tokenizer: Tokenizer) -> bool:
    """Whether a word is one token, or none: the tokenizer of the tiny models."""
    return json.loads(tokenizer.to_str())["model"]["type"] == "WordLevel"


def new_words(base: Checkpoint, sentences: Iterable[str]) -> list[str]:
    """The words of the sentences that the tokenizer does not know, each once, in the order they come."""
    processor = Processor(base.tokenizer, base.image_processor, base.config)
    found = (word for sentence in sentences for word in processor.unknown_words(sentence))
    return list(dict.fromkeys(part for word in found for part in re.findall(r"\w+|[^\w\s]", word.lower())))


def with_words(base: Checkpoint, words: Iterable[str]) -> Tokenizer:
    """The tokenizer with an unused id for each word. Raises ConfigError when there are not enough of them."""
    values = json.loads(base.tokenizer.to_str())
    vocabulary = values["model"]["vocab"]
    for word in words:
        vocabulary.setdefault(word, max(vocabulary.values()) + 1)
    room = base.config.action_vocab_size - ACTION_BINS
    if max(vocabulary.values()) >= room:
        raise ConfigError(f"the words of the data need {max(vocabulary.values()) + 1} ids and this model has {room}.")
    return Tokenizer.from_str(json.dumps(values))


def save_with_words(base: Checkpoint, words: Iterable[str], folder: Path) -> Path:
    """Writes the checkpoint with the extended tokenizer and the same weights; an earlier one in `folder` is replaced.

    The embeddings of the new words are what they were: random, until they are trained.
    """
    draft = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for path in [*base.directory.glob("model*.safetensors*"), *(base.directory / name for name in FILES)]:
        if path.is_file():
            shutil.copyfile(path, draft / path.name)
    with_words(base, words).save(str(draft / "tokenizer.json"))
    sync_tree(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return folder
