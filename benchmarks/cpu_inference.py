"""What runs the shipped tiny model best on a CPU: the engine with one or two threads, ONNX Runtime, OpenVINO.

    python benchmarks/cpu_inference.py                         # what is installed, 208 pictures, about 4 minutes
    python benchmarks/cpu_inference.py --pictures 40 --only engine-1 engine-2

Every way of running is a process of its own; they take turns, a few pictures each, so that whatever else the machine
does hits all of them. Measured alone, and beside a process that keeps one core busy, as the simulator and the camera
driver do. Of every picture and sentence all tokens are compared with those of the plain loop over transformers' Llama,
`eager-1`. ONNX Runtime and OpenVINO are optional and not needed for anything else:
pip install onnx onnxscript onnxruntime openvino
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

CHECKPOINT = ROOT / "checkpoints" / "openvla-tiny-sim"
ORACLE = "eager-1"
# Name -> what runs it, its threads, and what its process finds in the environment.
WAYS: dict[str, tuple[str, int, dict[str, str]]] = {
    ORACLE: ("eager", 1, {}),
    "eager-2": ("eager", 2, {}),
    "engine-1": ("engine", 1, {}),
    "engine-2": ("engine", 2, {}),
    "engine-2-passive": ("engine", 2, {"OMP_WAIT_POLICY": "PASSIVE"}),
    "onnxruntime-1": ("onnxruntime", 1, {}),
    "onnxruntime-2": ("onnxruntime", 2, {}),
    "openvino-1": ("openvino", 1, {}),
    "openvino-2": ("openvino", 2, {}),
}
NEEDS: dict[str, tuple[str, ...]] = {
    "eager": (),
    "engine": (),
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
TURN = 4  # pictures in a row
BUSY = "while True: pass"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=208, help="how many pictures and sentences")
    parser.add_argument("--only", nargs="+", choices=tuple(WAYS), help="ways of running; default: all")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--worker", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--export", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.export:
        from cpu_exports import export

        export(CHECKPOINT, arguments.export)
        return 0
    if arguments.worker:
        work(*arguments.worker)
        return 0
    from openvla_core.training.versions import run_facts

    chosen = dict.fromkeys([ORACLE, *(arguments.only or WAYS)])
    missing = {way: lacking for way in chosen if (lacking := not_installed(WAYS[way][0]))}
    with tempfile.TemporaryDirectory(prefix="cpu-inference-") as folder:
        draw_inputs(Path(folder) / "inputs.npz", arguments.pictures)
        if any(WAYS[way][0] in ("onnxruntime", "openvino") for way in chosen if way not in missing):
            print("exporting to ONNX, about a minute", flush=True)
            subprocess.run([sys.executable, __file__, "--export", folder], check=True, stderr=subprocess.DEVNULL)
        result = run_facts("onnx", "onnxruntime", "openvino") | {
            "pictures": arguments.pictures,
            "not_installed": missing,
        }
        workers = {way: Worker(way, Path(folder)) for way in chosen if way not in missing}
        try:
            for case, beside in (("alone", None), ("beside a busy process", BUSY)):
                result[case] = measure(workers, arguments.pictures, beside)
                print_case(case, result[case])
        finally:
            for worker in workers.values():
                worker.close()
    result["load_after"] = os.getloadavg()
    for way, lacking in missing.items():
        print(f"{way}: not installed ({', '.join(lacking)})")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def not_installed(library: str) -> list[str]:
    """The packages that this library lacks here; onnx and onnxscript write the files."""
    return [name for name in NEEDS[library] if find_spec(name) is None]


def draw_inputs(path: Path, count: int) -> None:
    """Pictures of the simulated cell in random states, every eighth one noise, each with a sentence."""
    from openvla_core.sim.rendering import prepare_headless

    prepare_headless()
    from openvla_core.sim.tabletop import TabletopSim, sample_cube_positions

    card = json.loads((CHECKPOINT / "training_card.json").read_text(encoding="utf-8"))
    random = np.random.default_rng(0)
    sim = TabletopSim()
    pictures = []
    for index in range(count):
        tool, opening = random.uniform((0.38, -0.2, 0.03), (0.65, 0.2, 0.30)), random.uniform()
        sim.place(tool, opening, sample_cube_positions(random))
        noise = random.integers(0, 256, (112, 112, 3), dtype=np.uint8)
        pictures.append(noise if index % 8 == 7 else sim.render("policy").copy())
    sim.close()
    sentences = random.choice(card["instructions"], count)
    np.savez(path, pictures=np.stack(pictures), sentences=sentences)


class Worker:
    """A process that runs one way of inference and answers with tokens, seconds and CPU seconds per picture."""

    def __init__(self, way: str, folder: Path) -> None:
        _, threads, environment = WAYS[way]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", way, str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started = self._read()

    def run(self, first: int, end: int) -> list[dict[str, Any]]:
        """The pictures from `first` to before `end`, one after the other."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{first} {end}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("="):  # anything else is a library talking
                return json.loads(line[1:])
        raise RuntimeError(f"the worker ended with exit code {self._process.wait()}")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(workers: dict[str, Worker], count: int, beside: str | None) -> dict[str, Any]:
    """Every way over all pictures, taking turns; percentiles and how many tokens equal those of the oracle."""
    busy = subprocess.Popen([sys.executable, "-c", beside]) if beside else None
    answers: dict[str, list[dict[str, Any]]] = {way: [] for way in workers}
    try:
        for first in range(0, count, TURN):
            for way, worker in workers.items():
                answers[way] += worker.run(first, min(first + TURN, count))
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()
    wanted = [answer["tokens"] for answer in answers[ORACLE]]
    return {way: summary(found, wanted) for way, found in answers.items()}


