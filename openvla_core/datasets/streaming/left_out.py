"""Episodes that a training could not use: found before it begins, instead of stopping it in the middle."""

import logging
from collections.abc import Callable

from openvla_core.datasets.episode import Episode
from openvla_core.errors import InstructionError
from openvla_core.prompt import clean_instruction

MAX_REASONS = 10
log = logging.getLogger(__name__)


class LeftOut:
    """How many there are; reasons: name of the episode -> why, of the first MAX_REASONS.

    Failures, episodes without steps, and those whose instruction is refused.

    check: refuses an instruction by InstructionError. By default what no model is shown; Processor.prompt_ids knows
    what a certain checkpoint refuses besides, such as words that mean something to its tokenizer.
    """

    def __init__(self, check: Callable[[str], object] = clean_instruction) -> None:
        self._check = check
        self.count = 0
        self.reasons: dict[str, str] = {}

    def takes(self, episode: Episode) -> bool:
        """Whether this episode is one of them."""
        if episode.success is False:
            return self._take(episode, "it was marked as a failure.")
        try:
            self._check(episode.instruction.strip())
        except InstructionError as error:
            return self._take(episode, str(error))
        return False if len(episode) else self._take(episode, "it has no steps.")

    def _take(self, episode: Episode, reason: str) -> bool:
        self.count += 1
        if len(self.reasons) < MAX_REASONS:
            self.reasons[episode.name] = reason
        return True

    def tell(self, data_set: str) -> None:
        """A warning, where there are any."""
        for name, reason in list(self.reasons.items())[:1]:
            log.warning("%s: episodes left out: %d, such as %s: %s", data_set, self.count, name, reason)
