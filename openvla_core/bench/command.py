"""openvla bench: the time of one action, mode against mode, and how near to what the machine allows.

openvla bench                                    the shipped checkpoint on the CPU, about a minute
openvla bench CHECKPOINT --device cuda --dtype bfloat16 --json out.json
openvla bench --device cuda --size 7b            full size with random weights, no checkpoint needed
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from openvla_core.bench import tables
from openvla_core.bench.answers import Runner
from openvla_core.bench.environment import environment, gpu_clocks
from openvla_core.bench.modes import DEFAULT, SWEEP, Mode, Workshop, all_modes, chosen_modes
from openvla_core.bench.peaks import measure_peaks
from openvla_core.bench.result import different, floor_results, mode_results
from openvla_core.bench.rounds import Limits, measure
from openvla_core.bench.subject import SIZES, Subject, image, open_subject
from openvla_core.errors import ConfigError, OpenVLAError
from openvla_core.json_file import write_json
from openvla_core.quiet import quiet
from openvla_core.weights import DTYPES

EXIT_DIFFERENT, EXIT_ERROR = 1, 3
# A few seconds are enough for a model of a few million weights; graphs and kernels of a large one are made meanwhile.
WARM_UP_S = {"cpu": 2.0, "cuda": 30.0}
WIDTH = 160
TOLERANCE = {"cpu": 0.05, "cuda": 0.01}


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 when a mode that promises the same tokens gave others in float32; 3 for what the user can correct."""
    options = build_parser().parse_args(argv)
    console = wide_console()
    try:
        result = run(options, Console(stderr=True))
        for path, write in ((options.json, write_json), (options.markdown, _write_markdown)):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, result)
    except OpenVLAError as error:
        Console(stderr=True).print(f"openvla bench: {error}", markup=False, soft_wrap=True)
        return EXIT_ERROR
    show(result, console)
    return EXIT_DIFFERENT if result["different"] else 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="openvla bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", type=Path, help="directory; default: the one that is shipped")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="7b: random weights of full size")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default cpu)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="default: float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--iters", type=int, default=60, help="rounds in which every mode is measured (default 60)")
    names = ", ".join([*all_modes(), SWEEP])
    parser.add_argument("--modes", help=f"comma-separated, of: {names} (default {','.join(DEFAULT)})")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default 1, as in the policy node)")
    parser.add_argument("--compile", action="store_true", help="compile the layers of the engine")
    parser.add_argument("--warm-up", type=float, help="most seconds of warm-up per mode")
    parser.add_argument("--json", type=Path, help="file for all figures and every sample")
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    return parser


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measures what the options ask for. Raises an OpenVLAError for what the user can correct."""
    if options.iters < 1 or options.threads < 1:
        raise ConfigError(f"iters is {options.iters} and threads {options.threads}; both must be at least 1.")
    device = checked_device(options.device)
    modes = chosen_modes(options.modes.split(",") if options.modes else DEFAULT)
    exact_arithmetic()
    torch.set_num_threads(options.threads)
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    subject = open_subject(options.size, options.checkpoint, options.device, dtype)
    limits = Limits(
        iterations=options.iters,
        warm_up_s=WARM_UP_S[device.type] if options.warm_up is None else options.warm_up,
        tolerance=TOLERANCE[device.type],
        stage_rounds=min(10, options.iters),
    )
    return bench(subject, modes, limits, console, options.compile)


def bench(
    subject: Subject, modes: Sequence[Mode], limits: Limits, console: Console, compile_layers: bool = False
) -> dict[str, Any]:
    """The result of measuring these modes of one subject; plain values, as `--json` writes them."""
    device = subject.device
    workshop = Workshop(subject, compile_layers, lambda sentence: console.print(sentence, markup=False))
    with quiet("transformers", "torchao"):
        weights = subject.facts
        clocks = [gpu_clocks()] if device.type == "cuda" else []
        peaks = measure_peaks(device, subject.dtype)
        runners, left_out = _make(workshop, modes)
        with _bar(console) as bar:
            samples = measure(runners, device, limits, bar)
        clocks += [gpu_clocks()] if device.type == "cuda" else []
        used = {mode.name: mode for mode in modes if mode.name in runners}
        results = mode_results(subject, used, samples)
    for name, runner in runners.items():
        results[name]["note"] = runner.note
    return {
        "device": str(device),
        "dtype": weights["dtype"],
        "iterations": limits.iterations,
        "instruction": subject.instruction,
        "tokens": subject.tokens,
        "count": subject.count,
        "weights": weights,
        "environment": environment(device),
        "gpu_clocks": clocks,
        "peaks": {"bytes_per_s": peaks.bytes_per_s, "flop_per_s": peaks.flop_per_s},
        "floors": floor_results(subject, peaks, [mode.quantization for mode in used.values()]),
        "modes": results,
        "left_out": left_out,
        "different": different(results, subject.dtype),
    }


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints the tables."""
    for line in tables.header(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for grid in tables.grids(result):
        console.print()
        console.print(grid.to_rich())
    if result["different"]:
        console.print(
            f"Not exact: {', '.join(result['different'])} gave other tokens than hf in float32.", style="bold red"
        )


def wide_console() -> Console:
    """Standard output; as wide as the tables where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def checked_device(name: str) -> torch.device:
    """Raises ConfigError for a device that is not here."""
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {str(error)[:200]}. Is 'cpu' meant?") from error
    if device.type not in WARM_UP_S:
        raise ConfigError(f"device is {name!r}; measured are cpu and cuda.")
    return device


def exact_arithmetic() -> None:
    """Products in the precision of their inputs: no float32 by TF32, no sums of bfloat16 in bfloat16."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def _make(workshop: Workshop, modes: Sequence[Mode]) -> tuple[dict[str, Runner], dict[str, str]]:
    """The modes that run here, and why the others do not. A quantization may have no kernel; it is tried once."""
    runners, left_out = {}, {}
    for mode in modes:
        try:
            runner = mode.make(workshop)
            if not mode.exact:
                runner(image(0))
        except (OpenVLAError, RuntimeError, NotImplementedError, ImportError) as error:
            if mode.exact:
                raise
            left_out[mode.name] = " ".join(str(error).split())[:300]
            workshop.forget(mode.quantization)
        else:
            runners[mode.name] = runner
    return runners, left_out


@contextmanager
def _bar(console: Console) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def _write_markdown(path: Path, result: Mapping[str, Any]) -> None:
    path.write_text(tables.markdown(result), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
