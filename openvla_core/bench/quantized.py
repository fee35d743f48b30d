"""The same model with smaller decoder weights; everything that is not quantized is shared with the original."""

import copy
import warnings

import torch

from openvla_core.errors import ConfigError
from openvla_core.model import OpenVLA
from openvla_core.quantization import decoder_linears, quantize_language_model

FORMATS = ("int8", "int4", "nf4", "fp8")
FP8_SINCE = (8, 9)  # compute capability of the first GPUs with 8-bit floats


def quantized_copy(model: OpenVLA, mode: str) -> OpenVLA:
    """A model whose decoder layers hold `mode` weights. The rest of its parameters are those of `model` themselves.

    Raises ConfigError or CheckpointError where this machine or these sizes do not allow it.
    """
    shared = {id(parameter): parameter for parameter in model.parameters()}
    twin = copy.deepcopy(model, memo=shared)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if mode == "fp8":
            _to_fp8(twin)
        else:
            quantize_language_model(twin, mode, model.language_model.lm_head.weight.device)
    return twin


def _to_fp8(model: OpenVLA) -> None:
    device = model.language_model.lm_head.weight.device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FP8_SINCE:
        raise ConfigError("fp8 needs a GPU with 8-bit floats (compute capability 8.9 or newer). Choose 'int8' here.")
    try:
        from torchao.quantization import Float8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ConfigError(f"fp8 needs the package torchao ({error}). Install it: pip install torchao.") from error
    for _, parent, attribute in list(decoder_linears(model)):
        quantize_(getattr(parent, attribute), Float8WeightOnlyConfig())
