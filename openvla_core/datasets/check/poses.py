"""Measured poses: whether they are numbers, in metres, in the right frame, and where the arm can be."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from openvla_core.arm_chains import CHAINS
from openvla_core.datasets.bags.stream import Stream
from openvla_core.datasets.check.evidence import NS_PER_S, Evidence
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.settings import CheckSettings
from openvla_core.errors import KinematicsError
from openvla_core.rotations import rotation_between
from openvla_core.types import Pose

LARGEST_POSITION = 10.0  # metres; no table-top arm reaches further, so larger numbers are millimetres
LARGEST_ANGLE = 7.0  # rad; no joint turns further from its zero
JUMP = 0.02  # metres; and
JUMP_TURN = 0.2  # radians, below which a fast change is noise
NORM_ERROR = 0.02
MISMATCH, MISMATCH_TURN = 0.02, 0.1  # metres and radians between the measured pose and that of the joint angles
SAMPLES = 8  # poses per episode that the arm's geometry is asked about


def check(evidence: Evidence, settings: CheckSettings) -> Iterator[Finding]:
    """Findings about the measured poses and joints of one episode."""
    if evidence.recording is None or "pose" not in evidence.recording.streams:
        return
    stream = evidence.recording.streams["pose"]
    order = np.argsort(stream.stamps_ns, kind="stable")
    stamps, poses = stream.stamps_ns[order], stream.values[order]
    finite = np.isfinite(poses).all(axis=1)
    if not finite.all():
        bad = int(np.argmax(~finite))
        sentence = f"{int((~finite).sum())} of {len(poses)} poses are not finite; expected none"
        yield Finding("POSE_NOT_FINITE", sentence, evidence.name, evidence.seconds(stamps[bad]))
    stamps, poses = stamps[finite], poses[finite]
    if not len(poses):
        return
    norms = np.linalg.norm(poses[:, 3:7], axis=1)
    wrong = np.abs(norms - 1.0) > NORM_ERROR
    if wrong.any():
        worst = int(np.argmax(np.abs(norms - 1.0)))
        sentence = f"{int(wrong.sum())} quaternions have a norm such as {norms[worst]:.3f}; expected 1"
        yield Finding("QUATERNION_NORM", sentence, evidence.name, evidence.seconds(stamps[worst]))
        return
    yield from _joint_units(evidence)
    size = float(np.median(np.abs(poses[:, :3]).max(axis=1)))
    if size > LARGEST_POSITION:
        sentence = f"the median position is {size:.0f} from the base; expected below {LARGEST_POSITION:g} m"
        yield Finding("UNITS_MILLIMETRES", sentence, evidence.name)
        return
    yield from _jumps(evidence, stamps, poses, settings)
    yield from _workspace(evidence, stamps, poses, settings)
    yield from _arm(evidence, stream, stamps, poses)


def _joint_units(evidence: Evidence) -> Iterator[Finding]:
    assert evidence.recording is not None
    joints = evidence.recording.streams.get("joints")
    if joints is None or not joints.values.size:
        return
    largest = float(np.nanmax(np.abs(joints.values)))
    if largest > LARGEST_ANGLE:
        sentence = f"a joint angle of {largest:.1f}; expected at most {LARGEST_ANGLE:g} rad"
        yield Finding("JOINTS_DEGREES", sentence, evidence.name)


def _jumps(evidence: Evidence, stamps: np.ndarray, poses: np.ndarray, settings: CheckSettings) -> Iterator[Finding]:
    if len(poses) < 2:
        return
    # Stamps of one message and the next may nearly coincide; a millisecond is the least that makes a speed.
    seconds = np.maximum(np.diff(stamps) / NS_PER_S, 1e-3)
    distances = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1)
    dots = np.clip(np.abs((poses[1:, 3:7] * poses[:-1, 3:7]).sum(axis=1)), 0.0, 1.0)
    turns = 2.0 * np.arccos(dots)
    far = (distances > JUMP) & (distances / seconds > settings.fastest)
    turned = (turns > JUMP_TURN) & (turns / seconds > settings.fastest_turn)
    if (far | turned).any():
        worst = int(np.argmax(np.where(far | turned, distances / JUMP + turns / JUMP_TURN, 0.0)))
        sentence = (
            f"{distances[worst] * 100:.1f} cm and {np.degrees(turns[worst]):.0f} degrees within "
            f"{seconds[worst] * 1e3:.0f} ms; expected at most {settings.fastest:g} m/s, {settings.fastest_turn:g} rad/s"
        )
        yield Finding("TELEPORT", sentence, evidence.name, evidence.seconds(stamps[worst + 1]))


def _workspace(evidence: Evidence, stamps: np.ndarray, poses: np.ndarray, settings: CheckSettings) -> Iterator[Finding]:
    low, high = np.array(settings.workspace_low), np.array(settings.workspace_high)
    outside = ((poses[:, :3] < low) | (poses[:, :3] > high)).any(axis=1)
    if outside.any():
        first = int(np.argmax(outside))
        place = ", ".join(f"{value:.3f}" for value in poses[first, :3])
        sentence = (
            f"{int(outside.sum())} of {len(poses)} poses, the first at ({place}) m; expected between {low.tolist()} "
            f"and {high.tolist()} m"
        )
        yield Finding("OUT_OF_WORKSPACE", sentence, evidence.name, evidence.seconds(stamps[first]))


def _arm(evidence: Evidence, stream: Stream, stamps: np.ndarray, poses: np.ndarray) -> Iterator[Finding]:
    """Asks the geometry of the arm, when the card's tool link belongs to one that is known."""
    name = arm_name(evidence)
    if name is None or evidence.recording is None:
        return
    base = CHAINS[name].base_link
    strangers = [frame for frame in stream.frames if frame.rpartition("/")[2] != base.rpartition("/")[2]]
    if strangers:
        yield Finding("FRAME_WRONG", f"poses are in {strangers[0]!r}; expected {base!r}", evidence.name)
    arm = _arm_of(name)
    if arm is None:
        return
    picked = np.unique(np.linspace(0, len(poses) - 1, SAMPLES).astype(int))
    joints = evidence.recording.streams.get("joints")
    if joints is not None and set(arm.joint_names) <= set(joints.names):
        yield from _against_joints(evidence, arm, joints, stamps, poses, picked)
        return
    start = arm.joint_lower / 2 + arm.joint_upper / 2
    start[: len(CHAINS[name].rest)] = CHAINS[name].rest
    for i in picked:
        pose = Pose(poses[i, :3], poses[i, 3:7] / np.linalg.norm(poses[i, 3:7]))
        try:
            start = arm.inverse(pose, start, max_move=2 * np.pi)
        except KinematicsError as error:
            sentence = f"no joint angles for ({', '.join(f'{v:.3f}' for v in pose.position)}) m: {str(error)[:160]}"
            yield Finding("UNREACHABLE", sentence, evidence.name, evidence.seconds(stamps[i]))
            return


