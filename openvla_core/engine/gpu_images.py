"""The pixels of the image processor, to the last bit, made on the device that will look at them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openvla_core.engine.resample import FILTERS, ONE, resample, resize_matrix
from openvla_core.image_processor import (
    ImageProcessor,
    TowerTransform,
    as_rgb,
    center_crop,
    letterbox,
    resize,
    resized_shape,
)

KEPT = 4  # shapes of frames that are prepared for at a time
LONGEST = 4096  # pixels; longer sides, before or after resizing, are left to the image processor

logger = logging.getLogger(__name__)


def fast_processor(image_processor: ImageProcessor, device: torch.device | str) -> "DeviceImages | None":
    """The same pixels made on the device; None where that is a CPU, or for a filter that only Pillow has here."""
    if torch.device(device).type != "cuda" or not DeviceImages.can_do(image_processor):
        return None
    return DeviceImages(image_processor, device)


class DeviceImages:
    """Uploads a frame as bytes and resizes and normalises it there. Use it from one thread at a time."""

    def __init__(self, image_processor: ImageProcessor, device: torch.device | str) -> None:
        """image_processor: one for which `can_do` is true."""
        self.image_processor = image_processor
        self.device = torch.device(device)
        self._plans: dict[tuple[int, ...], _Plan | None] = {}

    @staticmethod
    def can_do(image_processor: ImageProcessor) -> bool:
        return all(tower.interpolation in FILTERS for tower in image_processor.towers)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Tensor:
        """image (H, W, 3) uint8 RGB -> (1, 3 per tower, S, S) float32 on the device, without waiting for it.

        Raises ImageError as the image processor does.
        """
        pixels = as_rgb(image)
        if pixels.shape not in self._plans:
            if len(self._plans) >= KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[pixels.shape] = _plan(self.image_processor, pixels.shape, self.device)
        plan = self._plans[pixels.shape]
        if plan is None:
            return torch.from_numpy(self.image_processor(image))[None].to(self.device)
        planes = plan.upload(pixels).permute(2, 0, 1).double()
        return torch.cat([view(planes) for view in plan.views])[None]


@dataclass(frozen=True)
class _View:
    """What towers that resize alike see: columns (W, w) and rows (h, H) float64, levels (3 per tower, 256) float32."""

    columns: Tensor | None
    rows: Tensor | None
    rows_first: bool
    levels: Tensor

    def __call__(self, planes: Tensor) -> Tensor:
        """planes (3, H, W) float64, whole numbers from 0 to 255 -> (3 per tower, h, w) float32."""
        seen = resample(planes, self.columns, self.rows, self.rows_first).long()
        towers = len(self.levels) // 3
        return self.levels.gather(1, seen.flatten(1).repeat(towers, 1)).view(3 * towers, *seen.shape[1:])


@dataclass(frozen=True)
class _Plan:
    """All that depends on the shape of the frames only."""

    upload: Callable[[np.ndarray], Tensor]
    views: tuple[_View, ...]


def _plan(processor: ImageProcessor, shape: tuple[int, ...], device: torch.device) -> _Plan | None:
    """None for shapes that the image processor does itself, or knows how to refuse."""
    if max(shape) > LONGEST:
        return None
    frame = np.zeros(shape, dtype=np.uint8)
    if processor.letterbox_fill is not None:
        frame = letterbox(frame, processor.letterbox_fill)
    views = []
    for towers in _alike(processor.towers):
        view = _view(towers, frame.shape[:2], device)
        if view is None:
            return None
        views.append(view)
    return _Plan(_Upload(frame, shape, device), tuple(views))


def _view(towers: list[TowerTransform], shape: tuple[int, ...], device: torch.device) -> _View | None:
    """Tried out on noise against Pillow itself, because versions of Pillow round in different orders."""
    resize_to, crop, interpolation = towers[0].resize, towers[0].crop, towers[0].interpolation
    size = resized_shape(shape, resize_to)
    if max(size) > LONGEST:
        return None
    rows, columns = (
        _cut(resize_matrix(old, new, interpolation), side) for old, new, side in zip(shape, size, crop, strict=True)
    )
    matrices = _on(columns.T, device), _on(rows, device)
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    planes = torch.from_numpy(noise).to(device).permute(2, 0, 1).double()
    wanted = torch.from_numpy(np.array(center_crop(resize(noise, resize_to, interpolation), crop)))
    wanted = wanted.permute(2, 0, 1).double().to(device)
    for rows_first in (False, True):
        if torch.equal(resample(planes, *matrices, rows_first), wanted):
            levels = torch.from_numpy(np.concatenate([tower.table for tower in towers])).to(device)
            return _View(*matrices, rows_first, levels)
    logger.warning("frames of %d x %d are resized on the CPU: this Pillow rounds otherwise", shape[1], shape[0])
    return None


def _alike(towers: tuple[TowerTransform, ...]) -> list[list[TowerTransform]]:
    """Neighbours that see the same pixels, together."""
    groups: list[list[TowerTransform]] = []
    for tower in towers:
        if groups and tower.shares_pixels_with(groups[-1][0]):
            groups[-1].append(tower)
        else:
            groups.append([tower])
    return groups


def _cut(matrix: np.ndarray, side: int) -> np.ndarray:
    """The lines of `matrix` (new, old) that a centre crop to `side` keeps; where it shows black, nothing but zeros."""
    kept = center_crop(np.arange(1, len(matrix) + 1)[:, None, None], (side, 1))[:, 0, 0]
    return np.concatenate([np.zeros_like(matrix[:1]), matrix])[kept]


def _on(matrix: np.ndarray, device: torch.device) -> Tensor | None:
    """None for one that changes nothing."""
    same = matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix)) * ONE)
    return None if same else torch.from_numpy(np.ascontiguousarray(matrix)).to(device)


class _Upload:
    """A host buffer, page-locked for a GPU, around every frame in turn; the bars of a letterbox stay in it."""

    def __init__(self, frame: np.ndarray, shape: tuple[int, ...], device: torch.device) -> None:
        """frame: (H', W', 3) uint8 with its bars filled in, around the place of an image of `shape`."""
        self._on_gpu = device.type == "cuda"
        self._buffer = torch.from_numpy(frame)
        self._copied: torch.cuda.Event | None = None
        if self._on_gpu:
            self._buffer = self._buffer.pin_memory()
            self._copied = torch.cuda.Event()
        top, left = ((have - side) // 2 for have, side in zip(frame.shape[:2], shape[:2], strict=True))
        self._middle = self._buffer.numpy()[top : top + shape[0], left : left + shape[1]]
        self._device = device

    def __call__(self, image: np.ndarray) -> Tensor:
        """image (H, W, 3) uint8 -> (H', W', 3) uint8 on the device, where it will be once the stream gets there."""
        if self._copied is not None:
            self._copied.synchronize()  # the frame before may still be on its way
        self._middle[:] = image
        uploaded = self._buffer.to(self._device, non_blocking=True)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self._device))
        return uploaded
