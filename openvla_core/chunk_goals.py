"""From the numbers of a chunk to goals within the limits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openvla_core import rotations, safety
from openvla_core.conventions import ActionConvention
from openvla_core.rate_adapter import Goal
from openvla_core.supervisor_settings import SupervisorSettings
from openvla_core.types import Action, Pose, Problem


@dataclass(frozen=True)
class ChunkGoals:
    """The goals of a chunk, one per step, and what its first step became.

    translation (3,) metres and rotation vector (3,) radians of the first step after the limits, base axes; reasons has
    one sentence per limit that changed a step; outside: a step asked for a place outside the workspace box.
    """

    goals: tuple[Goal, ...]
    translation: np.ndarray
    rotation: np.ndarray
    reasons: tuple[str, ...]
    outside: bool


def chunk_goals(
    rows: np.ndarray,
    reference: Pose,
    convention: ActionConvention,
    limit: Callable[[Action, Pose], tuple[Pose, tuple[str, ...]]],
    settings: SupervisorSettings,
) -> ChunkGoals | Problem:
    """The goals of rows (N, 7) of finite numbers, the first from the reference, or why they must not be followed."""
    goals: list[Goal] = []
    reasons: dict[str, None] = {}  # in order, each once
    outside = False
    start = reference
    for row in rows:
        refused = safety.refusal(*convention.size(row), settings)
        if refused:
            return Problem(*refused, latched=True)
        action = convention.action(row, start)
        pose, changes = limit(action, start)
        wish = start.position + action.translation
        outside |= bool((wish < settings.workspace_low).any() or (wish > settings.workspace_high).any())
        goals.append(Goal(pose, action.gripper))
        reasons.update(dict.fromkeys(changes))
        start = pose
    first = goals[0].pose
    return ChunkGoals(
        goals=tuple(goals),
        translation=first.position - reference.position,
        rotation=rotations.rotation_between(reference.quaternion, first.quaternion),
        reasons=tuple(reasons),
        outside=outside,
    )
