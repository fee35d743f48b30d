"""Smaller weights for the language model: int8 and int4 through torchao, NF4 through bitsandbytes.

Only the weights of the linear layers inside the decoder are stored with fewer bits; they are 86 % of the 7B model. The
towers, the projector, the embedding and the head stay as they were loaded. A quantized model is close to the full one,
not equal to it: measure its success before a robot depends on it.
"""

import difflib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from openvla_core.errors import CheckpointError, ConfigError
from openvla_core.model import OpenVLA

logger = logging.getLogger(__name__)

QUANTIZATIONS = ("none", "int8", "int4", "nf4")
GROUP_SIZES = (128, 64, 32)
NF4_BLOCK = 64
# What the packing kernels of int4 ask of the other side of a weight.
INT4_OUTPUT_MULTIPLE = 16

Quantizer = Callable[[nn.Linear], nn.Linear]


def check_quantization(mode: str) -> None:
    """Raises ConfigError, nearest choice first, unless mode is one of `QUANTIZATIONS`."""
    if mode not in QUANTIZATIONS:
        nearest = difflib.get_close_matches(str(mode).lower(), QUANTIZATIONS, n=len(QUANTIZATIONS), cutoff=0.0)
        raise ConfigError(f"quantization is {mode!r}; choose one of: {', '.join(nearest)}.")


def quantize_language_model(model: OpenVLA, mode: str, device: str | torch.device | None = None) -> None:
    """Replaces the weights of the decoder's linear layers, in place and one after the other.

    At any time at most one layer exists in both forms. With `device`, the whole model ends up there and each layer is
    quantized right after it arrived, so that a GPU never holds the full-size weights.

    Args:
        model: in float32, bfloat16 or float16, not yet quantized, an adapter merged rather than attached.
        mode: "int8", "int4", "nf4"; or "none", which only moves.
        device: where the model goes; None leaves it where it is.

    Raises:
        ConfigError: the mode is unknown or does not fit the device, the dtype or the sizes of the model.
        CheckpointError: the package that does the work is missing, or the model is no longer in its published form.
    """
    check_quantization(mode)
    target = torch.device(device) if device is not None else model.language_model.lm_head.weight.device
    if mode != "none":
        layers = list(decoder_linears(model))
        _check_untouched(layers)
        quantize = _quantizer(mode, target, model.language_model.lm_head.weight.dtype, layers)
        for name, parent, attribute in layers:
            linear = getattr(parent, attribute).to(target)
            setattr(parent, attribute, _quantized(quantize, linear, name))
    # What is quantized is there already, and the others are moved without touching it.
    for module in model.modules():
        if not is_quantized(module):
            _move_own_tensors(module, target)


def decoder_linears(model: OpenVLA) -> Iterator[tuple[str, nn.Module, str]]:
    """(full name, parent module, attribute) of every linear layer inside the decoder, in the order of the layers."""
    for index, layer in enumerate(model.language_model.model.layers):
        for part in ("self_attn", "mlp"):
            parent = getattr(layer, part)
            for attribute, _ in list(parent.named_children()):
                if attribute.endswith("_proj"):
                    yield f"layers.{index}.{part}.{attribute}", parent, attribute


def is_quantized(module: nn.Module) -> bool:
    """Whether this very layer holds a quantized weight."""
    weight = module._parameters.get("weight")
    return weight is not None and (hasattr(weight, "__tensor_flatten__") or hasattr(weight, "quant_state"))


def stored_bytes(module: nn.Module) -> int:
    """Bytes its parameters really occupy, with the scales of quantized weights."""
    return sum(sum(part.numel() * part.element_size() for part in _parts(p)) for p in module.parameters())


def group_size_for(in_features: int) -> int | None:
    """The largest int4 group that divides the inputs of a layer; None when there is none."""
    return next((size for size in GROUP_SIZES if in_features % size == 0), None)


