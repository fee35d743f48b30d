"""The gripper: its range, whether it flutters, and whether it does what it is told."""

from collections.abc import Iterator

import numpy as np

from openvla_core.datasets.alignment import Series
from openvla_core.datasets.bags.recording import Recording
from openvla_core.datasets.bags.stream import Stream
from openvla_core.datasets.check.evidence import NS_PER_S, Evidence
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.settings import CheckSettings
from openvla_core.datasets.gripper_joints import opening_of_joints

SLACK = 0.05  # beyond 0 and 1
LEAST_TRAVEL = 0.05
SETTLING_NS = int(0.6 * NS_PER_S)  # until fingers have followed a command
OPPOSITE = -0.3


def check(evidence: Evidence, settings: CheckSettings) -> Iterator[Finding]:
    """Findings about the gripper of one episode."""
    if evidence.recording is None:
        return
    streams = evidence.recording.streams
    ranges_are_fine = True
    for role in ("gripper_command", "gripper"):
        if role in streams and len(streams[role]):
            for finding in _range(evidence, streams[role]):
                ranges_are_fine = False
                yield finding
    command = streams.get("gripper_command")
    if command is None or len(command) < 2 or not ranges_are_fine:
        return
    yield from _chatter(evidence, command, settings)
    measured = measured_opening(evidence.recording)
    if measured is not None and len(measured):
        yield from _obedience(evidence, command, measured)


def measured_opening(recording: Recording) -> Stream | None:
    """The measured opening, from its own topic or from the finger joints."""
    if "gripper" in recording.streams:
        return recording.streams["gripper"]
    joints = recording.streams.get("joints")
    return opening_of_joints(joints)[0] if joints is not None else None


def _range(evidence: Evidence, stream: Stream) -> Iterator[Finding]:
    values = stream.values[:, 0]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < -SLACK or high > 1 + SLACK:
        sentence = f"{stream.topic} goes from {low:.3g} to {high:.3g}; expected 0 (closed) to 1 (open)"
        yield Finding("GRIPPER_RANGE", sentence, evidence.name)


def _chatter(evidence: Evidence, command: Stream, settings: CheckSettings) -> Iterator[Finding]:
    opened = command.values[:, 0] > 0.5
    changes = command.stamps_ns[1:][opened[1:] != opened[:-1]]
    if len(changes) >= 3:
        spans = (changes[2:] - changes[:-2]) / NS_PER_S
        quickest = int(np.argmin(spans))
        if spans[quickest] < settings.chatter_s:
            sentence = (
                f"{len(changes)} changes, three of them within {spans[quickest]:.2f} s; expected more than "
                f"{settings.chatter_s:g} s for three"
            )
            yield Finding("GRIPPER_CHATTER", sentence, evidence.name, evidence.seconds(changes[quickest]))


def _obedience(evidence: Evidence, command: Stream, measured: Stream) -> Iterator[Finding]:
    commanded = command.values[:, 0]
    if np.ptp(commanded) < 0.5:
        return
    # The command that was in force when the fingers had time to follow, against where they are.
    index = Series.of(command).as_of(measured.stamps_ns - SETTLING_NS)
    known = index >= 0
    if known.sum() < 5 or np.ptp(commanded[index[known]]) < 0.5:
        return
    wanted, opening = commanded[index[known]], measured.values[known, 0]
    if np.ptp(opening) < LEAST_TRAVEL:
        sentence = f"the command changes, the opening only by {np.ptp(opening):.3f}; expected {LEAST_TRAVEL:g} or more"
        yield Finding("GRIPPER_STUCK", sentence, evidence.name)
        return
    agreement = float(np.corrcoef(wanted, opening)[0, 1])
    if agreement < OPPOSITE:
        sentence = f"command and opening agree by {agreement:+.2f} (correlation); expected above 0"
        yield Finding("GRIPPER_INVERTED", sentence, evidence.name)
