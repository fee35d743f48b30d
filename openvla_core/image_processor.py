"""From a camera frame to the normalised pixels each vision tower was trained on. Needs numpy and Pillow only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from openvla_core.errors import CheckpointError, ImageError

STRATEGIES = ("resize-naive", "resize-crop", "letterbox")
BICUBIC = int(Image.Resampling.BICUBIC)

# DINOv2's mean and std as published checkpoints store them: rounded to bfloat16 by the tool that converted them.
DINOV2_MEAN, DINOV2_STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class TowerTransform:
    """How one tower sees the image. `resize` is (height, width), or one number for the shorter side."""

    resize: tuple[int, int] | int
    crop: tuple[int, int]
    interpolation: int
    table: np.ndarray  # (3, 256) float32: the normalised value of each grey level, per channel

    def shares_pixels_with(self, other: "TowerTransform") -> bool:
        return (self.resize, self.crop, self.interpolation) == (other.resize, other.crop, other.interpolation)


class ImageProcessor:
    """Resizes as the checkpoint asks and stacks one normalised copy per tower on the channel axis."""

    def __init__(self, towers: Sequence[TowerTransform], letterbox_fill: tuple[int, int, int] | None = None) -> None:
        self.towers = tuple(towers)
        self.letterbox_fill = letterbox_fill

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImageProcessor":
        """Reads a parsed preprocessor_config.json; where it stores exact transforms, those win over the summary."""
        try:
            return cls(*_read(values))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"preprocessor_config.json is incomplete: {error!r}. "
                "Expected input_sizes, means and stds, one per tower."
            ) from error

    def __call__(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """image (H, W, 3) uint8 RGB, or a PIL image -> (3 per tower, S, S) float32. Raises ImageError."""
        pixels = as_rgb(image)
        if self.letterbox_fill is not None:
            pixels = letterbox(pixels, self.letterbox_fill)
        planes: list[np.ndarray] = []
        for index, tower in enumerate(self.towers):
            if not index or not tower.shares_pixels_with(self.towers[index - 1]):
                resized = center_crop(resize(pixels, tower.resize, tower.interpolation), tower.crop)
            planes += [levels[resized[:, :, channel]] for channel, levels in enumerate(tower.table)]
        return np.stack(planes)


def as_rgb(image: np.ndarray | Image.Image) -> np.ndarray:
    """Returns the image as (H, W, 3) uint8 RGB. Raises ImageError for any other array."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"the image is {given}; expected uint8 (H, W, 3) in RGB order.")
    if not image.size:
        raise ImageError(f"the image is empty: {image.shape}; expected uint8 (H, W, 3) in RGB order.")
    return image


def resize(pixels: np.ndarray, size: tuple[int, int] | int, interpolation: int = BICUBIC) -> np.ndarray:
    """(H, W, 3) uint8 -> (h, w, 3) uint8, antialiased. A single number is the new length of the shorter side."""
    height, width = pixels.shape[:2]
    if isinstance(size, int):
        shorter, longer = sorted((height, width))
        stretched = int(size * longer / shorter)
        size = (stretched, size) if height > width else (size, stretched)
    if size == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling(interpolation)))


def center_crop(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) -> (h, w, 3) from the middle; half pixels round to even, as in torchvision."""
    top, left = (round((have - want) / 2.0) for have, want in zip(pixels.shape[:2], size, strict=True))
    return pixels[top : top + size[0], left : left + size[1]]


def letterbox(pixels: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
    """Pads the shorter side equally at both ends towards a square; an odd difference leaves one pixel missing."""
    height, width = pixels.shape[:2]
    top, left = ((max(height, width) - side) // 2 for side in (height, width))
    padded = np.empty((height + 2 * top, width + 2 * left, 3), dtype=np.uint8)
    padded[:] = fill
    padded[top : top + height, left : left + width] = pixels
    return padded


def preprocessor_config(image_size: int, towers: int = 2, strategy: str = "resize-naive") -> dict[str, Any]:
    """A preprocessor_config.json for a new checkpoint: DINOv2 then SigLIP, or SigLIP alone."""
    means = [list(SIGLIP_MEAN)] if towers == 1 else [list(DINOV2_MEAN), list(SIGLIP_MEAN)]
    stds = [list(SIGLIP_STD)] if towers == 1 else [list(DINOV2_STD), list(SIGLIP_STD)]
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "use_fused_vision_backbone": towers == 2,
        "image_resize_strategy": strategy,
        "input_sizes": [[3, image_size, image_size]] * towers,
        "interpolations": ["bicubic"] * towers,
        "means": means,
        "stds": stds,
    }


def _read(values: Mapping[str, Any]) -> tuple[list[TowerTransform], tuple[int, int, int] | None]:
    strategy = values.get("image_resize_strategy", "resize-naive")
    if strategy not in STRATEGIES:
        raise CheckpointError(f"image_resize_strategy is {strategy!r}; choose one of {', '.join(STRATEGIES)}.")
    count = len(values["input_sizes"])
    towers = [_read_tower(values, index, strategy) for index in range(count)]
    if not values.get("tvf_do_letterbox", strategy == "letterbox"):
        return towers, None
    # One fill for all towers: the last one's mean, as in the published processor.
    fill = values.get("tvf_letterbox_fill") or [int(255 * mean) for mean in values["means"][-1]]
    return towers, (int(fill[0]), int(fill[1]), int(fill[2]))


def _read_tower(values: Mapping[str, Any], index: int, strategy: str) -> TowerTransform:
    def stored(key: str) -> Mapping[str, Any]:
        entries = values.get(key)
        return entries[index] if entries else {}

    _, height, width = values["input_sizes"][index]
    normalize = stored("tvf_normalize_params") or {"mean": values["means"][index], "std": values["stds"][index]}
    size = stored("tvf_resize_params").get("size", [height, width] if strategy == "resize-naive" else height)
    if not isinstance(size, int):
        size = (int(size[0]), int(size[1])) if len(size) == 2 else int(size[0])
    crop_height, crop_width = stored("tvf_crop_params").get("output_size", [height, width])
    summary = values.get("interpolations", ["bicubic"] * 2)[index]
    interpolation = stored("tvf_resize_params").get("interpolation", summary)
    if isinstance(interpolation, str):
        interpolation = int(Image.Resampling[interpolation.upper()])
    table = _normalized_levels(normalize["mean"], normalize["std"])
    return TowerTransform(size, (int(crop_height), int(crop_width)), int(interpolation), table)


def _normalized_levels(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(3, 256) float32: only 256 grey levels exist, so each is scaled and normalised once, in float32."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255.0)
    mean32, std32 = (np.array(values, dtype=np.float32)[:, None] for values in (mean, std))
    if mean32.shape != (3, 1) or std32.shape != (3, 1) or not (std32 > 0).all():
        raise ValueError(f"mean {list(mean)} and std {list(std)} must be three numbers each, std above 0")
    return (levels - mean32) / std32
