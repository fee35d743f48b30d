"""Which episodes train and which validate: decided per episode, by its name alone, so that it never changes."""

import hashlib
from collections.abc import Iterable

from openvla_core.errors import DatasetError

TRAIN, VALIDATION = "train", "val"


def split_of(name: str, validation_share: float = 0.05, seed: int = 0) -> str:
    """The split of one episode. Adding or removing other episodes does not move it."""
    if not 0.0 <= validation_share <= 1.0:
        raise DatasetError(f"the share of validation episodes is {validation_share}; expected 0 to 1.")
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return VALIDATION if int.from_bytes(digest[:8], "big") < validation_share * 2**64 else TRAIN


def split(names: Iterable[str], validation_share: float = 0.05, seed: int = 0) -> dict[str, list[str]]:
    """Names in their order, as {"train": [...], "val": [...]}. Raises DatasetError for a name that comes twice.

    The shares are kept on average: of few episodes, none may validate. Try another seed then.
    """
    result: dict[str, list[str]] = {TRAIN: [], VALIDATION: []}
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DatasetError(f"two episodes are called {name!r}; the split goes by name. Rename one of them.")
        seen.add(name)
        result[split_of(name, validation_share, seed)].append(name)
    return result
