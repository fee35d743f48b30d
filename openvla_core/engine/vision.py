"""From pixels to projected patches, with the two towers side by side where there is a GPU."""

import torch
from torch import Tensor

from openvla_core.model import OpenVLA
from openvla_core.model.vision_backbone import RunBlock, run_block


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
        return model.projector(backbone.featurizer(pixels, block))
    first, second = pixels.split(3, dim=1)
    if side is None:
        features = [backbone.featurizer(first, block), backbone.fused_featurizer(second, block)]
        return model.projector(torch.cat(features, dim=2))
    main = torch.cuda.current_stream(pixels.device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        right = backbone.fused_featurizer(second, block)
    left = backbone.featurizer(first, block)
    # `pixels` and `right` are held until both streams have met; no memory of theirs is given away before.
    main.wait_stream(side)
    return model.projector(torch.cat([left, right], dim=2))
