"""tokenizer.json, read and checked: a tokenizer that does not fit the model is found at start-up, not by the arm."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from openvla_core.errors import CheckpointError
from openvla_core.model import OpenVLAConfig
from openvla_core.prompt import SPACE, build_prompt
from openvla_core.safetensors_file import StoredTensor

MAX_TOKENIZER_BYTES = 32_000_000
# So many characters or tokens one may become; a list of steps that each double the text would fill the memory.
MAX_GROWTH = 10_000
GROWTH = {"ByteLevel": 4, "NFKC": 18, "NFKD": 18, "NFC": 3, "NFD": 4, "Precompiled": 18, "Lowercase": 2}
# Encoded once at start-up: known and unknown words, capitals, digits and letters beyond ASCII.
PROBE = "put the Blue cup 17 onto the café's □ tray"
EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"


def load_tokenizer(directory: Path, config: OpenVLAConfig) -> Tokenizer:
    """Reads tokenizer.json and checks that it fits the model. Raises CheckpointError."""
    path = directory / "tokenizer.json"
    with _damage_is_our_error(path):
        return _checked(path, read_tokenizer(path), config)


def read_tokenizer(path: Path) -> Tokenizer:
    """Reads one tokenizer.json as it is. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. Save the tokenizer of the checkpoint in its fast (JSON) form.")
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes; expected {MAX_TOKENIZER_BYTES:,} at most.")
    with _damage_is_our_error(path):
        tokenizer = Tokenizer.from_file(str(path))
        _check_growth(path, tokenizer)
        return tokenizer


@contextmanager
def _damage_is_our_error(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:  # the library raises plain Exception, and an own BaseException where it panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path} cannot be read ({str(error)[:300]}). Copy the checkpoint again.") from error


def _check_growth(path: Path, tokenizer: Tokenizer) -> None:
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor)
    steps = [json.loads(part.__getstate__()) for part in parts if part is not None]
    if math.prod(_growth(step) for step in steps) > MAX_GROWTH:
        raise CheckpointError(
            f"{path} has steps that may make more than {MAX_GROWTH:,} characters or tokens of one. "
            "Give the tokenizer.json of an OpenVLA checkpoint."
        )


def _growth(step: Mapping[str, Any]) -> int:
    """At most so many characters or tokens become of one, in any text that is not empty."""
    inner = [child for key in ("normalizers", "pretokenizers", "processors") for child in step.get(key) or ()]
    if inner:
        return math.prod(_growth(child) for child in inner)
    if "single" in step:
        return len(step["single"])
    return max(1, GROWTH.get(step.get("type", ""), 1), 1 + len(step.get("content") or step.get("prepend") or ""))


def highest_id(tokenizer: Tokenizer) -> int:
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)


def check_vocabulary(config: OpenVLAConfig, tokenizer: Tokenizer, stored: Mapping[str, StoredTensor]) -> None:
    """Raises CheckpointError, naming who disagrees, unless config.json, weights and tokenizer share one vocabulary."""
    vocab_size = config.language.vocab_size
    rows = {name: stored[name].shape[0] for name in (EMBEDDING, HEAD) if name in stored and stored[name].shape}
    wrong = [f"{name} has {count} rows" for name, count in rows.items() if count != vocab_size]
    if highest_id(tokenizer) >= vocab_size:
        wrong.append(f"tokenizer.json has ids up to {highest_id(tokenizer)}")
    if wrong:
        right = [f"{name} has {count} rows" for name, count in rows.items() if count == vocab_size]
        agree = f" (as {' and '.join(right)})" if right else ""
        raise CheckpointError(
            f"the vocabularies disagree: config.json has vocab_size {vocab_size}{agree}, but {' and '.join(wrong)}. "
            "Give config.json, tokenizer.json and weights of one checkpoint."
        )


def write_tokenizer(directory: Path, tokenizer: Tokenizer | str | Path) -> None:
    """Writes tokenizer.json; a path is copied byte for byte."""
    target = directory / "tokenizer.json"
    if isinstance(tokenizer, Tokenizer):
        tokenizer.save(str(target))
    else:
        shutil.copyfile(tokenizer, target)


def _checked(path: Path, tokenizer: Tokenizer, config: OpenVLAConfig) -> Tokenizer:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if tokenizer.token_to_id(SPACE) is None:
        raise CheckpointError(f"{path} has no token {SPACE!r}; it stands between prompt and action.")
    bos = config.language.bos_token_id
    prompt = build_prompt(PROBE, config.prompt_style)
    ids, plain = (tokenizer.encode(prompt, add_special_tokens=special).ids for special in (True, False))
    if ids[:1] != [bos] or ids[1:] != plain:
        raise CheckpointError(
            f"{path} makes {ids[:4]}...{ids[-2:]} of a prompt whose own ids are {plain[:3]}...{plain[-2:]}; expected "
            f"the beginning-of-sequence token {bos} first and nothing else added. "
            "Give the tokenizer a post-processor that does that."
        )
    if not plain:
        raise CheckpointError(f"{path} makes no token at all of a prompt. Copy the checkpoint again.")
    return tokenizer