def summary(answers: list[dict[str, Any]], wanted: list[list[int]]) -> dict[str, Any]:
    """Milliseconds per action, CPU milliseconds per action, and the tokens that are not the oracle's."""
    seconds, cpu = ([answer[key] * 1e3 for answer in answers] for key in ("seconds", "cpu_seconds"))
    differing = [
        sum(a != b for a, b in zip(answer["tokens"], right, strict=True))
        for answer, right in zip(answers, wanted, strict=True)
    ]
    return {
        "p50_ms": round(float(np.percentile(seconds, 50)), 2),
        "p95_ms": round(float(np.percentile(seconds, 95)), 2),
        "cpu_p50_ms": round(float(np.percentile(cpu, 50)), 2),
        "tokens": sum(map(len, wanted)),
        "tokens_equal": sum(differing) == 0,
        "tokens_differing": sum(differing),
        "actions_differing": sum(count > 0 for count in differing),
    }


def print_case(case: str, ways: dict[str, dict[str, Any]]) -> None:
    """One table."""
    print(f"\n{case:24} p50 ms   p95 ms   CPU ms  against {ORACLE}  tokens that differ")
    for way, told in ways.items():
        gain = ways[ORACLE]["p50_ms"] / told["p50_ms"]
        print(
            f"{way:22}{told['p50_ms']:9.1f}{told['p95_ms']:9.1f}{told['cpu_p50_ms']:9.1f}{gain:14.2f} x"
            f"{told['tokens_differing']:12} of {told['tokens']}"
        )


# In the process of one way -------------------------------------------------------------------------------------------


def work(way: str, folder: str) -> None:
    """Answers requests on stdin: "first end" gives one entry per picture."""
    library, threads, _ = WAYS[way]
    with np.load(Path(folder) / "inputs.npz") as stored:
        pictures, sentences = stored["pictures"], stored["sentences"].tolist()
    from cpu_exports import make_runner

    predict = make_runner(library, threads, CHECKPOINT, Path(folder))
    for _ in range(3):
        predict(pictures[0], sentences[0])
    print("=" + json.dumps({"way": way}), flush=True)
    for line in sys.stdin:
        answers = []
        for index in range(*map(int, line.split())):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            tokens = predict(pictures[index], sentences[index])
            answers.append({
                "seconds": time.perf_counter() - wall_s,
                "cpu_seconds": time.process_time() - cpu_s,
                "tokens": [int(token) for token in tokens],
            })  # fmt: skip
        print("=" + json.dumps(answers), flush=True)


if __name__ == "__main__":
    sys.exit(main())
