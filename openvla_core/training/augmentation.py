"""Image augmentation as the published fine-tunes had it: a random crop, then brightness, contrast, saturation and hue.

Images are (H, W, 3) float32 from 0 to 1, and every step clips to that range. A policy trained with the random crop must
be shown the centre crop afterwards (openvla_core.image_preparation); one trained without it must not.
"""

from dataclasses import dataclass

import numpy as np

from openvla_core.image_preparation import crop_and_resize, to_bytes, to_unit_range


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed; each number is drawn evenly from its range, anew for every image.

    crop_area: share of the area that is kept and enlarged again.
    brightness: largest number added or subtracted.
    contrast, saturation: smallest and largest factor.
    hue: largest turn of the colour circle in either direction, 1 being once around.
    """

    crop_area: float = 0.9
    brightness: float = 0.2
    contrast: tuple[float, float] = (0.8, 1.2)
    saturation: tuple[float, float] = (0.8, 1.2)
    hue: float = 0.05

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """pixels (H, W, 3) uint8 RGB -> the same shape, changed at random."""
        image = crop(to_unit_range(pixels), crop_box(self.crop_area, rng.random()))
        image = adjust_brightness(image, rng.uniform(-self.brightness, self.brightness))
        image = adjust_contrast(image, rng.uniform(*self.contrast))
        image = adjust_saturation(image, rng.uniform(*self.saturation))
        return np.ascontiguousarray(to_bytes(adjust_hue(image, rng.uniform(-self.hue, self.hue))))


def crop_box(area: float, place: float) -> tuple[float, float, float, float]:
    """Top, left, bottom, right of a crop of `area`, from 0 to 1; place 0 is top left, 1 bottom right.

    One number places the crop, not two: in the published pipeline both offsets come from the same random seed, so the
    crop only ever slides along the diagonal.
    """
    side = area**0.5
    start = place * (1.0 - side)
    return start, start, start + side, start + side


def crop(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """What is inside the box, enlarged to the size of the image."""
    return _clip(crop_and_resize(image, box, *image.shape[:2]))


def adjust_brightness(image: np.ndarray, delta: float) -> np.ndarray:
    """Adds `delta` to every channel."""
    return _clip(image + np.float32(delta))


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Stretches every channel about its mean."""
    result = _planes(image.shape)
    for channel, plane in enumerate(_channels(image)):
        mean = np.float32(plane.mean(dtype=np.float64))
        result[..., channel] = (plane - mean) * np.float32(factor) + mean
    return _clip(result)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the saturation of HSV, at most up to 1; the brightest channel and the hue stay."""
    brightest, _, chroma = _extremes(image)
    # The darkest channel reaches 0 where the saturation reaches 1.
    most = np.divide(brightest, chroma, out=np.ones_like(chroma), where=chroma > 0)
    most = np.minimum(np.float32(factor), most)
    result = _planes(image.shape)
    for channel, plane in enumerate(_channels(image)):
        result[..., channel] = brightest - (brightest - plane) * most
    return _clip(result)


def adjust_hue(image: np.ndarray, delta: float) -> np.ndarray:
    """Turns the colour circle by `delta`, 1 being once around; the brightest and the darkest value of a pixel stay."""
    _, darkest, chroma = _extremes(image)
    sixths = _hue(image, chroma) + np.float32(6.0 * (delta - round(delta)))
    result = _planes(image.shape)
    # Red is full within one sixth of 0 and gone beyond two; green and blue follow a third and two thirds later.
    for channel, later in enumerate((0.0, 4.0, 2.0)):
        turned = sixths + np.float32(later)  # from -4 to 12: once around at most
        turned = np.where(
            turned >= 6.0, turned - np.float32(6.0), np.where(turned < 0, turned + np.float32(6.0), turned)
        )
        share = np.clip(np.abs(turned - np.float32(3.0)) - np.float32(1.0), 0.0, 1.0)
        result[..., channel] = darkest + chroma * share
    return _clip(result)


def _hue(image: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """(H, W) in sixths of the colour circle: red 0, green 2, blue 4."""
    red, green, blue = _channels(image)
    is_red = (red >= green) & (red >= blue)
    is_green = ~is_red & (green >= blue)
    difference = np.where(is_red, green - blue, np.where(is_green, blue - red, red - green))
    ratio = np.divide(difference, chroma, out=np.zeros_like(chroma), where=chroma > 0)
    return ratio + np.where(is_red, np.float32(0.0), np.where(is_green, np.float32(2.0), np.float32(4.0)))


def _extremes(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The brightest and the darkest channel of every pixel and their difference, each (H, W)."""
    red, green, blue = _channels(image)
    brightest, darkest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return brightest, darkest, brightest - darkest


def _channels(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return image[..., 0], image[..., 1], image[..., 2]


def _planes(shape: tuple[int, ...]) -> np.ndarray:
    """An empty (H, W, 3) float32 image; in memory the rows of each channel lie together, which makes all steps fast."""
    height, width, channels = shape
    return np.empty((height, channels, width), dtype=np.float32).transpose(0, 2, 1)


def _clip(image: np.ndarray) -> np.ndarray:
    return np.clip(image, np.float32(0.0), np.float32(1.0))
