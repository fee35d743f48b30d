"""A published sample, and how to judge two float32 results by what float64 gives."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from openvla_core.model import OpenVLA


@dataclass(frozen=True)
class Sample:
    """One picture and task with everything published about it. tensors: without the prefix "s0." and so on."""

    image: np.ndarray
    task: str
    answers: dict[str, Any]
    tensors: dict[str, Tensor]


def to_double(model: OpenVLA) -> OpenVLA:
    """Float64 in place, except for the rotary frequencies, which are float32 numbers everywhere."""
    frequencies = model.language_model.model.rotary_emb.inv_freq.clone()
    model.double().language_model.model.rotary_emb.inv_freq = frequencies
    return model


def distance(computed: Tensor, published: Tensor) -> float:
    """Largest absolute difference."""
    assert computed.shape == published.shape
    return (computed.double() - published.double()).abs().max().item()


TOLERANCE = 1e-4


def steps_allowed(published: Tensor, exact: Tensor) -> Tensor:
    """How far the logits (steps, V) may be from the published ones, per step (steps,).

    1e-4, except where the published logits are further than that from float64: a processor that adds up in another
    order may land on the other side of it. At most 1.5e-4.
    """
    error = (published.double() - exact.double()).abs().amax(dim=1)
    return error.clamp(TOLERANCE, 1.5e-4)
