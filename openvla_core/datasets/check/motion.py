"""The labels of an episode: standing still, jumps of Euler angles, and units."""

from collections.abc import Iterator

import numpy as np

from openvla_core import rotations
from openvla_core.conventions import EULER_DIFFERENCE, ActionConvention
from openvla_core.datasets.actions import is_idle
from openvla_core.datasets.check.evidence import Evidence
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.settings import CheckSettings

LONGEST_STEP = 0.5  # metres; when the typical step is longer, it is not metres
LARGEST_TURN = 1.0  # radians; likewise
NEAR_WRAP = 0.2  # radians from +-180 degrees of roll or yaw, or +-90 of pitch
NEAR_SHARE = 0.05


def check(evidence: Evidence, settings: CheckSettings) -> Iterator[Finding]:
    """Findings about the labels of one episode."""
    episode, card = evidence.episode, evidence.card
    if episode is None or not len(episode):
        return
    actions = np.asarray(episode.actions, dtype=np.float64)
    finite = np.isfinite(actions).all(axis=1)
    if not finite.all():
        sentence = f"{int((~finite).sum())} of {len(actions)} actions are not finite; expected none"
        yield Finding("NOT_FINITE", sentence, evidence.name, float(episode.times_s[np.argmax(~finite)]))
        return
    if card is None or actions.shape[1] != 7:
        return
    yield from _units(evidence, card, actions)
    yield from _still(evidence, card, actions, settings)
    if card.rotation == EULER_DIFFERENCE and "pose" in episode.state:
        yield from _euler(evidence, card)


def _units(evidence: Evidence, card: ActionConvention, actions: np.ndarray) -> Iterator[Finding]:
    assert evidence.episode is not None
    steps = card.translation_scale * np.linalg.norm(actions[:, :3], axis=1)
    turns = card.rotation_scale * np.abs(actions[:, 3:6]).max(axis=1)
    typical, typical_turn = (float(np.quantile(values, 0.75)) for values in (steps, turns))
    if typical > LONGEST_STEP:
        sentence = f"a quarter of the steps is longer than {typical:.2g} m; expected {LONGEST_STEP:g} m at most"
        yield Finding("LABELS_MILLIMETRES", sentence, evidence.name)
    if typical_turn > LARGEST_TURN:
        sentence = (
            f"a quarter of the turns is larger than {typical_turn:.2g} rad; expected {LARGEST_TURN:g} rad at most"
        )
        yield Finding("LABELS_DEGREES", sentence, evidence.name)
    elif (turns > np.pi).any():
        worst = int(np.argmax(turns))
        sentence = f"{int((turns > np.pi).sum())} steps turn by up to {turns[worst]:.2f} rad; expected below pi"
        yield Finding("ANGLE_WRAP", sentence, evidence.name, float(evidence.episode.times_s[worst]))


def _still(
    evidence: Evidence, card: ActionConvention, actions: np.ndarray, settings: CheckSettings
) -> Iterator[Finding]:
    episode = evidence.episode
    assert episode is not None
    idle = is_idle(card, actions)
    if idle.mean() > settings.idle_share:
        sentence = f"{idle.mean():.0%} of {len(idle)} steps do not move; expected {settings.idle_share:.0%} at most"
        yield Finding("IDLE", sentence, evidence.name)
    busy = np.flatnonzero(~idle)
    if len(busy) < 2:
        return
    times = episode.times_s[busy]
    longest = int(np.argmax(np.diff(times)))
    pause = float(times[longest + 1] - times[longest])
    if pause > settings.pause_s:
        sentence = f"no motion for {pause:.1f} s; expected {settings.pause_s:g} s at most"
        yield Finding("PAUSE", sentence, evidence.name, float(times[longest]))


def _euler(evidence: Evidence, card: ActionConvention) -> Iterator[Finding]:
    assert evidence.episode is not None
    poses = evidence.episode.state["pose"].astype(np.float64)
    back = rotations.inverse(np.array(card.default_rotation))
    angles = np.array([rotations.to_euler_xyz(rotations.multiply(row[3:7], back)) for row in poses])
    near = (np.abs(angles[:, [0, 2]]) > np.pi - NEAR_WRAP).any(axis=1) | (np.abs(angles[:, 1]) > np.pi / 2 - NEAR_WRAP)
    if near.mean() > NEAR_SHARE:
        roll, pitch, yaw = np.degrees(angles[int(np.argmax(near))])
        sentence = (
            f"{near.mean():.0%} of the steps, such as roll {roll:.0f}, pitch {pitch:.0f}, yaw {yaw:.0f} degrees; "
            f"expected {NEAR_SHARE:.0%} at most within {np.degrees(NEAR_WRAP):.0f} degrees of a jump"
        )
        yield Finding("EULER_AT_WRAP", sentence, evidence.name)
