"""Which rows of a batch predict something, found on the CPU while the batch is made.

So the head is computed for these rows alone, and the GPU never has to tell the CPU how many there are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openvla_core.action_statistics import ActionStatistics
from openvla_core.datasets.examples import collate
from openvla_core.model import OpenVLAConfig
from openvla_core.model.config import ACTION_BINS
from openvla_core.prompt import IGNORE_INDEX


class RowCollate:
    """Examples -> a batch of N rows to predict: a dict of tensors, B samples padded on the right to T tokens.

    "input_ids" (B, T) int64; "pixels" (B, S, S, 3) uint8 or "pixel_values"; "places" (N,) int64, of each row among the
    B * (P + T) of the whole sequence; "targets" (N,) int64, what it is to predict; "dimensions" (N,) int64, which
    number of the action that is, D for anything else; "scales" (N,) float32, units of the data set per unit of [-1, 1].
    """

    def __init__(self, config: OpenVLAConfig, statistics: Mapping[str, ActionStatistics], multiple: int = 1) -> None:
        """statistics: per data set. multiple: T is one of this number; compiled layers want few different lengths."""
        self._pad_id, self._patches, self._multiple = config.pad_token_id, config.patches, multiple
        self._first_id, self._end_id = config.action_vocab_size - ACTION_BINS, config.action_vocab_size
        self._scales = {name: physical_scales(values) for name, values in statistics.items()}
        self.dimensions = max((len(scales) for scales in self._scales.values()), default=0)

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = collate(examples, self._pad_id)
        labels, names = batch.pop("labels"), batch.pop("datasets")
        del batch["attention_mask"]  # text is padded on the right, where causal attention never looks from the left
        length = labels.shape[1]
        batch["input_ids"] = F.pad(batch["input_ids"], (0, -length % self._multiple), value=self._pad_id)
        whole = self._patches + batch["input_ids"].shape[1]
        # The patches stand behind the first token: token t is predicted at place P + t - 1, and never at t = 0.
        samples, tokens = torch.nonzero(labels[:, 1:] != IGNORE_INDEX, as_tuple=True)
        batch["places"] = samples * whole + self._patches + tokens
        batch["targets"] = labels[:, 1:][samples, tokens]
        batch["dimensions"], batch["scales"] = self._meaning(samples, batch["targets"], names)
        return batch

    def _meaning(self, samples: Tensor, targets: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        dimensions = torch.full_like(targets, self.dimensions)
        scales = torch.zeros(len(targets), dtype=torch.float32)
        is_action = (targets >= self._first_id) & (targets < self._end_id)
        for sample, name in enumerate(names):
            own = self._scales.get(name)
            if own is not None:
                rows = torch.nonzero((samples == sample) & is_action)[:, 0]
                dimensions[rows] = torch.arange(len(rows)) % len(own)
                scales[rows] = own[dimensions[rows]]
        return dimensions, scales


def physical_scales(statistics: ActionStatistics) -> Tensor:
    """(D,) float32: how much a number of the action changes, in its units, when the model's number changes by 1."""
    half = 0.5 * (statistics.q99 - statistics.q01)
    return torch.from_numpy(np.where(statistics.mask, half, 1.0).astype(np.float32))
