"""The loop: batches, gradients, steps, figures, checkpoints, until it is good enough or the steps are used up.

trainer = Trainer(recipe, watchers=[...])    # opens base and data, picks up the newest checkpoint of this training
outcome = trainer.run()                      # the same call on one process or on many under torchrun
state = trainer.state()                      # whole tensors by published names; on the first process only
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Watcher(Protocol):
    """Told what happens, on the first process only. Figures are plain numbers; asking for none costs nothing.

    facts of on_start: "recipe" (plain values), "step" (where it begins), "max_steps", "parameters", "trainable",
    "strategy", "world", "device", "dtype", "data" (counts), "base", "versions".
    figures: see openvla_core.training.metrics; of on_step over the steps since the last call.
    samples: dicts with "dataset", "episode", "index", "instruction", "image" (H, W, 3) uint8, "predicted" and "true"
    (D,) lists in the units of the data set. Predicted under teacher forcing, as the training sees it.
    facts of on_end: "step", "reason" ("accuracy" or "max_steps"), "seconds", "figures", "validation".
    """

    def on_start(self, facts: Mapping[str, Any]) -> None: ...

    def on_step(self, step: int, figures: Mapping[str, float]) -> None: ...

    def on_validation(self, step: int, figures: Mapping[str, float], samples: Sequence[Mapping[str, Any]]) -> None: ...

    def on_end(self, facts: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a training ended. reason: "accuracy" or "max_steps". figures, validation: the last ones, maybe empty."""

    step: int
    reason: str
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
