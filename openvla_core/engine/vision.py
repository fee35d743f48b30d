"""From pixels to projected patches, with the two towers side by side where there is a GPU."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from openvla_core.model import OpenVLA
from openvla_core.model.vision_backbone import VisionTransformer

RunBlock = Callable[[nn.Module, Tensor], Tensor]


def run_block(block: nn.Module, x: Tensor) -> Tensor:
    """One block of a tower: x (B, N, D) -> (B, N, D)."""
    return block(x)


def side_stream(model: OpenVLA) -> torch.cuda.Stream | None:
    """A stream for the second tower, made once; None where there is no GPU or no second tower."""
    device = model.projector.fc1.weight.device
    fused = len(model.config.towers) == 2
    return torch.cuda.Stream(device) if fused and device.type == "cuda" else None


def encode_image(
    model: OpenVLA, pixel_values: Tensor, side: torch.cuda.Stream | None = None, block: RunBlock = run_block
) -> Tensor:
    """The result of `model.encode_image`, to the last bit on a CPU.

    One tower alone leaves most of a large GPU idle, because an image has only a few hundred patches. The fork and the
    join are events, so a CUDA graph records them too.

    Args:
        pixel_values: (B, 3 per tower, S, S), normalised by the image processor.
        side: stream of the second tower, from `side_stream`; None runs the towers one after the other.
        block: how a block is run, for compiled ones.

    Returns:
        (B, P, D_llm) in the dtype of the weights. Raises ImageError for pixel_values of another shape.
    """
    backbone, size = model.vision_backbone, model.config.towers[0].image_size
    if pixel_values.shape[1:] != (model.config.channels, size, size):
        return model.encode_image(pixel_values)  # which says what is wrong
    pixels = pixel_values.to(model.projector.fc1.weight.dtype)
    if not hasattr(backbone, "fused_featurizer"):
        return model.projector(_patches(backbone.featurizer, pixels, block))
    first, second = pixels.split(3, dim=1)
    if side is None:
        features = [_patches(backbone.featurizer, first, block), _patches(backbone.fused_featurizer, second, block)]
        return model.projector(torch.cat(features, dim=2))
    main = torch.cuda.current_stream(pixels.device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        right = _patches(backbone.fused_featurizer, second, block)
    left = _patches(backbone.featurizer, first, block)
    # `pixels` and `right` are held until both streams have met; no memory of theirs is given away before.
    main.wait_stream(side)
    return model.projector(torch.cat([left, right], dim=2))


def _patches(tower: VisionTransformer, pixels: Tensor, block: RunBlock) -> Tensor:
    """`VisionTransformer.forward` with a choice of how a block is run; the last block is left out there too."""
    x = tower.patch_embed(pixels) + tower.pos_embed
    if tower.config.prefix_tokens:
        prefix = torch.cat([tower.cls_token, tower.reg_token], dim=1)
        x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)
    for layer in tower.blocks[:-1]:
        x = block(layer, x)
    return x[:, tower.config.prefix_tokens :]
