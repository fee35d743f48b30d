"""The result as tables, for a terminal and as markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from openvla_core.bench.floors import STAGES
from openvla_core.bench.modes import ACCEPTANCES, REFERENCE, sweep_name


@dataclass(frozen=True)
class Grid:
    """A titled table of texts; the first column is the name of the row. note: a sentence below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_rich(self) -> Table:
        table = Table(title=self.title, title_justify="left", caption=self.note or None, caption_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
        for row in self.rows:
            table.add_row(*(escape(cell) for cell in row))
        return table

    def to_markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns), _line(["---"] + ["---:"] * (len(self.columns) - 1))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else []), ""])


def grids(result: Mapping[str, Any]) -> list[Grid]:
    """All tables of a result that have something to say."""
    modes = result["modes"]
    found = [_times(modes), _stages(result), _exactness(modes, result["dtype"])]
    if any(sweep_name(p) in modes for p in ACCEPTANCES):
        found.append(_drafts(modes))
    if any(not figures["exact"] for figures in modes.values()):
        found.append(_quantized(modes))
    if result["left_out"]:
        rows = [[name, reason] for name, reason in result["left_out"].items()]
        found.append(Grid("Left out", ["mode", "why"], rows))
    return found


def header(result: Mapping[str, Any]) -> list[str]:
    """What was measured and where, as lines."""
    where, weights, peaks = result["environment"], result["weights"], result["peaks"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    return [
        f"model      {weights['source']}: {weights['parameters']:,} parameters, {weights['dtype']}, "
        f"checksum {weights['checksum'][:12]}",
        f"input      640 x 480 pixels, {result['tokens']} tokens with the patches, "
        f"{result['count']} tokens per action, {result['iterations']} rounds",
        f"machine    {where.get('gpu', where['cpu'])}, {where['usable_cores']} cores, {where['threads']} torch threads",
        f"versions   python {where['python']}, {versions}",
        f"measured   copy {peaks['bytes_per_s'] / 1e9:,.1f} GB/s, products {peaks['flop_per_s'] / 1e12:,.3f} Tflop/s",
    ]


def markdown(result: Mapping[str, Any]) -> str:
    """The whole report."""
    title = f"# One action: {result['weights']['source']} on {result['device']}"
    lines = [title, "", result["environment"]["date"], "", "```", *header(result), "```", ""]
    return "\n".join(lines + [grid.to_markdown() for grid in grids(result)])


def _times(modes: Mapping[str, Any]) -> Grid:
    columns = ["mode", "p50 ms", "p95 ms", "p99 ms", "Hz", "x hf", "CPU ms", "passes", "peak MB"]
    rows = [
        [
            name,
            *(f"{figures[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            f"{figures['hz']:.2f}",
            f"{figures['ratio_to_hf']:.2f}",
            f"{figures['cpu_ms']:.2f}",
            f"{figures['passes_mean']:.2f}",
            f"{figures['peak_mb']:,.0f}",
        ]
        for name, figures in modes.items()
    ]
    note = "From image and sentence to the action. passes: of the decoder after the prompt."
    return Grid("One action", columns, rows, note)


def _stages(result: Mapping[str, Any]) -> Grid:
    shown = [name for name, figures in result["modes"].items() if figures["stages_ms"] and "_p" not in name]
    floor = result["floors"]["none"]
    best = "engine" if "engine" in shown else shown[-1]
    columns = ["stage, ms", *shown, "floor", f"floor / {best}"]
    rows = []
    for stage in STAGES:
        given = [result["modes"][name]["stages_ms"] for name in shown]
        least = floor["stages"].get(stage, {}).get("floor_ms")
        if stage == "vision" and "projector" not in result["modes"][best]["stages_ms"]:
            least += floor["stages"]["projector"]["floor_ms"]
        reached = result["modes"][best]["stages_ms"].get(stage)
        share = f"{100 * least / reached:.0f} %" if least is not None and reached else ""
        label = f"decode, a pass (x {floor['passes']} without drafts)" if stage == "decode" else stage
        cells = [f"{one[stage]:.3f}" if stage in one else "with vision" for one in given]
        rows.append([label, *cells, "" if least is None else f"{least:.3f}", share])
    sums = [f"{result['modes'][name]['stages_sum_ms']:.2f}" for name in shown]
    whole = [f"{result['modes'][name]['p50_ms']:.2f}" for name in shown]
    rows.append(["sum, passes counted", *sums, f"{floor['floor_ms']:.2f}", ""])
    share = f"{100 * floor['floor_ms'] / result['modes'][best]['p50_ms']:.0f} %"
    rows.append(["one action, p50", *whole, f"{floor['floor_ms']:.2f}", share])
    note = (
        "Stages are measured apart, waiting for the device after each. Floor: the longer of computing and reading at "
        "the measured rates; weights that fit a cache are read faster than that."
    )
    return Grid("Stages", columns, rows, note)


def _exactness(modes: Mapping[str, Any], dtype: str) -> Grid:
    columns = ["mode", "tokens equal to hf", "actions equal", "near-ties among the others", "largest margin"]
    rows = []
    for name, figures in modes.items():
        if figures["exact"] and name != REFERENCE:
            one = figures["exactness"]
            ties = f"{one['explained']} of {one['looked_at']}" if one["looked_at"] else ""
            margin = f"{max(one['margins']):.3g}" if one["margins"] else ""
            equal = (f"{one['tokens_equal']}/{one['tokens']}", f"{one['actions_equal']}/{one['actions']}")
            rows.append([name, *equal, ties, margin])
    distinct = modes[REFERENCE]["exactness"]["distinct_answers"]
    rule = "all must be equal" if dtype == "float32" else "near-ties may be decided differently"
    return Grid("Exactness", columns, rows, f"In {dtype} {rule}. hf gave {distinct} different answers.")


def _drafts(modes: Mapping[str, Any]) -> Grid:
    columns = ["p of each guess", "accepted of proposed", "passes", "p50 ms", "Hz", "x hf"]
    rows = []
    for p in ACCEPTANCES:
        figures = modes.get(sweep_name(p))
        if figures is not None:
            counted = f"{figures['accepted']}/{figures['proposed']}"
            numbers = [f"{figures[key]:.2f}" for key in ("passes_mean", "p50_ms", "hz", "ratio_to_hf")]
            rows.append([f"{p:g}", counted, *numbers])
    note = "Guesses made from the right answer, to see what a proposer of that quality would give. No robot has this p."
    return Grid("Drafts of a chosen quality", columns, rows, note)


def _quantized(modes: Mapping[str, Any]) -> Grid:
    columns = ["mode", "tokens equal", "actions equal", "bins apart, mean", "bins apart, most"]
    rows = []
    for name, figures in modes.items():
        if not figures["exact"]:
            one = figures["exactness"]
            shares = (one["tokens_equal"] / one["tokens"], one["actions_equal"] / one["actions"])
            rows.append([name, *(f"{100 * s:.1f} %" for s in shares), f"{one['bins_mean']:.2f}", str(one["bins_max"])])
    return Grid("Quantized: not exact", columns, rows, "Against hf with the full weights; a bin is 1/128 of the range.")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
