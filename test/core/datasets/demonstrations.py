"""Synthetic demonstrations for the tests of file formats, and what it means that two are the same."""

import cv2
import numpy as np

from openvla_core.datasets.episode import EncodedFrames, Episode, PixelFrames

RATE_HZ = 5.0
CARD = {"name": "sim_tabletop", "rate_hz": 5.0, "gripper": {"open": 1.0, "closed": 0.0, "threshold": 0.5}}


def smooth_pictures(steps: int, seed: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """(steps, H, W, 3) uint8: a scene with soft colours in which something moves."""
    rng = np.random.default_rng(seed)
    coarse = (90 + rng.integers(0, 90, (6, 8, 3))).astype(np.uint8)
    scene = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    frames = np.repeat(scene[None], steps, axis=0)
    for step in range(steps):
        cv2.circle(frames[step], (10 + 3 * step, 20), 8, (160, 70, 70), -1, cv2.LINE_AA)
    return frames


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def episode(seed: int, steps: int = 12, encoded: bool = True, **changes) -> Episode:
    """Irregular times, a primary camera as JPEG or pixels, a wrist camera as pixels, two kinds of state."""
    rng = np.random.default_rng(seed)
    primary, wrist = smooth_pictures(steps, seed), smooth_pictures(steps, seed + 1000, (48, 48))
    values = {
        "name": f"2026-11-22_{seed:03d}",
        "instruction": ("pick up the cube", "öffne die Schublade")[seed % 2],
        "images": {
            "primary": EncodedFrames([jpeg(frame) for frame in primary]) if encoded else PixelFrames(primary),
            "wrist": PixelFrames(wrist),
        },
        "actions": rng.normal(size=(steps, 7)).astype(np.float32),
        "state": {
            "pose": rng.normal(size=(steps, 7)).astype(np.float32),
            "gripper": rng.uniform(size=(steps, 1)).astype(np.float32),
        },
        "times_s": np.arange(steps) / RATE_HZ + rng.uniform(0, 0.01, steps),
        "rate_hz": RATE_HZ,
        "success": (True, False, None)[seed % 3],
        "convention": CARD if seed % 4 else None,
        "metadata": {"operator": "Ada", "robot": "sim", "takes": [seed, {"note": "ü"}]},
    }
    return Episode(**(values | changes))


def episodes(count: int = 3, **changes) -> list[Episode]:
    return [episode(seed, steps=10 + 2 * seed, **changes) for seed in range(count)]


def assert_same_facts(given: Episode, read: Episode) -> None:
    """Everything but the pictures, to the last bit."""
    for name in ("name", "instruction", "rate_hz", "success", "convention", "metadata"):
        assert getattr(read, name) == getattr(given, name), name
    for name in ("actions", "times_s"):
        assert_same_numbers(getattr(given, name), getattr(read, name), name)
    assert list(read.state) == list(given.state)
    for name, values in given.state.items():
        assert_same_numbers(values, read.state[name], name)
    assert set(read.images) == set(given.images)


def assert_same_numbers(given: np.ndarray, read: np.ndarray, name: str) -> None:
    assert (read.dtype, read.shape) == (given.dtype, given.shape), name
    assert read.tobytes() == np.ascontiguousarray(given).tobytes(), name


def assert_same_pictures(given: Episode, read: Episode) -> None:
    """The same pixels; where there was a JPEG or PNG file, the same bytes."""
    for name, frames in given.images.items():
        assert len(read.images[name]) == len(frames)
        for index in range(len(frames)):
            np.testing.assert_array_equal(read.images[name][index], frames[index])
            if frames.encoded(index) is not None:
                assert read.images[name].encoded(index) == frames.encoded(index)


def assert_same(given: list[Episode], read) -> None:
    assert len(read) == len(given)
    for one, other in zip(given, read, strict=True):
        assert_same_facts(one, other)
        assert_same_pictures(one, other)


def psnr_db(given: np.ndarray, read: np.ndarray) -> float:
    error = np.mean((given.astype(np.float64) - read.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-12)))