def linear_bytes(mode: str, out_features: int, in_features: int, dtype: torch.dtype, on_cuda: bool = False) -> int:
    """Bytes of one weight (out_features, in_features): packed values, scales and offsets.

    int8: a byte each, and per row a float32 scale and one byte of offset. int4: half a byte each, and per group of 128
    (64, 32) inputs a scale and an offset in `dtype`; the CUDA kernel pads inputs to a multiple of 1024. nf4: half a
    byte each, a byte per block of 64, and per 256 blocks a float32, with two small tables.
    """
    count = out_features * in_features
    if mode == "none":
        return count * dtype.itemsize
    if mode == "int8":
        return count + out_features * (4 + 1)
    if mode == "int4":
        group = group_size_for(in_features)
        if group is None:
            raise ConfigError(_no_group(f"a layer with {in_features} inputs"))
        padded = -(-in_features // 1024) * 1024 if on_cuda else in_features
        return out_features * padded // 2 + out_features * (padded // group) * 2 * dtype.itemsize
    if mode == "nf4":
        blocks = -(-count // NF4_BLOCK)
        tables = (16 + 256 + 1) * 4
        return -(-count // 2) + blocks + -(-blocks // 256) * 4 + tables
    raise ConfigError(f"quantization is {mode!r}; choose one of: {', '.join(QUANTIZATIONS)}.")


def _quantizer(
    mode: str, device: torch.device, dtype: torch.dtype, layers: list[tuple[str, nn.Module, str]]
) -> Quantizer:
    """What turns one linear layer into a quantized one; everything that can be refused is refused here."""
    if mode == "nf4":
        return _nf4_quantizer(device, dtype)
    if mode == "int8":
        config = _torchao().Int8WeightOnlyConfig(set_inductor_config=False)
        return lambda linear: _by_torchao(linear, config)
    for name, parent, attribute in layers:
        linear = getattr(parent, attribute)
        if group_size_for(linear.in_features) is None:
            raise ConfigError(_no_group(f"{name} has {linear.in_features} inputs"))
        if linear.out_features % INT4_OUTPUT_MULTIPLE:
            raise ConfigError(
                f"int4 needs outputs in multiples of {INT4_OUTPUT_MULTIPLE}; {name} has {linear.out_features}. "
                "Choose quantization 'int8' or 'none'."
            )
    make_config = _int4_config(device, dtype)
    return lambda linear: _by_torchao(linear, make_config(group_size_for(linear.in_features)))


def _no_group(what: str) -> str:
    sizes = ", ".join(map(str, GROUP_SIZES))
    return f"int4 shares a scale among groups of {sizes} inputs; {what}. Choose quantization 'int8' or 'none'."


def _torchao() -> Any:
    # On import it reports every optional kernel it was not built for; none of them is used here.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    try:
        import torchao.quantization
    except ImportError as error:
        raise CheckpointError(
            f"quantization 'int8' and 'int4' need the package torchao ({error}). Install it: pip install torchao."
        ) from error
    return torchao.quantization


def _int4_config(device: torch.device, dtype: torch.dtype) -> Callable[[int | None], Any]:
    torchao = _torchao()
    if device.type == "cuda":
        if dtype != torch.bfloat16:
            raise ConfigError(f"int4 on CUDA computes in bfloat16; dtype is {dtype}. Set dtype to bfloat16.")
        return lambda group: torchao.Int4WeightOnlyConfig(
            group_size=group, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
    if device.type != "cpu":
        raise ConfigError(f"int4 runs on CPU and CUDA, not on {device}. Choose quantization 'int8' or 'none'.")
    try:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    except ImportError as error:
        raise CheckpointError(
            f"this torchao has no int4 kernel for the CPU ({error}). Install torchao 0.18 or choose 'int8'."
        ) from error
    if dtype != torch.bfloat16:
        logger.warning("int4 on a CPU is many times slower in %s than in bfloat16; set dtype to bfloat16.", dtype)
    return lambda group: PrototypeInt4WeightOnlyConfig(group_size=group, set_inductor_config=False)


def _by_torchao(linear: nn.Linear, config: Any) -> nn.Linear:
    _torchao().quantize_(linear, config)
    return linear


def _nf4_quantizer(device: torch.device, dtype: torch.dtype) -> Quantizer:
    if device.type != "cuda":
        raise ConfigError(
            f"quantization 'nf4' needs a CUDA device; device is {str(device)!r}. On a CPU choose 'int8' or 'int4'."
        )
    if not torch.cuda.is_available():
        raise ConfigError("quantization 'nf4' needs a CUDA device and torch finds none here. Choose 'int8' or 'int4'.")
    return nf4_on(device, dtype)


def nf4_on(device: torch.device, dtype: torch.dtype) -> Quantizer:
    """Turns linear layers into NF4 with double-quantized scales that compute in `dtype`. Needs bitsandbytes."""
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise CheckpointError(
            f"quantization 'nf4' needs the package bitsandbytes ({error}). Install it: pip install bitsandbytes."
        ) from error

    def quantize(linear: nn.Linear) -> nn.Linear:
        # Built on meta: only the layer's own weight ever takes memory, and moving it there quantizes it.
        layer = Linear4bit(
            linear.in_features, linear.out_features, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
        )
        layer.weight = Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", blocksize=NF4_BLOCK, module=layer
        ).to(device)
        return layer.eval()

    return quantize


def _quantized(quantize: Quantizer, linear: nn.Linear, name: str) -> nn.Linear:
    try:
        layer = quantize(linear)
    except (RuntimeError, ValueError, ImportError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"{name} cannot be quantized: {error}. Choose another quantization or device.") from error
    if not is_quantized(layer):
        raise ConfigError(f"{name} {tuple(linear.weight.shape)} was left unquantized. Choose another quantization.")
    return layer


def _check_untouched(layers: list[tuple[str, nn.Module, str]]) -> None:
    for name, parent, attribute in layers:
        layer = getattr(parent, attribute)
        if is_quantized(layer):
            raise CheckpointError(f"{name} is quantized already. Load the checkpoint again with another quantization.")
        if type(layer) is not nn.Linear:
            raise CheckpointError(
                f"{name} is a {type(layer).__name__}, not a plain linear layer. Merge the adapter before quantizing."
            )


def _move_own_tensors(module: nn.Module, device: torch.device) -> None:
    for parameter in module._parameters.values():
        if parameter is not None:
            parameter.data = parameter.data.to(device)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = buffer.to(device)


def _parts(parameter: Tensor) -> list[Tensor]:
    """The plain tensors a parameter is stored as."""
    if hasattr(parameter, "__tensor_flatten__"):
        return [part for name in parameter.__tensor_flatten__()[0] for part in _parts(getattr(parameter, name))]
    state = getattr(parameter, "quant_state", None)
    return [parameter.data, *_state_parts(state)] if state is not None else [parameter]


def _state_parts(state: Any) -> list[Tensor]:
    """Scales and tables of a bitsandbytes weight; with double quantization they have such a state themselves."""
    own = [part for part in (state.absmax, state.code, state.offset) if isinstance(part, Tensor)]
    return own + (_state_parts(state.state2) if getattr(state, "state2", None) is not None else [])
