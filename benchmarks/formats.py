"""What the formats of demonstrations keep, how large they are and how fast, on episodes of the simulated cell.

python benchmarks/formats.py            # prints a table; needs the extras "sim" and "data"
python benchmarks/formats.py --save     # also writes benchmarks/results/<date>-formats.json
"""

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from openvla_core.datasets.convert import convert, open_source  # noqa: E402
from openvla_core.datasets.episode import EncodedFrames, Episode, PixelFrames  # noqa: E402

EPISODES, STEPS, RATE_HZ, JPEG_QUALITY = 10, 60, 5.0, 95
FORMS = (("lerobot", False), ("lerobot", True), ("lerobot-v2.1", False), ("lerobot-v2.1", True), ("rlds", False))


class InMemory:
    """The episodes that are converted; the camera's pictures as JPEG files, the overview's as pixels."""

    name = "simulated"

    def __init__(self) -> None:
        self.episodes = [simulate(seed) for seed in range(EPISODES)]

    def __len__(self) -> int:
        return EPISODES

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]

    def __iter__(self):
        return iter(self.episodes)


def simulate(seed: int) -> Episode:
    """The arm goes from one random place over the cubes to the next, with an action and two pictures at each step."""
    from openvla_core.sim.rendering import prepare_headless

    prepare_headless()
    from openvla_core.sim.tabletop import START_AREA, TabletopSim
    from openvla_core.types import Pose

    rng, sim = np.random.default_rng(seed), TabletopSim()
    sim.reset(seed)
    rows, poses, cameras = [], [], {"policy": [], "overview": []}
    for step in range(STEPS):
        for camera, pictures in cameras.items():
            pictures.append(sim.render(camera).copy())
        pose = sim.tcp_pose()
        poses.append(np.concatenate([pose.position, pose.quaternion]))
        if step % 10 == 0:
            goal = rng.uniform(START_AREA[0] - [0, 0, 0.15], START_AREA[1])
        motion = np.clip(goal - pose.position, -0.03, 0.03)
        rows.append([*motion, 0, 0, 0, 1])
        sim.set_target(Pose(pose.position + motion, pose.quaternion))
        sim.step(1 / RATE_HZ)
    sim.close()
    files = [jpeg(picture) for picture in cameras["policy"]]
    images = {"primary": EncodedFrames(files), "secondary": PixelFrames(np.array(cameras["overview"]))}
    state, times = {"pose": np.array(poses, np.float32)}, np.arange(STEPS) / RATE_HZ + rng.uniform(0, 0.01, STEPS)
    return Episode(
        f"simulated_{seed}", "pick up the red cube", images, np.array(rows, np.float32), state, times, RATE_HZ
    )


def jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def measure(source: InMemory, folder: Path, to: str, video: bool) -> dict[str, float]:
    target = folder / f"set_{to.replace('-', '_').replace('.', '_')}_{video}".lower()
    start = time.perf_counter()
    convert(source, target, to, video)
    written = time.perf_counter()
    exact, worst = True, {"primary": np.inf, "secondary": np.inf}
    for given, read in zip(source, open_source(target), strict=True):
        exact &= bool(np.array_equal(given.actions, read.actions) and np.array_equal(given.times_s, read.times_s))
        exact &= bool(np.array_equal(given.state["pose"], read.state["pose"]))
        for name in worst:
            for index in range(len(given)):
                worst[name] = min(worst[name], psnr_db(given.images[name][index], read.images[name][index]))
    frames = len(worst) * EPISODES * STEPS
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return {
        "numbers_exact": exact,
        **{f"worst_psnr_db_{name}": None if np.isinf(value) else round(value, 1) for name, value in worst.items()},
        "bytes_per_frame": round(size / frames),
        "written_frames_per_s": round(frames / (written - start)),
        "read_frames_per_s": round(frames / (time.perf_counter() - written)),
    }


def psnr_db(given: np.ndarray, read: np.ndarray) -> float:
    error = float(np.mean((given.astype(np.float64) - read.astype(np.float64)) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write the figures under benchmarks/results")
    save = parser.parse_args().save
    source = InMemory()
    with tempfile.TemporaryDirectory() as folder:
        figures = {f"{to}{', video' if video else ''}": measure(source, Path(folder), to, video) for to, video in FORMS}
    for name, values in figures.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    if save:
        libraries = ("pyarrow", "av", "google-crc32c", "opencv-python-headless", "numpy")
        about = {
            "date": str(datetime.date.today()),
            "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
            "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
            "episodes": EPISODES, "steps": STEPS, "pictures": "112 x 112 JPEG 95 and 320 x 240 pixels",
        }  # fmt: skip
        path = ROOT / "benchmarks" / "results" / f"{datetime.date.today()}-formats.json"
        path.write_text(json.dumps(about | {"figures": figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
