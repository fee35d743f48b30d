"""What the robot is told while episodes are recorded, and when it changed."""

import time

CHANGE_S = 1.0  # an instruction that comes later than this after the start replaces one that was followed
LONGEST = 1000  # characters that are kept: more than the policy takes, so that a check still finds it too long
MOST_CHANGES = 1000  # per episode; somebody who says more is no person


class SentenceLog:
    """The sentence in force: what the policy follows, else what was said last, else the one of the settings.

    entries: of the present episode, each [seconds since its start, sentence, time in ns]; an empty sentence is none.
    """

    def __init__(self, default: str = "") -> None:
        self.said = ""
        self.active = ""
        self.entries: list[list] = []
        self._default = default
        self._started_s = 0.0

    @property
    def current(self) -> str:
        """The sentence in force now; empty for none."""
        return (self.active or self.said or self._default).strip()[:LONGEST]

    def hear(self, sentence: str) -> None:
        """Somebody said what is to be done."""
        self.said = sentence

    def follow(self, sentence: str) -> None:
        """The policy says what it follows; empty when it has dropped its task, and what was said before with it."""
        if self.active and not sentence:
            self.said = ""
        self.active = sentence

    def begin(self) -> None:
        """An episode begins."""
        self._started_s = time.monotonic()
        self.entries = []
        self.note()

    def note(self) -> bool:
        """Keeps what is in force now, if it is another sentence than before; true when it was."""
        before = self.entries[-1][1] if self.entries else ""
        if self.current == before or len(self.entries) >= MOST_CHANGES:
            return False
        self.entries.append([round(time.monotonic() - self._started_s, 3), self.current, time.time_ns()])
        return True

    def complaints(self) -> list[str]:
        """What a person should know about the sentences of an episode that has just ended."""
        spoken = [entry for entry in self.entries if entry[1]]
        if not spoken:
            return ["It has no instruction."]
        changed = any(entry[1] != spoken[0][1] and entry[0] > CHANGE_S for entry in spoken)
        return ["The instruction changed in between."] if changed else []
