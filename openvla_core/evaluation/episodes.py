"""Which episodes an evaluation runs: held-out scenes, colours and phrasings, all decided by one seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openvla_core.errors import ConfigError
from openvla_core.sim.tasks import COLORS, KNOWN_KINDS, Task

HELD_OUT_BASE = 900_000  # training draws its scenes from 2**31 seeds; meeting one of these again is unlikely
SCENES_PER_SEED = 10_000
PHRASING_DRAWS = 64  # Task.sentence takes the drawn number modulo its wordings
TIMEOUT_S = {"reach": 8.0, "pick": 12.0, "point": 8.0}


@dataclass(frozen=True)
class PlannedEpisode:
    """One episode before it is run; task is None for free text, pair numbers a scene that two instructions share."""

    index: int
    scene_seed: int
    instruction: str
    timeout_s: float
    task: Task | None
    pair: int | None = None


def scene_seed(seed: int, scene: int) -> int:
    """The held-out scene number `scene` of evaluation seed `seed`."""
    if seed < 0 or not 0 <= scene < SCENES_PER_SEED:
        raise ConfigError(f"seed {seed}, scene {scene}: seeds start at 0 and have {SCENES_PER_SEED} scenes each.")
    return HELD_OUT_BASE + SCENES_PER_SEED * seed + scene


def plan_episodes(count: int, seed: int, kinds: Sequence[str], *, swap: bool = False) -> list[PlannedEpisode]:
    """Plans `count` episodes, the kinds of task in turn.

    Every run of len(COLORS) episodes of one kind asks for every colour once. With `swap` each scene is used twice, for
    two different colours, and an odd count is rounded up.
    """
    unknown = [kind for kind in kinds if kind not in KNOWN_KINDS]
    if unknown or not kinds:
        raise ConfigError(f"unknown tasks {unknown}; choose from {', '.join(KNOWN_KINDS)}.")
    if count < 1 or seed < 0:
        raise ConfigError(
            f"{count} episodes with seed {seed} were asked for; give at least 1 episode and a seed from 0 on."
        )
    repeats = 2 if swap else 1
    plan: list[PlannedEpisode] = []
    for scene in range(-(-count // repeats)):
        kind = kinds[scene % len(kinds)]
        colors = _color_order(seed, kind, scene // len(kinds))
        phrasing = int(np.random.default_rng([seed, scene]).integers(PHRASING_DRAWS))
        for color in colors[:repeats]:
            task = Task(kind, color)
            pair = scene if swap else None
            place = scene_seed(seed, scene)
            plan.append(PlannedEpisode(len(plan), place, task.sentence(phrasing), TIMEOUT_S[kind], task, pair))
    return plan


def _color_order(seed: int, kind: str, turn: int) -> list[str]:
    """The colours, the one for this turn first; over len(COLORS) turns each comes first once, in shuffled order."""
    block, place = divmod(turn, len(COLORS))
    order = np.random.default_rng([seed, KNOWN_KINDS.index(kind), block]).permutation(len(COLORS))
    return [COLORS[index] for index in np.roll(order, -place)]
