"""Figures of a training, added up on the device and read seldom: loss, right action tokens, distance of actions."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.model import OpenVLAConfig

PARTS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
LOSS, PASSES, RIGHT, TOKENS, DISTANCE, FIRST_PART = range(6)


def part_names(dimensions: int) -> list[str]:
    """Names of the numbers of an action: those of a tool's motion when there are seven."""
    return list(PARTS) if dimensions == len(PARTS) else [str(i) for i in range(dimensions)]


class Metrics:
    """Sums over passes. Figures: "loss"; "accuracy", the share of right action tokens; "l1", the mean distance between
    predicted and true number in [-1, 1]; "l1_x" ... "l1_gripper", per number of the action, in units of the data set.

    A predicted token that is no action token counts as wrong, and as the nearest end of the range.
    """

    def __init__(self, config: OpenVLAConfig, dimensions: int, device: torch.device) -> None:
        """dimensions: D, the numbers in one action; a row of dimension D is none of an action."""
        tokenizer = ActionTokenizer(config.action_vocab_size)
        self._end_id, self._dimensions = config.action_vocab_size, dimensions
        self._centers = torch.from_numpy(tokenizer.centers).to(device)
        self.sums = torch.zeros(FIRST_PART + 2 * dimensions, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """One pass: a scalar loss, logits (N, V) and what RowCollate says of the rows.

        Returns the predicted ids (N,). Nothing is read back from the device.
        """
        predicted, targets, dimensions = logits.argmax(-1), batch["targets"], batch["dimensions"]
        is_action = dimensions < self._dimensions
        distance = (self.values(predicted) - self.values(targets)).abs() * is_action
        per_part = torch.zeros(2, self._dimensions + 1, dtype=torch.float64, device=logits.device)
        per_part[0].index_add_(0, dimensions, distance * batch["scales"])
        per_part[1].index_add_(0, dimensions, is_action.double())
        right = (predicted == targets) & is_action
        ones = torch.ones((), dtype=torch.float64, device=logits.device)
        self.sums += torch.cat(
            [
                torch.stack([loss.detach().double(), ones, right.sum().double(), is_action.sum().double()]),
                distance.sum()[None],
                per_part[:, : self._dimensions].flatten(),
            ]
        )
        return predicted

    def values(self, ids: Tensor) -> Tensor:
        """Ids of any shape -> numbers in [-1, 1], float64; other ids as the nearest action token."""
        return self._centers[(self._end_id - 1 - ids).clamp(0, len(self._centers) - 1)]

    def read(self, all_sum: Callable[[Tensor], Tensor] = torch.clone) -> dict[str, float]:
        """The figures since the last call, over all processes; waits for the device. Sums begin again at zero."""
        sums = all_sum(self.sums).tolist()
        self.sums.zero_()
        return figures(sums)


def figures(sums: list[float]) -> dict[str, float]:
    """From sums to means; what nothing was added to is left out."""
    dimensions = (len(sums) - FIRST_PART) // 2
    result: dict[str, float] = {}
    if sums[PASSES]:
        result["loss"] = sums[LOSS] / sums[PASSES]
    if sums[TOKENS]:
        result["accuracy"] = sums[RIGHT] / sums[TOKENS]
        result["l1"] = sums[DISTANCE] / sums[TOKENS]
        parts, counts = sums[FIRST_PART : FIRST_PART + dimensions], sums[FIRST_PART + dimensions :]
        for name, total, count in zip(part_names(dimensions), parts, counts, strict=True):
            if count:
                result[f"l1_{name}"] = total / count
    return result


@dataclass
class GoodEnough:
    """Whether the accuracy has stayed above a threshold for a number of steps; its state is `since`."""

    threshold: float | None
    window: int
    since: int | None = field(default=None)

    def __call__(self, first: int, step: int, accuracy: float | None) -> bool:
        """accuracy: over the steps after `first` up to `step`."""
        if self.threshold is None or accuracy is None or accuracy < self.threshold:
            self.since = None
            return False
        if self.since is None:
            self.since = first
        return step - self.since >= self.window
