"""A model of any size with random weights that are made on the device: no checkpoint, no file, no wait."""

import hashlib

import torch
from torch import Tensor, nn

from openvla_core.action_tokenizer import BINS
from openvla_core.model import OpenVLA, OpenVLAConfig

STD = 0.02
# Rows of the head for actions, against those for text: the best token is then an action token, as after training.
ACTION_SCALE = 4.0


def random_model(config: OpenVLAConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> OpenVLA:
    """Normal numbers of standard deviation 0.02, biases 0, norms and LayerScale 1; every tensor from its own seed.

    LayerScale as small as DINOv2 begins with would hide its tower. The head prefers action tokens, and end of sequence
    has logit 0, so that no answer ends early.
    """
    with torch.device("meta"):
        model = OpenVLA(config)
    _to_empty(model, device, dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _fill(name, parameter, seed)
        head = model.language_model.lm_head.weight
        head[config.action_vocab_size - BINS : config.action_vocab_size].mul_(ACTION_SCALE)
        head[config.language.eos_token_id].zero_()
    llama = model.language_model.model
    llama.rotary_emb = type(llama.rotary_emb)(config=model.language_model.config).to(device)
    return model.eval().requires_grad_(False)


def checksum(model: nn.Module) -> str:
    """SHA-256 over name, shape, dtype and two sums of the bits of every tensor; computed where the tensors are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        bits = tensor.detach().reshape(-1).view(_integers(tensor.dtype))
        sums = (int(bits.sum(dtype=torch.int64)), int(bits[::7].sum(dtype=torch.int64)))
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {sums}\n".encode())
    return digest.hexdigest()


def _to_empty(model: OpenVLA, device: torch.device, dtype: torch.dtype) -> None:
    """Memory for every parameter in `dtype`; buffers are computed and keep theirs."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty_like(parameter, device=device, dtype=dtype))


def _fill(name: str, parameter: Tensor, seed: int) -> None:
    if name.endswith(".bias"):
        parameter.zero_()
    elif parameter.ndim == 1:  # norms and LayerScale
        parameter.fill_(1.0)
    else:
        number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6], "big")
        parameter.normal_(0.0, STD, generator=torch.Generator(parameter.device).manual_seed(number))


def _integers(dtype: torch.dtype) -> torch.dtype:
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
