"""The rows of an evaluation, what they add up to, and the results.json that is rewritten after every episode."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvla_core.errors import ConfigError
from openvla_core.evaluation.statistics import Rate, percentiles_ms

# What an episode can end with: "shown" ran to the time-out without a judge, "refused" did not start.
OUTCOMES = ("success", "time-out", "wrong object", "refused", "shown")
FREE = "free"  # the task of a sentence nobody can judge: it counts neither as success nor as failure


@dataclass(frozen=True)
class EpisodeRow:
    """One finished episode.

    duration_s runs from the instruction to the end; actions counts the actions the controller accepted, clipped those
    it shortened; photon_to_command_ms has one value per action, from the image's stamp to the first command; pair is
    the scene's number when the same scene is run with two instructions, else None.
    """

    index: int
    scene_seed: int
    task: str
    color: str
    instruction: str
    outcome: str
    success: bool
    duration_s: float
    lifted_object: str | None = None
    wrong_object: bool = False
    actions: int = 0
    clipped: int = 0
    policy_hz: float | None = None
    pair: int | None = None
    photon_to_command_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.outcome in OUTCOMES, self.outcome


def summarize(rows: Sequence[EpisodeRow]) -> dict[str, Any]:
    """What the rows add up to: episodes, successes, per_task, wrong_object, latency_ms, actions, policy_hz, swap."""
    judged = [row for row in rows if row.task != FREE]
    rates = [row.policy_hz for row in rows if row.policy_hz]
    return {
        "episodes": len(rows),
        "successes": sum(row.success for row in rows),
        "success": _rate(sum(row.success for row in judged), len(judged)),
        "per_task": {task: _task(judged, task) for task in dict.fromkeys(row.task for row in judged)},
        "wrong_object": _rate(sum(row.wrong_object for row in judged), len(judged)),
        "latency_ms": {
            **percentiles_ms([value for row in rows for value in row.photon_to_command_ms]),
            "meaning": "stamp of the camera image to the first command made from it",
            "inference": percentiles_ms([value for row in rows for value in row.inference_ms]),
        },
        "actions": {
            "predicted": sum(len(row.inference_ms) for row in rows),
            "applied": sum(row.actions for row in rows),
            "clipped": sum(row.clipped for row in rows),
        },
        "policy_hz": round(sum(rates) / len(rates), 2) if rates else None,
        "swap": _swap(rows),
    }


def _rate(count: int, trials: int) -> dict[str, Any]:
    rate = Rate(count, trials)
    return {
        "count": count,
        "of": trials,
        "rate": round(rate.value, 4),
        "wilson95": [round(edge, 4) for edge in rate.interval],
    }


def _task(rows: Sequence[EpisodeRow], task: str) -> dict[str, Any]:
    mine = [row for row in rows if row.task == task]
    successes = sum(row.success for row in mine)
    durations = sorted(row.duration_s for row in mine if row.success)
    return {
        "episodes": len(mine),
        "successes": successes,
        "success": _rate(successes, len(mine)),
        "wrong_object": _rate(sum(row.wrong_object for row in mine), len(mine)),
        "median_duration_s": round(durations[len(durations) // 2], 2) if durations else None,
    }


def _swap(rows: Sequence[EpisodeRow]) -> dict[str, Any] | None:
    """Scenes run with two instructions count as done only when both episodes did what their sentence said."""
    scenes: dict[int, list[EpisodeRow]] = {}
    for row in rows:
        if row.pair is not None:
            scenes.setdefault(row.pair, []).append(row)
    complete = [pair for pair in scenes.values() if len(pair) == 2]
    if not complete:
        return None
    return {
        "scenes": len(complete),
        "both": _rate(sum(all(row.success for row in pair) for pair in complete), len(complete)),
        "per_task": {
            task: _rate(
                sum(all(row.success for row in pair) for pair in complete if pair[0].task == task),
                sum(pair[0].task == task for pair in complete),
            )
            for task in sorted({pair[0].task for pair in complete})
        },
    }


class Results:
    """Rows so far and where they are written. `facts` are what all rows share: command, seeds, versions."""

    def __init__(self, path: Path, facts: Mapping[str, Any], planned: int) -> None:
        self.path = path
        self.facts = dict(facts)
        self.planned = planned
        self.rows: list[EpisodeRow] = []

    def add(self, row: EpisodeRow) -> None:
        """Adds one episode and rewrites the file, so that an interrupted evaluation keeps every finished episode."""
        self.rows = sorted([*self.rows, row], key=lambda other: other.index)
        self.write()

    def to_dict(self) -> dict[str, Any]:
        """Everything results.json holds."""
        complete = len(self.rows) >= self.planned
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {**summarize(self.rows), **self.facts, "planned": self.planned, "complete": complete, "rows": rows}

    def write(self) -> None:
        """Replaces the file in one step: a reader never sees half of it."""
        draft = self.path.with_suffix(".json.part")
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(self.to_dict(), file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self.path)


def read_rows(path: Path) -> list[EpisodeRow]:
    """The rows of an earlier results.json. Raises ConfigError when the file is not one."""
    try:
        return [EpisodeRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path} is not a results.json of this program ({error}). Choose another --out directory."
        ) from error
