"""The results as a table for the terminal, as JSON and as the page docs/faults.md."""

from pathlib import Path

from fault_injection.rows import COUNTS, Outcome

# Of the 62 rows of the fault table: what of a row is not injected here, and why.
NOT_INJECTED = {
    "19": "a GPU that is really full needs a GPU: the model raises the error that torch raises then",
    "20": "a CUDA context that is really broken needs a GPU: its error and an abort of the process are made instead",
    "42": "growth over minutes of work is measured, no soak of hours: a leak of 1 MB per hour would not be seen",
    "49": "the clock that jumps is that of a simulation (/clock): the wall clock of a shared machine is left alone",
    "51": "doubled, reordered and old messages are made by the policy; loss and delay by `tc netem` are not made, "
    "because processes of one machine talk through shared memory",
    "53": "12 participants join, not 60 to 100: more would take the machine from whoever shares it",
    "59": "the disk is full; a failing disk (EIO) and a read-only one are in the tests of the recorder only",
    "62": "a training that goes on with another number of processes or another recipe is in the tests of the training",
}

MOST_JOINED_LATE = 0.02  # of all beginnings of the stream: above that the report says that too little was judged

GROUPS = (
    (10, "Camera"),
    (25, "Model and inference"),
    (32, "Instruction"),
    (43, "Processes and load"),
    (51, "Robot state, frames, clocks"),
    (58, "Who may command, emergency stop"),
    (62, "Recordings and training"),
)


def results(outcomes: list[Outcome], machine: dict, before: dict | None = None) -> dict:
    """Everything that was seen; machine: where and when. before: of an earlier run, from which other rows are kept."""
    rows = [outcome.to_json() for outcome in outcomes]
    if before is not None:
        kept = {row["fault"]: row for row in before["rows"]}
        for row in rows:
            verdict = kept.pop(row["fault"], {}).get("verdict", "not run")
            row["run_again"] = f"{machine['date'][:16]}, before {verdict}"
        rows += kept.values()
        machine = {key: before[key] for key in machine}
    rows.sort(key=lambda row: numbers_of(row))
    numbers = sorted({number for row in rows for number in numbers_of(row)})
    live = [row for row in rows if row["how"] == "processes"]
    return {
        **machine,
        "rows_injected": len(numbers),
        "numbers": numbers,
        "numbers_with_processes": sorted({number for row in live for number in numbers_of(row)}),
        "injections": sum(row["trials"] for row in live),
        "inputs": sum(row["inputs"] for row in rows if row["inputs"] > row["trials"]),
        "commands_checked": sum(row["commands_checked"] for row in rows),
        "unsafe_commands": sum(sum(row["unsafe"].values()) for row in rows),
        **{name: sum(row.get(name, 0) for row in rows) for name in COUNTS},
        "disturbed": sum(row["disturbed"] for row in rows),
        "rows": rows,
        "not_injected": NOT_INJECTED,
    }


def numbers_of(row: dict) -> list[int]:
    """The numbers of a row in the table of faults."""
    return [int(number) for number in row["row"].split("/")]


def never(results: dict) -> list[int]:
    """Numbers of the table of faults that were not injected at all."""
    return sorted(set(range(1, 63)) - set(results["numbers"]))


def table(results: dict) -> str:
    """Text for the terminal."""
    lines = ["        row verdict   n  median    p99    max  bound unsafe  fault: expected; seen"]
    for row in results["rows"]:
        hold = row["hold_ms"] or {}
        times = " ".join(f"{hold.get(key, '-'):>{width}}" for key, width in (("median", 7), ("p99", 6), ("max", 6)))
        seen = ", ".join(f"{code} x{count}" if count > 1 else code for code, count in row["seen"].items())
        lines.append(
            f"{row['row']:>11} {row['verdict']:7} {row['trials']:>3} {times} {row['bound_ms'] or '-':>6} "
            f"{sum(row['unsafe'].values()):>6}  {row['fault']}: {' or '.join(row['expected'])}; {seen}"
        )
        lines += [f"{'':12}note: {note}" for note in row["notes"]] + [
            f"{'':12}{text}" for text in row["unsafe_examples"][:3]
        ]
        lines += [f"{'':12}FAILED: {trial}" for trial in row["failed"]]
        if row["disturbed"] or row["tracebacks"]:
            lines.append(f"{'':12}{row['disturbed']} disturbed trials, {row['tracebacks']} tracebacks")
    lines += [f"{'':4}row {number} only in part: {why}" for number, why in results["not_injected"].items()]
    lines += [f"{'':4}row {number} not injected in this run" for number in never(results)]
    lines.append(
        f"{results['rows_injected']} of 62 rows ({len(results['numbers_with_processes'])} with real processes), "
        f"{results['injections']} injections, {results['commands_checked']:,} commands checked, "
        f"{results['unsafe_commands']} unsafe, {results['late_stamps']} late stamps, {results['disturbed']} disturbed "
        f"trials; {heard(results)} Load {results['machine']['load'][0]:.1f} on {results['machine']['cpu_count']} cores"
    )
    return "\n".join(lines)


def heard(results: dict) -> str:
    """What the spy did not hear, and so could not judge, or judged by what the controller showed."""
    late, beginnings = results.get("joined_late", 0), results.get("beginnings", 0)
    return (
        f"of {beginnings:,} beginnings of the stream {late:,} were joined late and not judged, and "
        f"{results.get('filled_in', 0):,} commands were judged as the controller showed them.{warning(results)}"
    )


