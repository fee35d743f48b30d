"""training_card.json: how a checkpoint came about, in plain values, so that it can be judged and made again."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from openvla_core.training.versions import library_versions

MOST_INSTRUCTIONS = 64  # the policy shows some of them to whoever asks for something else


def training_card(
    facts: Mapping[str, Any],
    end: Mapping[str, Any],
    instructions: Sequence[str] = (),
    convention: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The card. facts, end: as watchers are told at start and end; instructions: sentences of the data."""
    recipe = dict(facts["recipe"])
    return {
        "base": facts["base"],
        "strategy": facts["strategy"],
        "steps": end["step"],
        "reason": end["reason"],
        "seconds": round(float(end["seconds"]), 1),
        "data": facts["data"],
        "split": facts["split"],
        "metrics": {"training": dict(end.get("figures", {})), "validation": dict(end.get("validation", {}))},
        "parameters": facts["parameters"],
        "trainable": facts["trainable"],
        "world": facts["world"],
        "device": facts["device"],
        "dtype": facts["dtype"],
        "seeds": {"training": recipe.get("seed")},
        "recipe": recipe,
        "versions": {**library_versions(), **facts.get("versions", {})},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "instructions": list(dict.fromkeys(instructions))[:MOST_INSTRUCTIONS],
        "convention": None if convention is None else dict(convention),
    }
