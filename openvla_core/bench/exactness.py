"""Whether a mode gives the reference's tokens, and where it does not, how nearly the reference itself was tied."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from openvla_core.bench.answers import Answer
from openvla_core.bench.subject import Subject, image

# Units in the last place of bfloat16, 8 bits of precision, within which two logits count as equal.
NEAR_TIE_ULPS, BITS = 2, 8
MOST_EXPLAINED = 20


def compare(subject: Subject, reference: Sequence[Answer], answers: Sequence[Answer]) -> dict[str, Any]:
    """The row of the exactness table. Distances are in bins, over all tokens.

    "explained": of the actions that differ, how many begin to differ where the reference's own two logits lie within
    two units in the last place of bfloat16. At most 20 are looked at.
    """
    wanted, given = (np.stack([answer.ids for answer in rows]) for rows in (reference, answers))
    differs = wanted != given
    rows = np.flatnonzero(differs.any(axis=1))
    first = [(int(row), int(np.argmax(differs[row]))) for row in rows]
    margins = [_margin(subject, row, place, wanted[row], given[row]) for row, place in first[:MOST_EXPLAINED]]
    distance = np.abs(wanted - given)
    return {
        "tokens": int(wanted.size),
        "tokens_equal": int(wanted.size - differs.sum()),
        "actions": len(wanted),
        "actions_equal": int(len(wanted) - len(rows)),
        "bins_mean": float(distance.mean()),
        "bins_max": int(distance.max()),
        "explained": sum(near for _, near in margins),
        "looked_at": len(margins),
        "margins": [margin for margin, _ in margins],
        "distinct_answers": len({tuple(row) for row in wanted.tolist()}),
    }


@torch.inference_mode()
def _margin(subject: Subject, row: int, place: int, wanted: np.ndarray, given: np.ndarray) -> tuple[float, bool]:
    """By how much the reference prefers its own token, after the tokens both agree on, and whether that is a tie."""
    ids, pixels = subject.inputs(image(row))
    before = torch.from_numpy(wanted[:place]).to(subject.device)[None]
    embeddings = subject.model.embed(ids, pixels)
    words = subject.model.language_model.model.embed_tokens(before)
    both = torch.cat([embeddings, words.to(embeddings.dtype)], dim=1)
    logits = subject.model.language_model(inputs_embeds=both, use_cache=False, logits_to_keep=1).logits[0, -1].float()
    best, other = (float(logits[int(row_ids[place])]) for row_ids in (wanted, given))
    unit = 2.0 ** (math.floor(math.log2(max(abs(best), 1e-30))) - BITS + 1)
    return best - other, abs(best - other) <= NEAR_TIE_ULPS * unit
