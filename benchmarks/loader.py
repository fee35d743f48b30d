"""How fast and in how much memory training data stream, beside a plain PyTorch image loop on the same files.

    python benchmarks/loader.py                       # a minute or two: 2,000 steps, 5,000 samples for the memory
    python benchmarks/loader.py --memory-samples 100000 --episodes 1000

Writes a synthetic mixture of 224-pixel JPEG frames as shards and as a folder of files, then measures, in turns and in
one process per measurement: samples per second of the loader (frames as bytes, to be normalised on the GPU; token ids,
labels), of the loader that normalises them for two towers itself, of the loader with augmentation, and of a loop as in
PyTorch's ImageFolder (Pillow decodes and resizes, then a float tensor): of processor time, and by the clock. The loop
compares with the row "normalised": both end in float pixels, ours in six planes, with token ids and labels beside them.
Last, the resident memory of the loader over many samples. The JSON has every measurement; the data are deleted.
"""

import argparse
import datetime
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from loading import ROOT, machine, status_bytes
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from openvla_core.action_statistics import statistics_of
from openvla_core.datasets.episode import PRIMARY, EncodedFrames, Episode
from openvla_core.datasets.examples import ExampleBuilder
from openvla_core.datasets.streaming.loader import StreamingLoader, padding_collate
from openvla_core.datasets.streaming.shard_writer import write_shards
from openvla_core.datasets.streaming.shards import ShardSource
from openvla_core.image_preparation import ImagePreparation
from openvla_core.image_processor import ImageProcessor, preprocessor_config
from openvla_core.model import OpenVLAConfig
from openvla_core.processor import Processor
from openvla_core.tokenizer_file import load_tokenizer
from openvla_core.training.augmentation import Augmentation
from openvla_core.training.versions import library_versions

SIDE = 224
WEIGHTS = {"alpha": 1.0, "beta": 2.0, "gamma": 0.1}
SHARES = {"alpha": 0.5, "beta": 0.3, "gamma": 0.2}  # of the episodes
AIM = 500  # samples per second and core
KINDS = {
    "ours": "frames as bytes, normalised on the GPU",
    "ours_normalized": "normalised: float pixels for two towers",
    "ours_augmented": "augmented, frames as bytes",
    "folder": "plain loop: float pixels, nothing else",
}
CONFIG = {
    "model_type": "openvla",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "llm_backbone_id": "llama2-7b-pure",
    "text_config": {"model_type": "llama", "vocab_size": 32064},
}
TOKENIZER = ROOT / "test" / "golden" / "data" / "tokenizer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="of the mixture, each of --steps steps")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--samples", type=int, default=1600, help="per measurement of speed")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind, in turns; medians are told")
    parser.add_argument("--memory-samples", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the JSON goes")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only == "memory":
        print(json.dumps(memory(arguments)))
    elif arguments.only:
        print(json.dumps(speed(arguments)))
    else:
        with tempfile.TemporaryDirectory(prefix="loader-") as folder:
            arguments.folder = Path(folder)
            save(run(arguments), arguments.out)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    bytes_written = write(arguments.folder, arguments.episodes, arguments.steps)
    steps = arguments.episodes * arguments.steps
    print(f"written      {arguments.episodes} episodes, {steps} steps, {bytes_written / steps:,.0f} bytes per step")
    print(f"             in {time.perf_counter() - started:.0f} s, in 3 data sets", flush=True)
    measured: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.rounds):
        for kind in KINDS:
            measured[kind].append(child(arguments, kind))
    # Of one core: by the processor time the process used, since other programs take turns on a busy machine.
    per_core = {kind: statistics.median(m["per_core_second"] for m in measured[kind]) for kind in KINDS}
    per_wall = {kind: statistics.median(m["per_second"] for m in measured[kind]) for kind in KINDS}
    print(f"{'samples per second':<42}{'of one core':>12}{'by the clock':>14}{'aim of ' + str(AIM):>12}")
    for kind, label in KINDS.items():
        print(f"{label:<42}{per_core[kind]:>12.0f}{per_wall[kind]:>14.0f}{verdict(kind, per_core):>12}")
    ratios = {kind: per_core[kind] / per_core["folder"] for kind in KINDS if kind != "folder"}
    print('compared     the plain loop and "normalised" both end in float pixels; ours are six planes, with token ids')
    print(f"             and labels, made in {ratios['ours_normalized']:.2f} times its samples per second of one core.")
    print(f"             As bytes {ratios['ours']:.2f} times, augmented {ratios['ours_augmented']:.2f} times.")
    flat = child(arguments, "memory")
    start, end = (flat[key] / 1e6 for key in ("start_bytes", "end_bytes"))
    print(f"memory       {start:.1f} MB after {flat['warm']:,} samples, {end:.1f} MB after {flat['samples']:,};")
    print(f"             slope {flat['slope_bytes_per_1000']:+,.0f} bytes per 1,000 samples", flush=True)
    return {
        "date": datetime.date.today().isoformat(),
        "episodes": arguments.episodes,
        "steps": steps,
        "bytes_per_step": round(bytes_written / steps),
        "samples_per_measurement": arguments.samples,
        "rounds": arguments.rounds,
        "samples_per_core_second": {kind: round(value, 1) for kind, value in per_core.items()},
        "samples_per_second": {kind: round(value, 1) for kind, value in per_wall.items()},
        "ratio_to_image_folder": {kind: round(ratio, 3) for kind, ratio in ratios.items()},
        "all": measured,
        "memory": flat,
        "load_average": os.getloadavg(),
        "machine": machine(),
        "versions": library_versions(),
    }


def verdict(kind: str, per_core: dict[str, float]) -> str:
    if kind == "folder":
        return ""
    return "reached" if per_core[kind] >= AIM else "missed"


