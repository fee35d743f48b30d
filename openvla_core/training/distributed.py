"""One process or many: who this one is among them, how the model is laid out over them, and what they add up."""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. local_*: among those on the same machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """The one that writes and reports."""
        return self.rank == 0
