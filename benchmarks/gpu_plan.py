"""Everything worth measuring on a borrowed GPU, in one command that ends within 30 minutes.

    python benchmarks/gpu_plan.py --out results                          # one GPU with 80 GB, no checkpoint needed
    python benchmarks/gpu_plan.py --out results --only bf16,drafts       # some of the steps
    python benchmarks/gpu_plan.py --out results --device cpu --size tiny --quick    # the rehearsal, seconds

Each step is a process of its own with a limit of time; it leaves NAME.json and NAME.log in the folder. A step that
fails or is too slow is recorded as such, and the next one begins. summary.json holds what became of all of them.
Nothing on the GPU is set or reset.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from openvla_core.bench import command, tables
from openvla_core.bench.environment import environment, gpu_clocks
from openvla_core.bench.lora_step import lora_steps, qlora_memory
from openvla_core.bench.modes import Workshop, all_modes, chosen_modes
from openvla_core.bench.peaks import measure_peaks
from openvla_core.bench.rounds import Limits
from openvla_core.bench.subject import Subject, image, open_subject
from openvla_core.bench.trace import trace
from openvla_core.errors import OpenVLAError
from openvla_core.json_file import write_json
from openvla_core.model.language_model import NOISY
from openvla_core.quiet import quiet

ROOT = Path(__file__).resolve().parents[1]
DONE, NOT_HERE, FAILED, TOO_SLOW = "done", "not here", "failed", "too slow"


@dataclass(frozen=True)
class Plan:
    """What is run and how much of it. quick: as little as shows that every step works."""

    device: str
    size: str
    out: Path
    quick: bool

    @property
    def on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.on_cuda else "float32"

    def few(self, many: int) -> int:
        return 2 if self.quick else many

    def subject(self, dtype: str | None = None) -> Subject:
        """Opens the model anew, in the process of the step."""
        command.exact_arithmetic()
        torch.set_num_threads(1)
        return open_subject(self.size, None, self.device, dtype or self.dtype)


@dataclass(frozen=True)
class Step:
    """seconds: after which it is ended. run: returns plain values; OpenVLAError: it cannot be done here."""

    name: str
    seconds: int
    run: Callable[[Plan], dict[str, Any]]


def facts(plan: Plan) -> dict[str, Any]:
    device = command.checked_device(plan.device)
    peaks = {
        name: vars(measure_peaks(device, dtype))
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
        if plan.on_cuda or name == plan.dtype
    }
    clocks = gpu_clocks() if plan.on_cuda else ""
    return {"environment": environment(device), "peaks": peaks, "gpu_clocks": clocks}


def tests(plan: Plan) -> dict[str, Any]:
    if not plan.on_cuda:
        raise OpenVLAError("the tests in test/gpu need a GPU.")
    called = [sys.executable, "-m", "pytest", "-q", str(ROOT / "test" / "gpu")]
    done = subprocess.run(called, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}")
    return {"last_line": done.stdout.strip().splitlines()[-1]}


def exactness(plan: Plan) -> dict[str, Any]:
    """In float32 every token must be that of `generate`."""
    result = _bench(plan, "hf,eager,engine,engine_draft,drafts", plan.few(50), dtype="float32", name="exactness")
    if result["different"]:
        raise RuntimeError(f"{', '.join(result['different'])} gave other tokens than hf in float32")
    return result


def all_exact_modes(plan: Plan) -> dict[str, Any]:
    return _bench(plan, "hf,hf_static,eager,engine,policy,engine_draft", plan.few(60), name="modes")


def compiled(plan: Plan) -> dict[str, Any]:
    if not plan.on_cuda:
        raise OpenVLAError("compiling takes minutes on a CPU and is not worth it there.")
    return _bench(plan, "hf,engine,engine_draft", plan.few(60), name="compiled", compile_layers=True)


def quantized(plan: Plan) -> dict[str, Any]:
    return _bench(plan, "hf,engine,engine_int8,engine_int4,engine_fp8,engine_nf4", plan.few(40), name="quantized")


def drafts(plan: Plan) -> dict[str, Any]:
    return _bench(plan, "hf,engine,drafts", plan.few(60), name="drafts")


def traces(plan: Plan) -> dict[str, Any]:
    subject = plan.subject()
    workshop, known = Workshop(subject), all_modes()
    found = {}
    for name in ("hf", "engine"):
        runner = known[name].make(workshop)
        file = plan.out / f"trace-{name}.json"
        found[name] = trace(lambda runner=runner: runner(image(0)), subject.device, file)
    return found


def lora(plan: Plan) -> dict[str, Any]:
    if importlib.util.find_spec("peft") is None:
        raise OpenVLAError("adapters need the package peft.")
    subject = plan.subject()
    peaks = measure_peaks(subject.device, subject.dtype)
    return lora_steps(subject, peaks, plan.few(16), plan.few(8), compiled=plan.on_cuda and not plan.quick)


def qlora(plan: Plan) -> dict[str, Any]:
    return qlora_memory(plan.subject(), plan.few(16))


STEPS = (
    Step("facts", 30, facts),
    Step("tests", 150, tests),
    Step("exactness", 180, exactness),
    Step("modes", 300, all_exact_modes),
    Step("compiled", 330, compiled),
    Step("quantized", 200, quantized),
    Step("drafts", 120, drafts),
    Step("traces", 100, traces),
    Step("lora", 220, lora),
    Step("qlora", 120, qlora),
)


def main(argv: list[str] | None = None) -> int:
    """0 when no step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--quick", action="store_true", help="two rounds of everything: does it work at all?")
    parser.add_argument("--only", help=f"comma-separated, of: {', '.join(step.name for step in STEPS)}")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    names = options.only.split(",") if options.only else [step.name for step in STEPS]
    unknown = set(names) - {step.name for step in STEPS}
    if unknown:
        parser.error(f"no step is called {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(options.device, options.size, options.out, options.quick)
    if options.in_process:
        for step in STEPS:
            if step.name in names:
                in_process(step, plan)
        return 0
    if not plan.on_cuda:
        load_libraries()
    outcomes = {}
    for step in STEPS:
        if step.name in names:
            outcomes[step.name] = outcome = attempt(step, plan)
            print(f"{step.name:<10} {outcome['outcome']:<9} {outcome['seconds']:6.1f} s  {outcome.get('why', '')}")
            write_json(plan.out / "summary.json", {"steps": outcomes})
    print(f"saved {plan.out / 'summary.json'}")
    return int(any(outcome["outcome"] in (FAILED, TOO_SLOW) for outcome in outcomes.values()))


def load_libraries() -> None:
    """What the steps would import one after the other."""
    for name in ("transformers.generation.utils", "transformers.models.llama", "torchao.quantization", "peft"):
        with contextlib.suppress(ImportError), quiet(*NOISY):
            importlib.import_module(name)


def attempt(step: Step, plan: Plan) -> dict[str, Any]:
    """Runs a step in a process of its own and tells what became of it."""
    file = plan.out / f"{step.name}.json"
    file.unlink(missing_ok=True)
    started = time.perf_counter()
    if plan.on_cuda:
        # A new interpreter: what a library asks a GPU while it is imported here would keep a fork from using it.
        called = [sys.executable, __file__, "--only", step.name, "--in-process", "--out", str(plan.out)]
        called += ["--device", plan.device, "--size", plan.size, *(["--quick"] if plan.quick else [])]
        ended = _waited_for(subprocess.Popen(called, start_new_session=True), step.seconds)
    else:
        ended = _forked(step, plan)
    seconds = round(time.perf_counter() - started, 1)
    if ended is None:
        return {"outcome": TOO_SLOW, "seconds": seconds, "why": f"not done after {step.seconds} s"}
    if not file.exists():
        return {"outcome": FAILED, "seconds": seconds, "why": f"the process ended with {ended}"}
    written = json.loads(file.read_text(encoding="utf-8"))
    return {**{key: written[key] for key in ("outcome", "why") if key in written}, "seconds": seconds}


def _waited_for(process: subprocess.Popen, seconds: float) -> int | None:
    """Its exit code; None when it had to be ended, with everything that it started."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def _forked(step: Step, plan: Plan) -> int | None:
    """The same without importing everything again."""
    process = multiprocessing.get_context("fork").Process(target=in_process, args=(step, plan))
    process.start()
    process.join(step.seconds)
    if not process.is_alive():
        return process.exitcode
    process.kill()
    process.join()
    return None


def in_process(step: Step, plan: Plan) -> None:
    """Runs the step here; its result goes to NAME.json, what it prints to NAME.log."""
    with (plan.out / f"{step.name}.log").open("w", encoding="utf-8", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            result = {"outcome": DONE, **step.run(plan)}
        except OpenVLAError as error:
            result = {"outcome": NOT_HERE, "why": str(error)}
        except Exception as error:  # noqa: BLE001  # the next step has to begin whatever this one met
            why = f"{type(error).__name__}: {error}"[:500]
            result = {"outcome": FAILED, "why": why, "where": traceback.format_exc()}
        write_json(plan.out / f"{step.name}.json", result)


def _bench(
    plan: Plan, modes: str, rounds: int, name: str, dtype: str | None = None, compile_layers: bool = False
) -> dict[str, Any]:
    limits = Limits(
        iterations=rounds,
        warm_up_s=0.0 if plan.quick else 20.0,
        warm_up_calls=1 if plan.quick else 5,
        tolerance=0.01,
        stage_rounds=1 if plan.quick else 10,
    )
    subject = plan.subject(dtype)
    result = command.bench(subject, chosen_modes(modes.split(",")), limits, Console(stderr=True), compile_layers)
    (plan.out / f"{name}.md").write_text(tables.markdown(result), encoding="utf-8")
    command.show(result, command.wide_console())
    return result


if __name__ == "__main__":
    sys.exit(main())
