"""Small episodes for the tests of shards, loader and examples: all follows from a seed."""

import cv2
import numpy as np

from openvla_core.datasets.episode import PRIMARY, EncodedFrames, Episode, PixelFrames


class Episodes:
    """An EpisodeSource in memory."""

    def __init__(self, name: str, episodes: list[Episode]) -> None:
        self.name, self._episodes = name, episodes

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> Episode:
        return self._episodes[index]

    def __iter__(self):
        return iter(self._episodes)


def made(name: str, lengths: list[int], seed: int = 0, side: int = 32, encoded: bool = True) -> Episodes:
    """Episodes of these lengths; odd ones are told to take the blue cube, even ones the red one."""
    rng = np.random.default_rng(seed)
    return Episodes(name, [_episode(rng, f"{name}_{i}", i, steps, side, encoded) for i, steps in enumerate(lengths)])


def _episode(rng: np.random.Generator, name: str, number: int, steps: int, side: int, encoded: bool) -> Episode:
    pixels = [picture(rng, side) for _ in range(steps)]
    return Episode(
        name=name,
        instruction=f"pick up the {'blue' if number % 2 else 'red'} cube",
        images={PRIMARY: EncodedFrames([jpeg(image) for image in pixels]) if encoded else PixelFrames(pixels)},
        actions=rng.normal(0, 0.02, (steps, 7)).astype(np.float32),
        state={"pose": np.full((steps, 7), number, dtype=np.float32)},
        times_s=np.arange(steps) / 5.0,
        rate_hz=5.0,
    )


def picture(rng: np.random.Generator, side: int) -> np.ndarray:
    """(side, side, 3) uint8: coarse colours, as a scene has them rather than noise."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
