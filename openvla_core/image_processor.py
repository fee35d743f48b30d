"""From a camera frame to the normalised pixels each vision tower was trained on. Needs numpy, Pillow and OpenCV."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from openvla_core.errors import CheckpointError, ImageError

STRATEGIES = ("resize-naive", "resize-crop", "letterbox")
BICUBIC = int(Image.Resampling.BICUBIC)
MAX_SIDE = 4096  # pixels a tower may ask for
MAX_PIXELS = 2**27  # of an image on the way to it; only extreme shapes come near

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
        except KeyError as error:
            raise CheckpointError(
                f"preprocessor_config.json has no {error}. Copy the file from the published checkpoint again."
            ) from error
        except ValueError as error:
            raise CheckpointError(f"preprocessor_config.json cannot be used: {error}.") from error

    def __call__(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """image (H, W, 3) uint8 RGB, or a PIL image -> (3 per tower, S, S) float32.

        Raises ImageError for anything else, and for shapes so narrow that their resized copy would not fit in memory.
        """
        pixels = self._padded(image)
        planes = np.empty((3 * len(self.towers), *self.towers[0].crop), dtype=np.float32)
        for index, tower in enumerate(self.towers):
            if not index or not tower.shares_pixels_with(self.towers[index - 1]):
                channels = cv2.split(_fitted(pixels, tower))
            for channel, levels in enumerate(tower.table):
                cv2.LUT(channels[channel], levels, dst=planes[3 * index + channel])
        return planes

    def resized(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """image (H, W, 3) uint8 RGB -> (S, S, 3) uint8, what the towers see before it is normalised.

        Raises ImageError as above, CheckpointError when the towers do not see the same pixels.
        """
        if not all(tower.shares_pixels_with(self.towers[0]) for tower in self.towers):
            raise CheckpointError("the towers of this checkpoint resize differently; their pixels cannot be shared.")
        return _fitted(self._padded(image), self.towers[0])

    def _padded(self, image: np.ndarray | Image.Image) -> np.ndarray:
        pixels = as_rgb(image)
        return pixels if self.letterbox_fill is None else letterbox(pixels, self.letterbox_fill)


def _fitted(pixels: np.ndarray, tower: TowerTransform) -> np.ndarray:
    return center_crop(resize(pixels, tower.resize, tower.interpolation), tower.crop)


def as_rgb(image: np.ndarray | Image.Image) -> np.ndarray:
    """Returns the image as (H, W, 3) uint8 RGB. Raises ImageError for any other array.

    Gray, RGBA and float arrays are refused rather than guessed at. Whether red or blue comes first cannot be seen:
    openvla_core.images turns camera frames into RGB. A PIL image knows what it is, and is converted.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"the image is {given}; expected uint8 (H, W, 3) in RGB order.")
    if not image.size:
        raise ImageError(f"the image is empty: {image.shape}; expected uint8 (H, W, 3) in RGB order.")
    return image


def resize(pixels: np.ndarray, size: tuple[int, int] | int, interpolation: int = BICUBIC) -> np.ndarray:
    """(H, W, 3) uint8 -> (h, w, 3) uint8, antialiased. A single number is the new length of the shorter side."""
    height, width = resized_shape(pixels.shape[:2], size)
    if (height, width) == pixels.shape[:2]:
        return pixels
    _check_fits(pixels, (height, width))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling(interpolation)))


def resized_shape(shape: tuple[int, ...], size: tuple[int, int] | int) -> tuple[int, int]:
    """(height, width) of an image of that shape after `resize`."""
    if not isinstance(size, int):
        return size
    shorter, longer = sorted(shape)
    stretched = int(size * longer / shorter)
    return (stretched, size) if shape[0] > shape[1] else (size, stretched)


def center_crop(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) -> (h, w, 3) from the middle; half pixels round to even and what is missing is black."""
    missing = [max(want - have, 0) for have, want in zip(pixels.shape[:2], size, strict=True)]
    if any(missing):
        pixels = np.pad(pixels, [(gap // 2, gap - gap // 2) for gap in missing] + [(0, 0)])
    top, left = (round((have - want) / 2.0) for have, want in zip(pixels.shape[:2], size, strict=True))
    return pixels[top : top + size[0], left : left + size[1]]


def letterbox(pixels: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
    """Pads the shorter side equally at both ends towards a square; an odd difference leaves one pixel missing."""
    height, width = pixels.shape[:2]
    top, left = ((max(height, width) - side) // 2 for side in (height, width))
    _check_fits(pixels, (height + 2 * top, width + 2 * left))
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


def _check_fits(pixels: np.ndarray, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(
            f"an image of {pixels.shape[1]} x {pixels.shape[0]} pixels would grow to {size[1]} x {size[0]} here; "
            "crop it to a less extreme shape."
        )


def _read(values: Mapping[str, Any]) -> tuple[list[TowerTransform], tuple[int, int, int] | None]:
    strategy = values["image_resize_strategy"]
    if strategy not in STRATEGIES:
        raise ValueError(f"image_resize_strategy is {_short(strategy)}; choose one of {', '.join(STRATEGIES)}")
    towers = [_read_tower(values, index, strategy) for index in range(len(_list(values["input_sizes"], "input_sizes")))]
    if not towers:
        raise ValueError("input_sizes is empty; expected one size per tower")
    if len({tower.crop for tower in towers}) > 1:
        raise ValueError("the towers are given different sizes; expected one, because their pixels share a tensor")
    do_letterbox = values.get("tvf_do_letterbox", strategy == "letterbox")
    if not isinstance(do_letterbox, bool):
        raise ValueError(f"tvf_do_letterbox is {_short(do_letterbox)}; expected true or false")
    return towers, _letterbox_fill(values) if do_letterbox else None


def _letterbox_fill(values: Mapping[str, Any]) -> tuple[int, int, int]:
    """One fill for all towers: the last one's mean, as in the published processor."""
    fill = values.get("tvf_letterbox_fill")
    if fill is None:
        fill = [255 * mean for mean in _three(_list(values["means"], "means")[-1], "means")]
    red, green, blue = (int(level) for level in _three(fill, "tvf_letterbox_fill"))
    if not all(0 <= level <= 255 for level in (red, green, blue)):
        raise ValueError(f"the letterbox fill is {red}, {green}, {blue}; expected grey levels from 0 to 255")
    return red, green, blue


