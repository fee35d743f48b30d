"""What is done to single layers: activations computed twice to save memory, and compilation.

Both replace the layer's own `forward`, so parameters keep their names and the hooks of FSDP stay around it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from openvla_core.training.distributed import layers
from openvla_core.training.loss import RowModel

# Results that cost much to compute again: of matrix products and attention. Norms, activations and sums are cheap.
KEPT = ("mm", "addmm", "bmm", "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention_for_cpu")  # fmt: skip


def rematerialize(module: RowModel, remat: str) -> None:
    """remat: "none"; "full" keeps only the input of each layer; "selective" also the results of KEPT operations."""
    if remat == "none":
        return
    contexts = partial(create_selective_checkpoint_contexts, _policy) if remat == "selective" else None
    for layer in layers(module):
        layer.forward = _checkpointed(layer.forward, contexts)


def compile_layers(module: RowModel) -> None:
    """Compiles each layer by itself: equal layers are compiled once, and nothing around them has to be understood."""
    for layer in layers(module):
        layer.forward = torch.compile(layer.forward, dynamic=False)


def _checkpointed(forward: Callable[..., Any], contexts: Any) -> Callable[..., Any]:
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if contexts is not None:
        options["context_fn"] = contexts

    def run(*arguments: Any, **named: Any) -> Any:
        return checkpoint(forward, *arguments, **options, **named)

    return run


def _policy(context: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    kept = operation.namespace == "aten" and operation._schema.name.removeprefix("aten::") in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
