"""What the policy node measures and counts, for its status and /diagnostics."""

from openvla_ros.policy_setup import PolicySettings
from openvla_ros.timing import RateWindow


class PolicyFigures:
    """Inferences of the last seconds, and what became of them since the start."""

    def __init__(self) -> None:
        self.counts = {"chunks": 0, "discarded": 0, "errors": 0}
        self.inferences = RateWindow()

    def count_error(self) -> None:
        """Notes an error that cost one action."""
        self.counts["errors"] += 1

    def measured(self, instruction: str) -> dict:
        """The instruction in force; rate and latency of the inferences of the last seconds."""
        return {
            "instruction": instruction,
            "rate_hz": self.inferences.rate_hz(),
            "latency_p50_ms": self.inferences.percentile_ms(50),
            "latency_p95_ms": self.inferences.percentile_ms(95),
        }

    def details(self, settings: PolicySettings, frames: dict[str, int]) -> dict[str, str]:
        """What /diagnostics tells besides the status."""
        fixed = {"checkpoint": settings.checkpoint, "device": settings.device, "dtype": settings.dtype}
        return {**fixed, **{name: str(count) for name, count in {**self.counts, **frames}.items()}}


def untrained_warning(instruction: str, trained: set[str]) -> str:
    """What to know about an instruction that was not in the training data; empty when it was, or when nobody knows."""
    known = {sentence.lower() for sentence in trained}
    if not known or instruction.lower() in known:
        return ""
    examples = "; ".join(sorted(known)[:3])
    return f"{instruction!r} was not in the training data, so it may do anything. It was trained on: {examples}."
