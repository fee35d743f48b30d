"""Which sentence an episode follows, and between which frames it was in force.

An episode has one sentence, so it is cut to the longest time during which one was in force. Facts of our recorder say
when each sentence began; in other bags the instruction topic does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from openvla_core.datasets.bags.recording import Recording

NS_PER_S = 1_000_000_000
FOREVER_NS = 2**63 - 1
LATE_S = 0.5  # a first sentence that comes no later than this after the first frame holds from there


@dataclass(frozen=True)
class Told:
    """A sentence, empty for none, in force from begin_ns until just before end_ns, both as messages arrive."""

    sentence: str
    begin_ns: int
    end_ns: int

    def within(self, first_ns: int, last_ns: int) -> int:
        """How much of it, in ns, lies between two times."""
        return max(0, min(self.end_ns, last_ns) - max(self.begin_ns, first_ns))


def longest(instructions: Sequence[Sequence[Any]], duration_s: float) -> str:
    """The sentence that was in force for the longest time; each comes with the seconds at which it began."""
    ends = [*(entry[0] for entry in instructions), duration_s][1:]
    spoken = [(end - entry[0], entry[1]) for entry, end in zip(instructions, ends, strict=True) if entry[1]]
    return max(spoken, key=lambda held: held[0])[1] if spoken else ""


def told(recording: Recording) -> list[Told]:
    """The sentences of a recording one after the other; empty when none was heard."""
    begun = _noted(recording.facts) or _heard(recording)
    changes = [entry for i, entry in enumerate(begun) if i == 0 or entry[1] != begun[i - 1][1]]
    ends = [*(time for time, _ in changes), FOREVER_NS][1:]
    return [Told(sentence, begin, end) for (begin, sentence), end in zip(changes, ends, strict=True)]


def instruction_of(recording: Recording, fallback: str = "") -> tuple[str, tuple[int, int] | None]:
    """The instruction, and the camera stamps (ns) between which it was in force; None for the whole recording.

    With several sentences it is the one in force for the longest time. One in the facts that nobody said during the
    recording was written there afterwards and holds for all of it.
    """
    given = str(recording.facts.get("instruction") or "").strip()
    spoken = told(recording)
    if given and given not in {held.sentence for held in spoken}:
        return given, None
    camera = recording.streams["primary"]
    first, last = int(camera.arrivals_ns.min()), int(camera.arrivals_ns.max())
    candidates = [held for held in spoken if held.sentence and given in ("", held.sentence)]
    if not candidates:
        return fallback, None
    chosen = max(candidates, key=lambda held: held.within(first, last))
    begins_it = (
        chosen is next(held for held in spoken if held.sentence) and chosen.begin_ns - first <= LATE_S * NS_PER_S
    )
    begin_ns = min(first, chosen.begin_ns) if begins_it else chosen.begin_ns
    within = (camera.arrivals_ns >= begin_ns) & (camera.arrivals_ns < chosen.end_ns)
    if within.all():
        return chosen.sentence, None
    stamps = camera.stamps_ns[within]
    return chosen.sentence, (int(stamps.min()), int(stamps.max())) if len(stamps) else (1, 0)


def _noted(facts: Mapping[str, Any]) -> list[tuple[int, str]]:
    """When each sentence began, as the recorder noted it: [seconds since the start, sentence, time in ns].

    Recordings of earlier releases have no time in ns; the seconds are counted from the fact "started" then.
    """
    entries = facts.get("instructions")
    if not isinstance(entries, list):
        return []
    try:
        started = datetime.fromisoformat(str(facts.get("started")).replace("Z", "+00:00")).timestamp()
    except ValueError:
        started = None
    noted = []
    for entry in entries:
        if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[1], str) and isinstance(entry[2], int):
            noted.append((entry[2], entry[1].strip()))
        elif isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], (int, float)) and started is not None:
            noted.append((int((started + entry[0]) * NS_PER_S), str(entry[1]).strip()))
        else:
            return []
    return noted


def _heard(recording: Recording) -> list[tuple[int, str]]:
    """When each sentence arrived on the instruction topic; sentences carry no stamp."""
    stream = recording.streams.get("instruction")
    if stream is None:
        return []
    return [(int(time), text.strip()) for time, text in zip(stream.arrivals_ns, stream.texts, strict=True)]
