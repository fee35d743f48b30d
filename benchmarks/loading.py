"""How much memory and time loading a full-size checkpoint takes: the peak of a process over the size of the files.

    python benchmarks/loading.py                  # 7.54 billion parameters, 15 GB on disk and in memory
    python benchmarks/loading.py --size tiny      # seconds; its ratio says nothing, the libraries outweigh the model

Writes a synthetic checkpoint, drops it from the page cache, loads it in a process of its own, compares some tensors
with what was written and deletes everything, also when interrupted.
"""

import argparse
import datetime
import hashlib
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from openvla_core.checkpoint import expected_shapes, load_checkpoint
from openvla_core.image_processor import preprocessor_config
from openvla_core.model import OpenVLAConfig
from openvla_core.safetensors_file import write_file
from openvla_core.training.versions import library_versions, processor_name
from openvla_core.weights import DTYPES, INDEX

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "test" / "golden" / "data" / "tokenizer" / "tokenizer.json"
SHARD_BYTES = 7_000_000_000
COMPARED = (
    "vision_backbone.featurizer.cls_token",
    "vision_backbone.fused_featurizer.attn_pool.kv.weight",
    "projector.fc2.weight",
    "language_model.model.embed_tokens.weight",
    "language_model.lm_head.weight",
)
CONFIG = {
    "model_type": "openvla",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "llm_backbone_id": "llama2-7b-pure",
    "text_config": {"model_type": "llama", "vocab_size": 32064},
    "norm_stats": {"synthetic": {"action": {"q01": [-1.0] * 7, "q99": [1.0] * 7}}},
}
TINY = {
    **CONFIG,
    "timm_model_kwargs": [{"depth": 2, "embed_dim": 32, "num_heads": 2}] * 2,
    "text_config": {
        "vocab_size": 32064, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16", help="to load in; the files are bfloat16")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written meanwhile; default: TMPDIR")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the JSON goes")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, arguments.dtype)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="loading-", dir=arguments.folder) as folder:
        result = run(Path(folder), arguments.size, arguments.dtype)
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = f"{result['date']}-loading-{arguments.size}-{arguments.dtype}.json"
    (arguments.out / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"saved {arguments.out / name}")


def run(folder: Path, size: str, dtype: str) -> dict[str, object]:
    """Writes, loads and compares one checkpoint in `folder`."""
    config = CONFIG if size == "full" else TINY
    shapes = expected_shapes(OpenVLAConfig.from_dict(config))
    parameters = sum(shape.numel() for shape in shapes.values())
    needed = parameters * DTYPES[dtype].itemsize
    check_room(folder, 2 * parameters, needed)
    started = time.perf_counter()
    write_checkpoint(folder, config, shapes)
    written_s = time.perf_counter() - started
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        forget(file)
    command = [sys.executable, __file__, "--measure", str(folder), "--dtype", dtype]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    stored = sum(file.stat().st_size for file in files)
    ratio = loaded["peak_rss_bytes"] / (stored * DTYPES[dtype].itemsize / 2)
    print(f"checkpoint   {stored:,} bytes in {len(files)} files, {parameters:,} parameters, bfloat16")
    print(f"loaded       as {dtype} in {loaded['seconds']:.1f} s, files not in the page cache")
    print(f"peak memory  {loaded['peak_rss_bytes']:,} bytes resident, {loaded['before_bytes']:,} before loading")
    print(f"ratio        {ratio:.3f} of the checkpoint as {dtype} (aim: 1.1 at most)")
    print(f"compared     {loaded['compared']} tensors, all equal to what was written")
    return {
        "date": datetime.date.today().isoformat(),
        "size": size,
        "dtype": dtype,
        "parameters": parameters,
        "checkpoint_bytes": stored,
        "files": len(files),
        "written_seconds": round(written_s, 1),
        **loaded,
        "ratio": round(ratio, 4),
        "machine": machine(),
        "versions": library_versions(),
    }


def measure(folder: Path, dtype: str) -> dict[str, object]:
    """Runs in the fresh process: loads once and reports what that took."""
    Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, this process is the one to go
    before = status_bytes("VmHWM")
    started = time.perf_counter()
    checkpoint = load_checkpoint(folder, dtype=dtype)
    seconds = time.perf_counter() - started
    peak, anonymous = status_bytes("VmHWM"), status_bytes("RssAnon")
    state = checkpoint.model.state_dict()
    for name in COMPARED:
        expected = synthetic(name, state[name].shape).to(DTYPES[dtype])
        assert torch.equal(state[name], expected), f"{name} differs from what was written"
    return {
        "seconds": round(seconds, 1),
        "before_bytes": before,
        "peak_rss_bytes": peak,
        "anonymous_bytes": anonymous,
        "compared": len(COMPARED),
    }


def write_checkpoint(folder: Path, config: dict, shapes: dict[str, torch.Size]) -> None:
    """Writes shards with an index, one tensor at a time."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(224)), encoding="utf-8")
    shutil.copyfile(TOKENIZER, folder / "tokenizer.json")
    shards: list[list[str]] = [[]]
    used = 0
    for name, shape in shapes.items():
        if used + 2 * shape.numel() > SHARD_BYTES:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += 2 * shape.numel()
    weight_map = {}
    with tqdm(total=2 * sum(s.numel() for s in shapes.values()), unit="B", unit_scale=True, desc="writing") as bar:

        def tensors(names: list[str]) -> Iterator[torch.Tensor]:
            for name in names:
                yield synthetic(name, shapes[name])
                bar.update(2 * shapes[name].numel())

        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            layout = {name: (torch.bfloat16, tuple(shapes[name])) for name in names}
            write_file(folder / file, layout, tensors(names))
            weight_map |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")


def synthetic(name: str, shape: torch.Size) -> torch.Tensor:
    """bfloat16 noise that depends on the name: a random block of a million values, repeated."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    block = torch.randn(min(shape.numel(), 1 << 20), generator=torch.Generator().manual_seed(seed)).mul_(0.02)
    block = block.to(torch.bfloat16)
    return block.repeat(math.ceil(shape.numel() / len(block)))[: shape.numel()].view(shape)


def forget(file: Path) -> None:
    """Writes a file out and drops it from the page cache, so that loading reads from the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def check_room(folder: Path, on_disk: int, in_memory: int) -> None:
    free, available = shutil.disk_usage(folder).free, meminfo("MemAvailable")
    if free < 1.1 * on_disk or available < 1.1 * in_memory + 1e9:
        sys.exit(
            f"needs {1.1 * on_disk / 1e9:.1f} GB on disk and {1.1 * in_memory / 1e9 + 1:.1f} GB of memory; "
            f"{folder} has {free / 1e9:.1f} GB, this machine {available / 1e9:.1f} GB. Try --size tiny or --folder."
        )


def status_bytes(field: str) -> int:
    """A line of /proc/self/status. VmHWM is the peak of this program alone; getrusage would include its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def meminfo(field: str) -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def machine() -> dict[str, object]:
    return {
        "system": platform.system(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_bytes": meminfo("MemTotal"),
    }


if __name__ == "__main__":
    main()
