"""Does it learn? Teaches the shipped tiny model a task it was not trained on, and counts successes before and after.

    python benchmarks/learning.py --out benchmarks/results/DATE-learning.json
    python benchmarks/learning.py --strategies --out benchmarks/results/DATE-learning-strategies.json
    python benchmarks/learning.py --episodes 8 --evaluate 4          # the whole chain, small

1. `openvla record` has the scripted expert point at cubes and records episodes through the recorder node.
2. `openvla finetune` trains on these bags, one command. With --strategies once for each of the five.
3. `openvla demo` runs held-out scenes through the ROS graph: with the weights as they are shipped, and as trained.

The words "point" and "at" are new to the shipped model, which refuses sentences with words it does not know. The figure
before is that of its weights with a tokenizer that has these words, so that the arm moves at all.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from openvla_core.datasets.bags.reader import BagSource  # noqa: E402
from openvla_core.errors import DatasetError  # noqa: E402
from openvla_core.evaluation.results import read_rows  # noqa: E402
from openvla_core.evaluation.statistics import Rate  # noqa: E402
from openvla_core.training.versions import library_versions, processor_name  # noqa: E402

TASK = "point"
SHIPPED = ROOT / "checkpoints" / "openvla-tiny-sim"
RECIPE = ROOT / "training" / "recipes" / "teach_tiny_sim.yaml"
# Learning rates that suit 1.6 million weights; those of the recipes are for 7 billion.
RATES = {"full": 5e-4, "last-layer": 1e-3, "frozen-vision": 5e-4, "sandwich": 5e-4, "lora": 5e-4}
TRIES = 5
LEAST_GAIN = (0.2, 0.7)  # at most before, at least after


@dataclass
class Run:
    """One training and what became of it."""

    strategy: str
    learning_rate: float
    steps: int
    trainable: int
    parameters: int
    seconds: float
    rate: Rate
    kept: Rate | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--episodes", type=int, default=150, help="episodes to record (default 150)")
    add("--evaluate", type=int, default=50, help="held-out episodes of each evaluation (default 50)")
    add("--kept", type=int, default=24, help="episodes of the old tasks after the training, 0 for none (default 24)")
    add("--steps", type=int, help="steps of each training (default: as in the recipe)")
    add("--seed", type=int, default=0, help="of the recorded scenes and of the training (default 0)")
    add("--strategies", action="store_true", help="all five strategies instead of LoRA alone")
    add("--recordings", type=Path, help="use these recordings instead of recording")
    add("--work", type=Path, help="keep everything in this folder (default: a temporary one)")
    add("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="openvla-learning-"))
    try:
        result = measure(options, work)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if result["reached"] else 1


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    started = time.monotonic()
    recordings = options.recordings or record(options.episodes, options.seed, work / "recordings")
    strategies = list(RATES) if options.strategies else ["lora"]
    trained = {name: train(name, recordings, work / name, options) for name in strategies}
    # Whichever training it was, its base is the shipped model with the new words.
    before = evaluate(work / strategies[-1] / "base", work / "evaluated-before", options.evaluate, TASK)
    show(f"before: {before}")
    runs = []
    for name, (seconds, card) in trained.items():
        rate = evaluate(work / name, work / f"evaluated-{name}", options.evaluate, TASK)
        kept = evaluate(work / name, work / f"kept-{name}", options.kept, "reach,pick") if options.kept else None
        recipe = card["recipe"]
        runs.append(
            Run(
                name, recipe["learning_rate"], card["steps"], card["trainable"], card["parameters"], seconds, rate, kept
            )
        )
        show(f"after {name}: {rate}")
    show(table(before, runs))
    best = max(run.rate.value for run in runs)
    reached = before.value <= LEAST_GAIN[0] and best >= LEAST_GAIN[1]
    show(f"from {before} to {max((run.rate for run in runs), key=lambda rate: rate.value)}: "
         f"{'reached' if reached else 'NOT reached'} (wanted: at most 20 %, at least 70 %)")  # fmt: skip
    return {
        "date": datetime.date.today().isoformat(),
        "task": TASK,
        "episodes": len(usable(recordings)),
        "evaluated": options.evaluate,
        "before": figures(before),
        "runs": [{**asdict(run), "rate": figures(run.rate), "kept": figures(run.kept)} for run in runs],
        "reached": reached,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "seed": options.seed,
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "cpu": processor_name()},
        "versions": library_versions(),
    }


def record(count: int, seed: int, folder: Path) -> Path:
    """Records until there are `count` successful episodes; those of earlier tries count."""
    for attempt in range(TRIES):
        missing = count - len(usable(folder))
        if missing <= 0:
            return folder
        show(f"recording {missing} episodes")
        arguments = ["record", "--source", "expert", "--tasks", TASK, "--episodes", str(missing)]
        openvla([*arguments, "--seed", str(TRIES * seed + attempt), "--root", str(folder)], may_fail=True)
    if len(usable(folder)) < count:
        raise SystemExit(f"only {len(usable(folder))} of {count} episodes were recorded; see {folder / '.logs'}")
    return folder


def usable(folder: Path) -> list[str]:
    """Names of the episodes that succeeded and can be read."""
    names = []
    try:
        source = BagSource(folder)
    except DatasetError:
        return names
    for place in range(len(source)):
        try:
            episode = source[place]
        except DatasetError:
            shutil.rmtree(source.paths[place])  # a graph that ended in the middle of an episode
            continue
        if episode.success:
            names.append(episode.name)
    return names


def train(strategy: str, recordings: Path, out: Path, options: argparse.Namespace) -> tuple[float, dict[str, Any]]:
    """One command; returns how long it took and the training card."""
    show(f"training: {strategy}")
    arguments = ["finetune", "--recipe", str(RECIPE), "--data", str(recordings), "--base", str(SHIPPED)]
    arguments += ["--strategy", strategy, "--learning-rate", str(RATES[strategy]), "--seed", str(options.seed)]
    arguments += ["--out", str(out)] + (["--max-steps", str(options.steps)] if options.steps else [])
    started = time.monotonic()
    openvla(arguments)
    seconds = time.monotonic() - started
    return seconds, json.loads((out / "training_card.json").read_text(encoding="utf-8"))


def evaluate(checkpoint: Path, out: Path, episodes: int, tasks: str) -> Rate:
    """Held-out scenes through the ROS graph; continued when the graph breaks down in between."""
    show(f"evaluating {checkpoint.name}: {episodes} episodes of {tasks}")
    arguments = ["demo", "--checkpoint", str(checkpoint), "--episodes", str(episodes), "--tasks", tasks]
    arguments += ["--seed", "2026", "--video-episodes", "0", "--out", str(out)]
    for attempt in range(TRIES):
        if openvla(arguments + (["--resume"] if attempt else []), may_fail=True) == 0:
            break
    rows = read_rows(out / "results.json")
    if len(rows) < episodes:
        raise SystemExit(f"only {len(rows)} of {episodes} episodes were run; see {out / 'logs'}")
    return Rate(sum(row.success for row in rows), len(rows))


def openvla(arguments: list[str], may_fail: bool = False) -> int:
    """Runs one openvla command as a person would."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    code = subprocess.run([sys.executable, "-m", "openvla_ros.cli", *arguments], env=environment).returncode
    if code and not may_fail:
        raise SystemExit(f"openvla {arguments[0]} ended with {code}")
    return code


def table(before: Rate, runs: list[Run]) -> str:
    """Strategies side by side."""
    lines = [f"{'':14} {'success, 95 % Wilson':30} {'trained':>18} {'time':>8}  old tasks afterwards"]
    lines.append(f"{'as shipped':14} {before!s:30}")
    for run in runs:
        trained = f"{run.trainable / 1e6:.3f} M {run.trainable / run.parameters:4.0%}"
        kept = "" if run.kept is None else str(run.kept)
        lines.append(f"{run.strategy:14} {run.rate!s:30} {trained:>18} {run.seconds / 60:5.1f} min  {kept}")
    return "\n".join(lines)


def figures(rate: Rate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    low, high = rate.interval
    return {
        "count": rate.count,
        "of": rate.trials,
        "rate": round(rate.value, 4),
        "wilson95": [round(low, 4), round(high, 4)],
    }


def show(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
