"""The sentences of a set: slips of the pen, and tasks that are hardly there."""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

from openvla_core.datasets.check.evidence import Evidence
from openvla_core.datasets.check.facts import instruction_of
from openvla_core.datasets.check.findings import Finding
from openvla_core.datasets.check.settings import CheckSettings

SIMILAR = 0.8  # of the letters of two words, beyond which one may be a slip of the other
LEAST_LETTERS = 4
USUAL = 5  # episodes per instruction that make one with a tenth of them rare
RARE_SHARE = 0.25


def check(evidences: Sequence[Evidence], settings: CheckSettings) -> Iterator[Finding]:
    """Findings about the instructions of the set."""
    counts = Counter(text for evidence in evidences if (text := instruction_of(evidence).strip()))
    for rare, common in sorted(combinations(counts, 2)):
        if counts[rare] > counts[common]:
            rare, common = common, rare
        if is_slip(rare, common):
            sentence = f"{rare!r} ({counts[rare]} episodes) and {common!r} ({counts[common]}) differ by a slip only"
            names = [e.name for e in evidences if instruction_of(e).strip() == rare]
            yield Finding("INSTRUCTION_TWIN", sentence, names[0] if len(names) == 1 else "")
    if len(counts) > 1:
        usual = sorted(counts.values())[len(counts) // 2]
        for text, count in counts.items():
            if usual >= USUAL and count < RARE_SHARE * usual:
                sentence = f"{text!r} has {count} of {sum(counts.values())} episodes; the others have about {usual}"
                yield Finding("INSTRUCTION_RARE", sentence)


def is_slip(first: str, second: str) -> bool:
    """True when two sentences differ in case, blanks and punctuation only, or in one word by a letter or two."""
    a, b = (re.findall(r"\w+", text.lower()) for text in (first, second))
    if a == b:
        return first != second
    if len(a) != len(b):
        return False
    different = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
    if len(different) != 1:
        return False
    x, y = different[0]
    if min(len(x), len(y)) < LEAST_LETTERS or any(character.isdigit() for character in x + y):
        return False
    return difflib.SequenceMatcher(None, x, y).ratio() >= SIMILAR


def coverage(evidences: Sequence[Evidence]) -> list[tuple[str, int]]:
    """Every instruction with its number of episodes, most frequent first."""
    return Counter(instruction_of(evidence).strip() or "(none)" for evidence in evidences).most_common()
