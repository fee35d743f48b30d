"""Linear layers that read the same input, run as one matrix product over one copy of their weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Joined:
    """The layers `names` of `parent` side by side.

    Where all of them are plain, the joined weight owns the memory and their own weights become views of it: whoever
    changes a weight in place, training or a test, changes what runs here, and nothing is held twice. Where one is not,
    because an adapter is attached or it is quantized, each is called as the module it is.
    """

    def __init__(self, parent: nn.Module, *names: str) -> None:
        self.linears = [parent.get_submodule(name) for name in names]
        self.weight = join(self.linears) if all(map(is_plain, self.linears)) else None

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., inputs) -> (..., outputs of all layers in order)."""
        if self.weight is not None:
            return F.linear(x, self.weight)
        return torch.cat([linear(x) for linear in self.linears], dim=-1)


class Watched:
    """Children `names` of a module, as they are now: the modules, their weights, and where those lie."""

    def __init__(self, parent: nn.Module, *names: str) -> None:
        self._parent, self._names = parent, names
        self._seen = self._look()

    @property
    def current(self) -> bool:
        """False after one was replaced, or its weight moved elsewhere, as `.to(...)` does."""
        return self._look() == self._seen

    def _look(self) -> list[object]:
        found: list[object] = []
        for name in self._names:
            module = self._parent._modules[name]
            assert module is not None
            weight = module._parameters.get("weight")
            plain = type(weight) is nn.Parameter and type(weight.data) is Tensor
            hooks = bool(module._forward_hooks or module._forward_pre_hooks)
            found += [id(module), id(weight), weight.data_ptr() if plain and weight is not None else 0, hooks]
        return found


def is_plain(module: nn.Module) -> bool:
    """Whether the module does nothing but multiply by its weight, and the weight is an ordinary tensor."""
    return (
        type(module) is nn.Linear
        and module.bias is None
        and type(module.weight) is nn.Parameter
        and type(module.weight.data) is Tensor
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


@torch.inference_mode(False)
@torch.no_grad()
def join(linears: Sequence[nn.Module]) -> Tensor:
    """One weight (outputs of all, inputs), of which the weights of the layers are views from now on."""
    weights = [linear.get_parameter("weight") for linear in linears]
    together = lying_together([weight.data for weight in weights])
    if together is not None:  # of another engine over the same model: both go on with one copy
        return together
    joined = torch.cat([weight.data for weight in weights])
    start = 0
    for weight in weights:
        rows = len(weight)
        weight.data = joined.narrow(0, start, rows)
        start += rows
    return joined


def lying_together(weights: Sequence[Tensor]) -> Tensor | None:
    """The one weight that these are views of, in this order and without gaps; None where they are not."""
    first, start = weights[0], weights[0].storage_offset()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same and weight.is_contiguous() and weight.storage_offset() == start):
            return None
        start += weight.numel()
    return first.as_strided((sum(map(len, weights)), first.shape[1]), first.stride(), first.storage_offset())
