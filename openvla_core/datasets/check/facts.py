"""What the recording says about itself: streams, instruction, outcome, card."""

from collections.abc import Iterator

from openvla_core.conventions import convention_from_mapping
from openvla_core.datasets.bags.sentences import LATE_S, told
from openvla_core.datasets.check.evidence import NS_PER_S, Evidence
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.settings import CheckSettings
from openvla_core.datasets.episode import PRIMARY
from openvla_core.errors import ConventionError, InstructionError
from openvla_core.prompt import clean_instruction


def check(evidence: Evidence, settings: CheckSettings) -> Iterator[Finding]:
    """Findings about the facts of one episode."""
    yield from evidence.problems
    name = evidence.name
    if evidence.recording is not None and not any(p.code in ("BAG_EMPTY", "BAG_DAMAGED") for p in evidence.problems):
        yield from _streams(evidence)
        yield from _sentences(evidence)
    elif evidence.episode is None:
        return
    yield from _instruction(evidence)
    success = evidence.episode.success if evidence.episode is not None else None
    facts = evidence.recording.facts if evidence.recording is not None else {}
    if facts.get("outcome") == "failure" or success is False:
        yield Finding("FAILURE_INCLUDED", "the outcome is failure; expected success", name)
    elif facts.get("outcome") != "success" and success is None:
        yield Finding("OUTCOME_MISSING", "the outcome is not told; expected success or failure", name)
    if _is_true(facts.get("repaired")) or _is_true(facts.get("interrupted")):
        yield Finding("EPISODE_CUT", "the recorder was interrupted; expected an episode that was ended", name)
    if facts.get("dropped") not in (None, "", "0", 0):
        yield Finding("MESSAGES_DROPPED", f"{facts['dropped']} messages were dropped; expected none", name)
    yield from _card(evidence)


def _is_true(value: object) -> bool:
    return value is True or value == "true"


def _streams(evidence: Evidence) -> Iterator[Finding]:
    assert evidence.recording is not None
    streams = evidence.recording.streams
    known = ", ".join(sorted(evidence.recording.topics))
    for role in (PRIMARY, "pose"):
        if role not in streams:
            yield Finding("TOPIC_MISSING", f"no messages for {role}; the bag has {known}", evidence.name)
    fingers = "joints" in streams and any("finger" in joint for joint in streams["joints"].names)
    if not ({"gripper", "gripper_command", "applied"} & set(streams) or fingers):
        yield Finding("TOPIC_MISSING", f"no messages about the gripper; the bag has {known}", evidence.name)


def _sentences(evidence: Evidence) -> Iterator[Finding]:
    """When the sentences were told, against the recording."""
    assert evidence.recording is not None
    camera = evidence.recording.streams.get(PRIMARY)
    if camera is None:
        return
    first, last = int(camera.arrivals_ns.min()), int(camera.arrivals_ns.max())
    spoken = [held for held in told(evidence.recording) if held.sentence]
    late_s = (spoken[0].begin_ns - first) / NS_PER_S if spoken else 0.0
    if late_s > LATE_S:
        sentence = f"the first instruction came {late_s:.1f} s after the first frame; expected it before"
        yield Finding("INSTRUCTION_LATE", sentence, evidence.name)
    seen = [held for held in spoken if held.within(first, last) > 0]
    if len(seen) > 1:
        sentence = f"{seen[0].sentence!r} became {seen[1].sentence!r}; expected one instruction"
        yield Finding("INSTRUCTION_CHANGED", sentence, evidence.name, (seen[1].begin_ns - first) / NS_PER_S)


def _instruction(evidence: Evidence) -> Iterator[Finding]:
    text = instruction_of(evidence)
    if not text.strip():
        yield Finding("INSTRUCTION_MISSING", "the instruction is empty; expected a sentence", evidence.name)
        return
    try:
        clean_instruction(text)
    except InstructionError as error:
        yield Finding("INSTRUCTION_INVALID", str(error), evidence.name)


def instruction_of(evidence: Evidence) -> str:
    """The sentence of the episode, from its steps, its facts or its topic; empty when there is none."""
    if evidence.episode is not None:
        return evidence.episode.instruction
    if evidence.recording is None:
        return ""
    given = str(evidence.recording.facts.get("instruction") or "")
    return given or next((held.sentence for held in told(evidence.recording) if held.sentence), "")


def _card(evidence: Evidence) -> Iterator[Finding]:
    if evidence.card is not None:
        return
    facts = evidence.recording.facts if evidence.recording is not None else {}
    card = facts.get("convention") or (evidence.episode.convention if evidence.episode is not None else None)
    if not card:
        yield Finding("CARD_MISSING", "the metadata has no convention card", evidence.name)
    else:
        try:
            convention_from_mapping(card if isinstance(card, dict) else {}, "the card")
        except ConventionError as error:
            yield Finding("CARD_INVALID", str(error), evidence.name)