def _read_tower(values: Mapping[str, Any], index: int, strategy: str) -> TowerTransform:
    def of_tower(key: str) -> Any:
        entries = _list(values[key], key)
        if index >= len(entries):
            raise ValueError(f"{key} has {len(entries)} entries; expected one per tower")
        return entries[index]

    def stored(key: str) -> Mapping[str, Any]:
        params = {} if values.get(key) is None else of_tower(key)
        if not isinstance(params, Mapping):
            raise ValueError(f"{key} holds {_short(params)}; expected names and values")
        return params

    shape = _list(of_tower("input_sizes"), "input_sizes")
    if len(shape) != 3 or shape[0] != 3:
        raise ValueError(f"input_sizes holds {_short(shape)}; expected 3 channels, height and width")
    input_size = _sides(shape[1:], "input_sizes")
    resize_params, normalize = stored("tvf_resize_params"), stored("tvf_normalize_params")
    if resize_params.get("max_size") is not None:
        raise ValueError("tvf_resize_params has a max_size, which no OpenVLA checkpoint uses; expected null")
    # The shorter side fills the crop.
    size = resize_params.get("size", input_size if strategy == "resize-naive" else max(input_size))
    mean, std = (normalize[key] if normalize else of_tower(f"{key}s") for key in ("mean", "std"))
    interpolation = resize_params.get("interpolation")
    if interpolation is None:
        interpolation = of_tower("interpolations") if "interpolations" in values else BICUBIC
    return TowerTransform(
        resize=_resize_size(size),
        crop=_sides(stored("tvf_crop_params").get("output_size", input_size), "tvf_crop_params"),
        interpolation=_interpolation(interpolation),
        table=_normalized_levels(_three(mean, "mean"), _three(std, "std")),
    )


def _normalized_levels(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(3, 256) float32: only 256 grey levels exist, so each is scaled and normalised once, in float32."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255.0)
    with np.errstate(all="ignore"):
        mean32, std32 = (np.array(values, dtype=np.float64).astype(np.float32)[:, None] for values in (mean, std))
        table = (levels - mean32) / std32
    if not (std32 > 0).all() or not np.isfinite(table).all():
        raise ValueError(f"mean {list(mean)} and std {list(std)} do not normalise; expected std above 0")
    return table


def _resize_size(value: Any) -> tuple[int, int] | int:
    if _is_side(value):
        return value
    sides = _list(value, "tvf_resize_params")
    return sides[0] if len(sides) == 1 and _is_side(sides[0]) else _sides(sides, "tvf_resize_params")


def _sides(value: Any, name: str) -> tuple[int, int]:
    sides = _list(value, name)
    if len(sides) != 2 or not all(_is_side(side) for side in sides):
        raise ValueError(f"{name} gives the size {_short(value)}; expected height and width from 1 to {MAX_SIDE}")
    return sides[0], sides[1]


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIDE


def _three(value: Any, name: str) -> list[float]:
    numbers = _list(value, name)
    if len(numbers) != 3 or not all(type(n) in (int, float) and abs(n) < 1e6 and math.isfinite(n) for n in numbers):
        raise ValueError(f"{name} is {_short(value)}; expected three numbers")
    return numbers


def _interpolation(value: Any) -> int:
    """Pillow's number of a filter given by number or by name."""
    known = {int(method) for method in Image.Resampling} | {method.name.lower() for method in Image.Resampling}
    if type(value) not in (int, str) or value not in known:
        names = ", ".join(method.name.lower() for method in Image.Resampling)
        raise ValueError(f"interpolation is {_short(value)}; choose one of {names}")
    return int(Image.Resampling[value.upper()] if isinstance(value, str) else value)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} is {_short(value)}; expected a list")
    return list(value)


def _short(value: Any) -> str:
    return repr(value)[:80]