def _against_joints(
    evidence: Evidence, arm: Any, joints: Stream, stamps: np.ndarray, poses: np.ndarray, picked: np.ndarray
) -> Iterator[Finding]:
    columns = [joints.names.index(name) for name in arm.joint_names]
    misses = []
    for i in picked:
        angles = joints.values[int(np.argmin(np.abs(joints.stamps_ns - stamps[i])))][columns]
        if not np.isfinite(angles).all():
            continue
        try:
            pose = arm.forward(angles)
        except KinematicsError:
            continue
        distance = float(np.linalg.norm(pose.position - poses[i, :3]))
        turn = float(np.linalg.norm(rotation_between(pose.quaternion, poses[i, 3:7] / np.linalg.norm(poses[i, 3:7]))))
        misses.append((distance, turn))
    if not misses:
        return
    distance, turn = np.median(np.array(misses), axis=0)
    if distance > MISMATCH or turn > MISMATCH_TURN:
        sentence = (
            f"the pose is {distance * 100:.1f} cm and {np.degrees(turn):.0f} degrees from {arm.tool_link} at the joint "
            f"angles; expected {MISMATCH * 100:g} cm and {np.degrees(MISMATCH_TURN):.0f} degrees at most"
        )
        yield Finding("POSE_JOINTS_DISAGREE", sentence, evidence.name)


def arm_name(evidence: Evidence) -> str | None:
    """The arm whose tool link the card names; None when it is not one of ours."""
    if evidence.card is None:
        return None
    return next((name for name, chain in CHAINS.items() if chain.tool_link == evidence.card.tool_link), None)


@lru_cache(maxsize=8)
def _arm_of(name: str) -> Any:
    from openvla_core.arm_kinematics import load_arm

    try:
        return load_arm(name)
    except KinematicsError:
        return None  # the solver is not installed; everything else is checked all the same
