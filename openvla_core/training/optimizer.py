"""AdamW as the published trainings used it: constant rate, no warm-up, one decay for everything that is trained."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from openvla_core.training.recipe import Recipe


def make_optimizer(trainable: Mapping[str, nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the parameters in their order; `recipe` has its defaults resolved."""
    assert recipe.learning_rate is not None and recipe.weight_decay is not None
    parameters = list(trainable.values())
    on_gpu = bool(parameters) and parameters[0].device.type == "cuda"
    return torch.optim.AdamW(
        parameters,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=on_gpu,
        foreach=None if on_gpu else False,
    )


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Shortens all gradients together to the norm `most`, 0 for any length; returns the norm before, on the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if most:
        # torch's own function would need the parameters; written out so that the norm is computed once.
        scale = (most / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
