"""Numbers of the action in which nothing was demonstrated: the noise of a measurement is not a motion to learn.

Brought into [-1, 1] like the others, thousandths of a degree would fill the whole range: the model would learn to
predict noise, and its accuracy could not rise.
"""

from collections.abc import Mapping
from typing import Any

from openvla_core.datasets.actions import IDLE_ROTATION, IDLE_TRANSLATION

MOTION = 6
SPREAD = ("min", "max", "q01", "q99", "mean", "std")


def without_noise(statistics: Mapping[str, Any], card: Mapping[str, Any] | None) -> dict[str, Any]:
    """Statistics of a data set with 0 for the motions that are none; their labels become 0 too, and so do answers.

    statistics: {"action": {...}, ...}, unchanged without a card, or when actions do not have seven numbers. card: tells
    the units. A motion is none when 98 of 100 steps are below what counts as standing still in a recording.
    """
    action = statistics["action"]
    if card is None or len(action["q01"]) != MOTION + 1:
        return dict(statistics)
    limits = [IDLE_TRANSLATION / float(card.get("translation_scale", 1.0))] * 3
    limits += [IDLE_ROTATION / float(card.get("rotation_scale", 1.0))] * 3
    still = [max(abs(action["q01"][i]), abs(action["q99"][i])) < limit for i, limit in enumerate(limits)] + [False]
    changed = {
        key: [0.0 if still[i] else value for i, value in enumerate(values)] if key in SPREAD else values
        for key, values in action.items()
    }
    return {**statistics, "action": changed}
