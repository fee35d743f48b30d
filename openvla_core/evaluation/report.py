"""What a person reads during and after an evaluation, on the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openvla_core.evaluation.results import EpisodeRow, summarize

MOSTLY = 0.9  # share of the predicted actions that a machine with time to spare applies
COLORS = {"success": "green", "shown": "yellow"}


def row_line(row: EpisodeRow, rows: Sequence[EpisodeRow]) -> str:
    """One line about an episode, in rich's markup, with the successes so far."""
    color = COLORS.get(row.outcome, "red")
    done = sum(other.success for other in rows)
    return (
        f"{row.index + 1:4d}  [{color}]{row.outcome:12s}[/{color}] {row.duration_s:5.1f} s  {row.actions:3d} actions  "
        f'"{escape(row.instruction)}"  [dim]{done}/{len(rows)}[/dim]'
    )


def print_report(console: Console, rows: Sequence[EpisodeRow]) -> None:
    """Prints success with 95 % Wilson intervals, wrong objects, the policy's rate and the latency."""
    summary = summarize(rows)
    if summary["success"]["of"]:
        console.print(success_table(summary))
    if any(row.outcome == "shown" for row in rows):
        console.print("This sentence is not one of the tasks that can be judged: see the video.")
    latency = summary["latency_ms"]
    if latency["count"]:
        console.print(
            f"policy {summary['policy_hz']} Hz, photon to command p50 {latency['p50']} ms, p95 {latency['p95']} ms "
            f"({latency['count']} actions)"
        )
    else:
        console.print("No action was applied.")
    actions = summary["actions"]
    if actions["applied"] < MOSTLY * actions["predicted"]:
        console.print(
            f"The controller took only {actions['applied']} of {actions['predicted']} predicted actions; the others "
            "came too late or were refused. If other programs keep this machine busy, the figures above speak of them."
        )


def success_table(summary: dict[str, Any]) -> Table:
    """A row per task: success with its interval, wrong objects, median time of the successes."""
    table = Table(title=f"{summary['successes']} of {summary['episodes']} episodes succeeded")
    for heading in ("task", "success", "95 % interval", "wrong object", "median time"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for task, values in summary["per_task"].items():
        seconds = values["median_duration_s"]
        table.add_row(
            task, *rate_cells(values["success"]), percent(values["wrong_object"]), f"{seconds} s" if seconds else "-"
        )
    if summary["swap"]:
        table.add_row("both sentences of a scene", *rate_cells(summary["swap"]["both"]), "", "")
    return table


def rate_cells(rate: dict[str, Any]) -> tuple[str, str]:
    """Count with percentage, and interval, as table cells."""
    low, high = rate["wilson95"]
    return percent(rate), f"{100 * low:.1f} to {100 * high:.1f} %"


def percent(rate: dict[str, Any]) -> str:
    """A count with its percentage."""
    return f"{rate['count']}/{rate['of']} = {100 * rate['rate']:.1f} %"