def child(arguments: argparse.Namespace, kind: str) -> dict[str, Any]:
    """One measurement in a process of its own, so that none inherits the memory or the caches of another."""
    command = [sys.executable, __file__, "--only", kind, "--folder", str(arguments.folder)]
    for name in ("samples", "memory_samples", "batch"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def speed(arguments: argparse.Namespace) -> dict[str, float]:
    """Samples per second: by the clock, and by the processor time of this process, which has one thread."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    makers: dict[str, Callable[[], Iterator[Any]]] = {
        "ours": lambda: iter(loader(arguments.folder, arguments.batch)),
        "ours_normalized": lambda: iter(loader(arguments.folder, arguments.batch, normalized=True)),
        "ours_augmented": lambda: iter(loader(arguments.folder, arguments.batch, Augmentation(crop_area=0.9))),
        "folder": lambda: image_folder(arguments.folder / "files", arguments.batch),
    }
    batches = makers[arguments.only]()
    count = max(1, arguments.samples // arguments.batch)
    for _ in itertools.islice(batches, 2):
        pass
    wall, used = time.perf_counter(), time.process_time()
    for _ in itertools.islice(batches, count):
        pass
    wall, used = time.perf_counter() - wall, time.process_time() - used
    return {"per_second": count * arguments.batch / wall, "per_core_second": count * arguments.batch / used}


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Resident memory of the process that makes the samples, from a tenth of the way on, and its slope."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    batches = max(1, arguments.memory_samples // arguments.batch)
    every, warm = max(1, batches // 100), batches // 10
    places, resident = [], []
    for number, _ in enumerate(itertools.islice(loader(arguments.folder, arguments.batch), batches), start=1):
        if number >= warm and number % every == 0:
            places.append(number * arguments.batch)
            resident.append(status_bytes("VmRSS"))
    slope = float(np.polyfit(places, resident, 1)[0]) if len(places) > 1 else 0.0
    return {
        "warm": places[0],
        "samples": places[-1],
        "start_bytes": resident[0],
        "end_bytes": resident[-1],
        "largest_bytes": max(resident),
        "slope_bytes_per_1000": round(1000 * slope, 1),
        "curve_mb": [round(value / 1e6, 2) for value in resident[:: max(1, len(resident) // 20)]],
    }


def loader(
    folder: Path, batch: int, augmentation: Augmentation | None = None, normalized: bool = False
) -> StreamingLoader:
    """The loader as training uses it, in this process: shards -> frames or pixels of two towers, token ids, labels."""
    sources = [ShardSource(folder / name) for name in WEIGHTS]
    crop = None if augmentation is None else augmentation.crop_area
    config = OpenVLAConfig.from_dict(CONFIG)
    processor = Processor(
        load_tokenizer(TOKENIZER, config),
        ImageProcessor.from_dict(preprocessor_config(SIDE)),
        config,
        ImagePreparation(resize=SIDE, center_crop_area=crop),
    )
    actions = {source.name: statistics_of({source.name: source.statistics}, source.name) for source in sources}
    build = ExampleBuilder(processor, actions, augmentation, frames="prepared", normalized=normalized)
    return StreamingLoader(sources, build, padding_collate(processor.config.pad_token_id), batch, WEIGHTS)


def image_folder(folder: Path, batch: int) -> Iterator[Any]:
    """Shuffled for ever: what torchvision's ImageFolder with Resize and ToTensor does, in the same few steps."""
    while True:
        yield from DataLoader(_Files(folder), batch_size=batch, shuffle=True)


class _Files(Dataset):
    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with self._files[index].open("rb") as file:
            image = Image.open(file).convert("RGB")
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255)


def write(folder: Path, episodes: int, steps: int) -> int:
    """Writes the mixture as shards, and its frames as files. Returns the bytes of all shards."""
    rng = np.random.default_rng(0)
    (folder / "files").mkdir()
    total = 0
    for name, share in SHARES.items():
        count = max(1, round(share * episodes))
        made = (episode(rng, f"{name}_{i}", steps) for i in range(count))
        description = write_shards(_also_as_files(made, folder / "files"), folder / name, name, shard_steps=2000)
        total += sum(shard["bytes"] for shard in description["shards"])
    return total


def _also_as_files(episodes: Iterator[Episode], folder: Path) -> Iterator[Episode]:
    written = 0
    for one in episodes:
        for step in range(len(one)):
            if written < 2000:  # as many as fit the page cache anywhere
                (folder / f"{one.name}_{step}.jpg").write_bytes(one.images[PRIMARY].encoded(step) or b"")
                written += 1
        yield one


def episode(rng: np.random.Generator, name: str, steps: int) -> Episode:
    """Frames of soft shapes with some noise: at JPEG quality 95 about the size of real camera frames."""
    scene = cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    frames = []
    for step in range(steps):
        grain = rng.integers(0, 10, (SIDE, SIDE, 1), dtype=np.uint8)
        frames.append(_jpeg(cv2.add(np.roll(scene, 3 * step, axis=1), np.repeat(grain, 3, axis=2))))
    return Episode(
        name=name,
        instruction=f"move object {name.rpartition('_')[2]} to the {rng.choice(['left', 'right', 'drawer'])}",
        images={PRIMARY: EncodedFrames(frames)},
        actions=rng.normal(0, 0.02, (steps, 7)).astype(np.float32),
        state={},
        times_s=np.arange(steps) / 5.0,
        rate_hz=5.0,
    )


def _jpeg(pixels: np.ndarray) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG", quality=95)
    return stored.getvalue()


def save(result: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['date']}-loader-{result['episodes']}-episodes.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"saved {path}")


if __name__ == "__main__":
    main()
