"""torch.compile for the layers of a model: one layer at a time, fixed shapes, no graph breaks."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch

Layer = TypeVar("Layer", bound=Callable[..., Any])


def compile_layer(function: Layer, device: torch.device | str, backend: str = "inductor") -> Layer:
    """A function of a layer and its tensors, compiled for every kind of layer and shapes that it is called with.

    Layers of one kind share the compiled code, so 32 of them take as long to compile as one. A part of the function
    that cannot be compiled is an error. Nothing of the layer itself is changed.

    Args:
        function: called as function(layer, ...).
        device: on CUDA, inductor tries many kernels for every matrix product; recording graphs is left to `Stages`.
        backend: of torch.compile; "eager" and "aot_eager" compile nothing but show what would break.
    """
    tuned = backend == "inductor" and torch.device(device).type == "cuda"
    mode = "max-autotune-no-cudagraphs" if tuned else None
    return torch.compile(function, dynamic=False, fullgraph=True, backend=backend, mode=mode)  # type: ignore[return-value]


def no_recompile() -> AbstractContextManager[Any]:
    """While it is entered, whatever would have to be compiled again raises RuntimeError. For after the warm-up."""
    return torch.compiler.set_stance("fail_on_recompile")
