"""A language model's vocabulary gains a padding token and grows to a multiple of 64 rows, as in the published model."""

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from openvla_core.errors import CheckpointError
from openvla_core.tokenizer_file import EMBEDDING, HEAD, highest_id, read_tokenizer

PAD, MULTIPLE = "<PAD>", 64


def complete_tokenizer(directory: str | Path) -> Tokenizer:
    """Reads the tokenizer.json in a directory and adds the padding token where it is missing."""
    tokenizer = read_tokenizer(Path(directory) / "tokenizer.json")
    if tokenizer.token_to_id(PAD) is None:
        tokenizer.add_special_tokens([AddedToken(PAD, normalized=False, special=True)])
    return tokenizer


def pad_vocabulary(
    state: MutableMapping[str, Tensor], config: Mapping[str, Any], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Adds rows to the embedding and the head in `state` until there are 64 more than tokens without padding token.

    The new rows are the mean of the others: known to the model as something unremarkable. Returns the config with the
    sizes that follow. Raises CheckpointError where tokenizer and weights are not of one model.
    """
    words = tokenizer.token_to_id(PAD)
    if words != highest_id(tokenizer) or words % MULTIPLE:
        raise CheckpointError(
            f"the tokenizer has {words} words before {PAD} and ids up to {highest_id(tokenizer)}; expected {PAD} last, "
            f"at a multiple of {MULTIPLE}."
        )
    wanted = words + MULTIPLE
    for name in (EMBEDDING, HEAD):
        if name not in state or not words <= len(state[name]) <= wanted:
            rows = len(state[name]) if name in state else "no"
            raise CheckpointError(f"{name} has {rows} rows; expected {words} to {wanted} for this tokenizer.")
        missing = wanted - len(state[name])
        if missing:
            mean = state[name].float().mean(dim=0, keepdim=True).to(state[name].dtype)
            state[name] = torch.cat([state[name], mean.expand(missing, -1)])
    text = {**config.get("text_config", {}), "vocab_size": wanted, "pad_token_id": words}
    return {**config, "text_config": text, "pad_token_id": words, "pad_to_multiple_of": MULTIPLE}