def warning(results: dict) -> str:
    """Says it when the place where a stream began was not judged too often; else nothing."""
    if results.get("joined_late", 0) <= MOST_JOINED_LATE * results.get("beginnings", 0):
        return ""
    return f" TOO MANY beginnings were not judged: more than {MOST_JOINED_LATE:.0%}. Run it on a quieter machine."


HOW = """Made by `python benchmarks/faults.py --markdown docs/faults.md`. The controller is always the real process; so
is whatever is killed or stopped, and for the camera, the model and the instruction the policy with its checkpoint. The
robot is a pretend one with a real interface. A spy hears every command as the robot does and calls it unsafe when it
is not finite, too fast, accelerates or jerks beyond the limits, leaves the workspace box, moves in a hold, begins where
the arm is not, is stamped out of order or in another frame, is not what the controller shows, toggles the gripper
within 0.3 s or moves it in a hold, or follows an image older than 0.5 s. That the spy sees each of these is tested
(`test/end_to_end/test_fault_spy.py`). Commands are numbered by the middleware: those that a spy on a busy machine did
not hear are judged as the controller shows them on `controller_node/commanded_pose`, and where they are missing there
too, the place where the stream began is not judged, and counted.

*Time* is from the fault to the moment the controller sends its report of a hold, in milliseconds. *Seen* counts the
injections; a row "in process" is decided before anything runs, and counts generated inputs. *late*: right, but after
the bound. T_a, the time-out for a policy, is 150 ms with the stub (10 Hz) and 200 ms with the real policy (7.5 Hz)."""


def headline(results: dict) -> str:
    """The result in a sentence or two."""
    rows = results["rows"]
    unsafe, commands = results["unsafe_commands"], results["commands_checked"]
    wrong = [row for row in rows if row["verdict"] not in ("ok", "late")]
    late = [row for row in rows if row["verdict"] == "late"]
    bounded = [row for row in rows if row["bound_ms"] and row["hold_ms"]]
    text = (
        f"**{unsafe or 'Not one'} of {commands:,} commands to the robot {'were' if unsafe > 1 else 'was'} unsafe while "
        f"{results['rows_injected']} of the 62 faults were injected, {results['injections']:,} times into running "
        f"processes and as {results['inputs']:,} damaged inputs.** "
    )
    text += f"In {len(rows) - len(wrong)} of {len(rows)} rows every injection ended in what was expected"
    text += "; not in " + "; ".join(f"row {row['row']} ({row['fault']})" for row in wrong) + ". " if wrong else ". "
    text += f"Of {len(bounded)} rows with a bound on the time to hold, {len(bounded) - len(late)} kept it every time"
    text += "; not " + ", ".join(f"row {row['row']} ({row['fault']})" for row in late) + "." if late else "."
    return text + warning(results)


def line_of(row: dict) -> str:
    """One line of the table."""
    hold = row["hold_ms"]
    times = " | ".join(f"{hold[key]:.0f}" for key in ("median", "p99", "max")) if hold else " | | "
    if row["how"] == "processes":
        seen = ", ".join(f"{count} x `{code}`" for code, count in row["seen"].items())
    else:
        seen = f"in process: {row['inputs']:,} x " + ", ".join(f"`{code}`" for code in row["seen"])
    expected = " or ".join(f"`{code}`" for code in row["expected"])
    verdict = row["verdict"] if row["verdict"] == "ok" else f"**{row['verdict']}**"
    return (
        f"| {row['row']} | {row['fault']} | {expected} | {seen} | {times} | {row['bound_ms'] or ''} | "
        f"{sum(row['unsafe'].values())} | {verdict} |"
    )


def markdown(results: dict, plot: Path | None = None) -> str:
    """The page docs/faults.md; plot: of the picture beside it, relative to the page."""
    machine = results["machine"]
    lines = ["# Faults, and what they end in", "", headline(results), "", HOW, ""]
    load, date, python = machine["load"][0], results["date"][:10], results["versions"]["python"]
    lines += [
        f"Run of {date}: {machine['cpu_count']} cores, load {load:.1f} at its end, Python {python}. "
        f"{results['disturbed']} trials were done again because the busy machine itself had made the arm hold; "
        f"{results['late_stamps']} commands had a late stamp, which is no violation; {heard(results)}",
        "",
    ]
    again = [f"{row['row']} ({row['run_again']})" for row in results["rows"] if "run_again" in row]
    if again:
        lines += [f"Run again later, in place of what the whole run had seen: row {', '.join(again)}.", ""]
    if plot is not None:
        lines += [f"![Time to hold per fault, with the bound]({plot.as_posix()})", ""]
    first = 1
    for last, title in GROUPS:
        rows = [row for row in results["rows"] if first <= numbers_of(row)[0] <= last]
        first = last + 1
        if rows:
            lines += [f"## {title}", "", "| Row | Fault | Expected | Seen | Median | p99 | Max | Bound | Unsafe | |"]
            lines += ["|---|---|---|---|---|---|---|---|---|---|", *(line_of(row) for row in rows), ""]
    lines += ["## What is not injected, or only in part", ""]
    lines += [f"- Row {number}: {why}." for number, why in results["not_injected"].items()]
    lines += [f"- Row {number}: not in this run." for number in never(results)]
    notes = [(row["row"], note) for row in results["rows"] for note in row["notes"]]
    lines += ["", "## Notes of the run", "", *(f"- Row {number}: {note}" for number, note in notes)]
    return "\n".join(lines) + "\n"
