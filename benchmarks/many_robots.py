"""How many robots one model serves: actions per second, latency and fairness, in batches and one by one.

    python benchmarks/many_robots.py                      # 1, 4 and 16 robots, about three minutes
    python benchmarks/many_robots.py --device cuda --dtype bfloat16 --checkpoint <directory>

Every robot is a thread in a closed loop: at its rate it shows a random picture, waits for its action, and goes on. All
share one model through the batcher that policy_fleet uses. The same robots are served in batches and one by one, in
turns within one run; latency counts from the picture to the action. Answers of batches are compared with what the model
says to the same pictures alone. The JSON has every figure.
"""

import argparse
import datetime
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loading import ROOT, machine

import openvla_core
from openvla_core.batching import DynamicBatcher
from openvla_core.errors import DeadlineError, OpenVLAError
from openvla_core.latest_worker import Outcome
from openvla_core.policy import Policy, Prediction
from openvla_core.training.versions import library_versions

PICTURES = 32  # shown in turns; the model does not know that it has seen one
COMPARED = 16


@dataclass
class Robot:
    """One client and what it got. Latencies in seconds; an answer is an action, late, or an error."""

    name: str
    latencies: list[float] = field(default_factory=list)
    late: int = 0
    errors: int = 0
    answered: threading.Event = field(default_factory=threading.Event)

    def deliver(self, outcome: Outcome) -> None:
        """Called in the batcher's thread."""
        if outcome.error is None:
            self.latencies.append(outcome.seconds)
        elif isinstance(outcome.error, DeadlineError):
            self.late += 1
        else:
            self.errors += 1
        self.answered.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints" / "openvla-tiny-sim")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rate", type=float, default=7.5, help="actions per second that each robot wants")
    parser.add_argument("--deadline", type=float, default=0.5, help="seconds until a picture is too old to be acted on")
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--gather", type=float, default=0.0, help="seconds that an idle model waits for more robots")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind, in turns")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0 lets torch choose")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the JSON goes")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    policy = openvla_core.load_policy(
        options.checkpoint, device=options.device, dtype=options.dtype, largest_batch=options.max_batch
    )
    questions = make_questions(policy)
    result = {
        "date": datetime.date.today().isoformat(),
        "settings": {name: str(value) for name, value in vars(options).items() if name != "out"},
        "threads": torch.get_num_threads(),
        "exactness": compare(policy, questions, options.max_batch),
        "robots": {str(count): measure(policy, questions, count, options) for count in options.robots},
        "machine": machine(),
        "versions": library_versions(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{result['date']}-many-robots-{options.device.replace(':', '')}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"saved {path}")


def make_questions(policy: Policy) -> list[tuple[np.ndarray, str]]:
    """Random pictures (H, W, 3) uint8 with the sentences of the training in turns."""
    random, size = np.random.default_rng(0), policy.config.towers[0].image_size
    sentences = policy.training_instructions[:8] or ("pick up the object",)
    pictures = random.integers(0, 256, (PICTURES, size, size, 3), dtype=np.uint8)
    return [(picture, sentences[i % len(sentences)]) for i, picture in enumerate(pictures)]


def compare(policy: Policy, questions: Sequence[tuple[np.ndarray, str]], most: int) -> dict[str, int]:
    """How many answers of a batch have the tokens that the same question gets alone. Also warms up every size."""
    for size in range(1, most + 1):
        policy.predict_batch(questions[:1] * size)
    asked = questions[:COMPARED]
    together = [answer for i in range(0, COMPARED, most) for answer in policy.predict_batch(asked[i : i + most])]
    equal = sum(
        isinstance(answer, Prediction) and np.array_equal(answer.tokens.ids, policy.predict(*question).tokens.ids)
        for question, answer in zip(asked, together, strict=True)
    )
    print(f"tokens of a batch equal to those of each picture alone: {equal} of {COMPARED}")
    return {"compared": COMPARED, "tokens_equal": equal}


def measure(policy: Policy, questions: Sequence, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Serves `count` robots in batches and one by one, in turns."""
    kinds = {"batched": options.max_batch, "one_by_one": 1}
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for turn in range(options.rounds):
        order = list(kinds) if turn % 2 == 0 else list(kinds)[::-1]
        for kind in order:
            runs[kind].append(serve(policy, questions, count, kinds[kind], options))
    summary = {kind: summarize(of) for kind, of in runs.items()}
    for kind, figures in summary.items():
        print(
            f"{count:3d} robots, {kind:10s}  {figures['actions_per_s']:7.2f} actions/s   "
            f"p50 {figures['p50_ms']:6.1f} ms   p95 {figures['p95_ms']:6.1f} ms   "
            f"p95 of the worst robot {figures['p95_worst_robot_ms']:6.1f} ms   late {figures['late']:4d}   "
            f"actions per robot {figures['fewest_actions']}-{figures['most_actions']}   "
            f"batches {figures['batches']}"
        )
    gain = summary["batched"]["actions_per_s"] / max(summary["one_by_one"]["actions_per_s"], 1e-9)
    print(f"{count:3d} robots, in batches {gain:.2f} times as many actions as one by one")
    return {**summary, "gain": round(gain, 3), "runs": runs}


def serve(policy: Policy, questions: Sequence, count: int, most: int, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement: `count` robots for the given time."""

    def answer(jobs: Sequence[tuple[np.ndarray, str]]) -> Sequence[Prediction | OpenVLAError]:
        return policy.predict_batch(list(jobs))

    batcher: DynamicBatcher = DynamicBatcher(answer, most, options.gather if most > 1 else 0.0)
    robots = [Robot(f"robot{i}") for i in range(count)]
    started_s = time.monotonic()
    end_s = started_s + options.seconds
    threads = []
    for i, robot in enumerate(robots):
        batcher.join(robot.name, robot.deliver)
        # Robots are not in step: each begins somewhere within its period.
        first_s = started_s + i / count / options.rate
        arguments = (batcher, robot, questions, first_s, end_s, options)
        threads.append(threading.Thread(target=live, args=arguments, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed_s = time.monotonic() - started_s
    figures = batcher.figures()
    batcher.close()
    actions = [len(robot.latencies) for robot in robots]
    latencies = [1e3 * seconds for robot in robots for seconds in robot.latencies]
    return {
        "seconds": round(passed_s, 3),
        "actions": sum(actions),
        "actions_per_s": round(sum(actions) / passed_s, 3),
        "p50_ms": percentile(latencies, 50),
        "p95_ms": percentile(latencies, 95),
        "p95_worst_robot_ms": max(percentile([1e3 * s for s in robot.latencies], 95) for robot in robots),
        "late": sum(robot.late for robot in robots),
        "errors": sum(robot.errors for robot in robots),
        "fewest_actions": min(actions),
        "most_actions": max(actions),
        "batches": {name.rpartition("_")[2]: n for name, n in figures.items() if name.startswith("batches_of_")},
    }


def live(batcher: DynamicBatcher, robot: Robot, questions: Sequence, first_s: float, end_s: float, options) -> None:
    """One robot: shows a picture when the next action is due, waits for the answer, and so on."""
    due_s, shown = first_s, int(robot.name.removeprefix("robot"))
    while due_s < end_s:
        time.sleep(max(due_s - time.monotonic(), 0.0))
        robot.answered.clear()
        batcher.submit(robot.name, questions[shown % len(questions)], time.monotonic() + options.deadline)
        robot.answered.wait()
        shown += 1
        # An action that came late does not make the next ones come faster than the rate.
        due_s = max(due_s + 1.0 / options.rate, time.monotonic())


def summarize(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over the runs; the worst of what should not happen, and batches added up."""
    medians = ("actions_per_s", "p50_ms", "p95_ms", "p95_worst_robot_ms")
    summary: dict[str, Any] = {name: round(statistics.median(run[name] for run in runs), 3) for name in medians}
    summary |= {name: sum(run[name] for run in runs) for name in ("actions", "late", "errors")}
    summary["fewest_actions"] = min(run["fewest_actions"] for run in runs)
    summary["most_actions"] = max(run["most_actions"] for run in runs)
    batches: Counter[str] = Counter()
    for run in runs:
        batches.update(run["batches"])
    summary["batches"] = {size: batches[size] for size in sorted(batches, key=int)}
    return summary


def percentile(values: Sequence[float], percent: float) -> float:
    """Milliseconds; 0 without values."""
    return round(float(np.percentile(values, percent)), 2) if values else 0.0


if __name__ == "__main__":
    main()
