"""The results as a table for the terminal, as JSON and as the page docs/faults.md."""

from fault_injection.rows import Outcome

NOT_INJECTED = {
    "53": "12 participants are added, not 60 to 100: more would take the machine from whoever shares it",
    "51": "doubled, reordered and old messages are made by the policy; loss and delay by tc netem are not made",
    "19": "a GPU that is really full needs a GPU; the model raises the error that torch raises then",
    "20": "a CUDA context that is really broken needs a GPU; its error and an abort of the process are made instead",
    "42": "a minute of motion is in the script (--rows 42), no soak of hours is",
    "49": "the clock that jumps is that of a simulation (/clock); the wall clock of a shared machine is left alone",
    "59": "disk full and I/O errors belong to the recorder: benchmarks/recorder_crash.py",
    "60": "a killed recorder: benchmarks/recorder_crash.py",
    "61": "damaged bags: test/core/datasets",
    "62": "a training that is killed: no training job runs in this graph; see the tests of the training",
}


def results(outcomes: list[Outcome], machine: dict, before: list[dict]) -> dict:
    """Everything that was seen, with the rows of an earlier run that were not run again."""
    new = [outcome.to_json() for outcome in outcomes]
    again = {row["fault"] for row in new}
    rows = [row for row in before if row["fault"] not in again] + new
    rows.sort(key=lambda row: numbers_of(row))
    numbers = sorted({number for row in rows for number in numbers_of(row)})
    return {
        **machine,
        "rows_injected": len(numbers),
        "numbers": numbers,
        "injections": sum(row["trials"] for row in rows),
        "commands_checked": sum(row["commands_checked"] for row in rows),
        "unsafe_commands": sum(sum(row["unsafe"].values()) for row in rows),
        "late_stamps": sum(row["late_stamps"] for row in rows),
        "rows": rows,
        "not_injected": NOT_INJECTED,
    }


def numbers_of(row: dict) -> list[int]:
    """The numbers of a row in the table of faults."""
    return [int(number) for number in row["row"].split("/")]


def table(results: dict) -> str:
    """Text for the terminal."""
    lines = ["        row verdict   n  median    p99    max  bound unsafe  fault: seen"]
    for row in results["rows"]:
        hold = row["hold_ms"] or {}
        times = " ".join(f"{hold.get(key, '-'):>{width}}" for key, width in (("median", 7), ("p99", 6), ("max", 6)))
        seen = ", ".join(f"{code} x{count}" if count > 1 else code for code, count in row["seen"].items())
        lines.append(
            f"{row['row']:>11} {row['verdict']:7} {row['trials']:>3} {times} {row['bound_ms'] or '-':>6} "
            f"{sum(row['unsafe'].values()):>6}  {row['fault']}: {seen}"
        )
        lines += [f"{'':12}note: {note}" for note in row["notes"]] + [
            f"{'':12}{text}" for text in row["unsafe_examples"][:3]
        ]
        lines += [f"{'':12}FAILED: {trial}" for trial in row["failed"]]
    lines.append(
        f"{results['rows_injected']} of 62 rows, {results['injections']} injections, {results['commands_checked']:,} "
        f"commands checked, {results['unsafe_commands']} unsafe, {results['late_stamps']} late stamps; load "
        f"{results['machine']['load'][0]:.1f} on {results['machine']['cpu_count']} cores"
    )
    return "\n".join(lines)


HEAD = """# Faults, and what they end in

Made by `python benchmarks/faults.py --markdown docs/faults.md`: each fault is injected into real processes (the
controller always, the policy or a stub of it, a pretend robot), while a spy checks every command that is sent to the
robot: finite, within the limits of speed, acceleration and jerk and the workspace box, stamps increasing, unit
quaternions without a change of sign, no motion in a hold, nothing done by an image older than 0.5 s, first command
where the arm is. "Time" is from the fault to the first report of a stop, in milliseconds: median / 99 % / longest.
Rows whose way is "in process" are decided before anything runs and are tried on the real code with generated input.

"late" means that the right thing happened, but later than the bound. The machine is shared: compare the load.
"""


def markdown(results: dict) -> str:
    """The page docs/faults.md."""
    load = results["machine"]["load"][0]
    lines = [
        HEAD,
        f"Run of {results['date'][:10]}: {results['machine']['cpu_count']} cores, load {load:.1f}, Python "
        f"{results['versions']['python']}. {results['rows_injected']} of 62 rows, {results['injections']} injections, "
        f"{results['commands_checked']:,} commands checked, **{results['unsafe_commands']} unsafe**.",
        "",
        "| Row | Fault | How | Expected | Seen | Times | Time, ms | Bound | Unsafe | Verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        hold = row["hold_ms"]
        times = f"{hold['median']:.0f} / {hold['p99']:.0f} / {hold['max']:.0f}" if hold else ""
        seen = ", ".join(f"`{code}` x {count}" for code, count in row["seen"].items())
        expected = " or ".join(f"`{code}`" for code in row["expected"])
        lines.append(
            f"| {row['row']} | {row['fault']} | {row['how']} | {expected} | {seen} | {row['trials']} | {times} | "
            f"{row['bound_ms'] or ''} | {sum(row['unsafe'].values())} | {row['verdict']} |"
        )
    lines += ["", "## How these figures came about", "", *(f"- {text}" for text in results.get("runs", ["One run."]))]
    notes = [(row["row"], note) for row in results["rows"] for note in row["notes"]]
    lines += ["", "## Notes of the run", "", *(f"- Row {number}: {note}" for number, note in notes)]
    lines += ["", "## What is not injected here, or only in part", ""]
    lines += [f"- Row {number}: {why}." for number, why in results["not_injected"].items()]
    return "\n".join(lines) + "\n"
