"""A published sample, and how to judge two float32 results by what float64 gives."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openvla_core.model import OpenVLA


@dataclass(frozen=True)
class Sample:
    """One picture and task with everything published about it. tensors: without the prefix "s0." and so on."""

    image: np.ndarray
    task: str
    answers: dict[str, Any]
    tensors: dict[str, Tensor]


def to_double(model: OpenVLA) -> OpenVLA:
    """Float64 in place, norms included; only rotary angles and the loss stay the float32 numbers they always are."""
    frequencies = model.language_model.model.rotary_emb.inv_freq.clone()
    model.double().language_model.model.rotary_emb.inv_freq = frequencies
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = partial(rms_norm, module)
    return model


def rms_norm(module: nn.Module, x: Tensor) -> Tensor:
    """What the library computes in float32 whatever the dtype of x."""
    return module.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)


def distance(computed: Tensor, published: Tensor) -> float:
    """Largest absolute difference."""
    assert computed.shape == published.shape
    return (computed.double() - published.double()).abs().max().item()


TOLERANCE = 1e-4


def rows_allowed(published: Tensor, exact: Tensor) -> Tensor:
    """How far logits (N, V) may be from the published ones, per row (N,).

    1e-4; but where the published row itself is further than that from float64, twice its distance, since a processor
    that adds up in another order may land as far on the other side. No row is further than 1.5e-4.
    """
    error = row_distances(published, exact)
    assert error.max() <= 1.5e-4
    return torch.where(error > TOLERANCE, 2 * error, TOLERANCE)


def row_distances(computed: Tensor, published: Tensor) -> Tensor:
    """Largest absolute difference per row, (N, V) twice -> (N,)."""
    assert computed.shape == published.shape
    return (computed.double() - published.double()).abs().amax(dim=1)
