"""What the policy node measures and counts, for its status and /diagnostics."""

from openvla_core.journey import Journey
from openvla_ros.policy_setup import PolicySettings
from openvla_ros.timing import RateWindow

# The stretches from the stamp of the camera to the published action, in the order in which they are passed:
# age             the frame is drawn or exposed, sent, received and noticed by the node's executor
# waiting         it is checked, and waits until an action is due and the model is free
# conversion      message to RGB
# handover        picture check, and the worker thread waking up
# preprocessing   RGB to the tensor of the model, prompt to ids
# inference       model and decoding of the tokens
# return          the executor noticing the result
# publication     message made and handed to DDS
STRETCHES = ("age", "waiting", "conversion", "handover", "preprocessing", "inference", "return", "publication")


class PolicyFigures:
    """Inferences of the last seconds, and what became of them since the start."""

    def __init__(self) -> None:
        self.counts = {"chunks": 0, "discarded": 0, "errors": 0}
        self.inferences = RateWindow()
        self._journeys = {name: RateWindow() for name in (*STRETCHES, "total")}

    def count_error(self) -> None:
        """Notes an error that cost one action."""
        self.counts["errors"] += 1

    def add_journey(self, journey: Journey) -> None:
        """Notes the way of a frame whose action was published."""
        for name, seconds in {**journey.stretches, "total": journey.total_s}.items():
            self._journeys.setdefault(name, RateWindow()).add(seconds)

    def journeys(self) -> dict[str, str]:
        """Median and 95th percentile of each stretch over the last seconds: {"path_age_p50_ms": "9.81", ...}."""
        return {
            f"path_{name}_p{percent}_ms": f"{window.percentile_ms(percent):.2f}"
            for name, window in self._journeys.items()
            for percent in (50, 95)
        }

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
        counts = {name: str(count) for name, count in {**self.counts, **frames}.items()}
        return {**fixed, **counts, **self.journeys()}


def untrained_warning(instruction: str, trained: set[str]) -> str:
    """What to know about an instruction that was not in the training data; empty when it was, or when nobody knows."""
    known = {sentence.lower() for sentence in trained}
    if not known or instruction.lower() in known:
        return ""
    examples = "; ".join(sorted(known)[:3])
    return f"{instruction!r} was not in the training data, so it may do anything. It was trained on: {examples}."
