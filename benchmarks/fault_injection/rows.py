"""What a row of the table is, and how its trials are run and judged."""

import os
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import rclpy

from fault_injection.spy import Disturbed, Timeout

# Holds that a busy machine makes by itself, because a process was not scheduled. A trial in which one of these came
# where another was expected tells nothing about its fault: it is counted as disturbed and done again.
BY_LOAD = ("POSE_STALE", "POSE_OLD", "TICK_LATE", "TRACKING", "ACTION_STALE", "OBS_STALE")

COUNTS = ("late_stamps", "beginnings", "joined_late", "filled_in")  # what StreamCheck counts beside violations


@dataclass
class Trial:
    """One injection: the code that was seen, seconds from the fault to the first stop, what else is worth telling."""

    code: str
    hold_s: float | None = None
    ok: bool = True
    note: str = ""
    inputs: int = 1  # how many generated inputs were tried in it


@dataclass(frozen=True)
class Row:
    """One fault: `inject(cell, i)` does it once and returns a Trial. `cell` names the kind of cell, "" for none."""

    numbers: tuple[int, ...]
    fault: str
    expected: tuple[str, ...]
    inject: Callable
    cell: str
    repeats: int
    quick: int
    bound_s: float | None
    how: str
    tells_errors: bool = False  # its errors are meant to be in the logs

    @property
    def label(self) -> str:
        """The row's number in the table of faults."""
        return "/".join(map(str, self.numbers))


ROWS: list[Row] = []


def row(
    *numbers: int,
    fault: str,
    expected: str,
    cell: str = "",
    repeats: int = 3,
    quick: int = 1,
    bound_s: float | None = None,
    how: str = "processes",
    tells_errors: bool = False,
):
    """Registers an injection; `expected` are the codes that are right, separated by spaces."""

    def register(inject: Callable) -> Callable:
        codes = tuple(expected.split())
        ROWS.append(Row(numbers, fault, codes, inject, cell, repeats, quick, bound_s, how, tells_errors))
        return inject

    return register


@dataclass
class Outcome:
    """All trials of one row."""

    row: Row
    trials: list[Trial] = field(default_factory=list)
    commands: int = 0
    unsafe: Counter = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)  # the stream around the first unsafe command
    late_stamps: int = 0
    beginnings: int = 0
    joined_late: int = 0
    filled_in: int = 0
    disturbed: int = 0
    tracebacks: int = 0
    load: float = 0.0
    seconds: float = 0.0

    @property
    def codes(self) -> Counter:
        """How often each code was seen."""
        return Counter(trial.code for trial in self.trials)

    @property
    def times_ms(self) -> np.ndarray:
        """Times to the first stop, milliseconds."""
        return np.array([trial.hold_s * 1e3 for trial in self.trials if trial.hold_s is not None])

    @property
    def verdict(self) -> str:
        """ "ok", or what is wrong."""
        if sum(self.unsafe.values()):
            return "UNSAFE"
        if not self.trials or not all(trial.ok and trial.code in self.row.expected for trial in self.trials):
            return "WRONG"
        if self.tracebacks and not self.row.tells_errors:
            return "WRONG"
        late = self.row.bound_s is not None and len(self.times_ms) and self.times_ms.max() > self.row.bound_s * 1e3
        return "late" if late else "ok"

    def to_json(self) -> dict:
        """The facts of this row."""
        times = self.times_ms
        return {
            "row": self.row.label,
            "fault": self.row.fault,
            "how": self.row.how,
            "expected": list(self.row.expected),
            "seen": dict(self.codes),
            "trials": len(self.trials),
            "inputs": sum(trial.inputs for trial in self.trials),
            "bound_ms": None if self.row.bound_s is None else round(self.row.bound_s * 1e3),
            "hold_ms": summary(times),
            "times_ms": [round(float(time_ms), 1) for time_ms in times],
            "commands_checked": self.commands,
            "unsafe": dict(self.unsafe),
            "unsafe_examples": self.examples,
            "trace": self.trace,
            **{name: getattr(self, name) for name in COUNTS},
            "disturbed": self.disturbed,
            "tracebacks": self.tracebacks,
            "verdict": self.verdict,
            "notes": sorted({trial.note for trial in self.trials if trial.note})[:6],
            "failed": [asdict(t) for t in self.trials if not t.ok or t.code not in self.row.expected][:5],
            "load": round(self.load, 1),
            "seconds": round(self.seconds, 1),
        }


def summary(times_ms: np.ndarray) -> dict | None:
    """Count, median, 99 % quantile and maximum of times in milliseconds."""
    if not len(times_ms):
        return None
    figures = {"median": np.median(times_ms), "p99": np.percentile(times_ms, 99), "max": times_ms.max()}
    return {"n": len(times_ms), **{name: round(float(value), 1) for name, value in figures.items()}}


def run_row(row: Row, cell, repeats: int, on_trial: Callable[[], None], patience: int = 3) -> Outcome:
    """Injects a fault several times into one cell (None for rows without processes).

    So many trials more than `repeats` may be disturbed by the machine and done again.
    """
    outcome = Outcome(row, load=os.getloadavg()[0])
    started_s = time.monotonic()
    stream = cell.spy.stream if cell is not None else None
    if cell is not None:
        stream.flush()
        before = (stream.commands, stream.violations.copy(), len(stream.examples))
        counted = {name: getattr(stream, name) for name in COUNTS}
        tracebacks = cell.processes.tracebacks()
    while len(outcome.trials) < repeats and outcome.disturbed < repeats + patience:
        if sum(trial.code in ("TIMEOUT", "ASSERTION", "ERROR") for trial in outcome.trials) > 2:
            break  # the rest would only take time
        trial = run_trial(row, cell, len(outcome.trials))
        if trial is None:
            outcome.disturbed += 1
            continue
        outcome.trials.append(trial)
        if cell is not None and not outcome.trace and stream.violations != before[1]:
            outcome.trace = cell.spy.trace()
        on_trial()
    if cell is not None:
        time.sleep(0.35)  # the states around the last commands come after them
        cell.spy.catch_up()
        stream.finish()
        outcome.commands = stream.commands - before[0]
        outcome.unsafe = stream.violations - before[1]
        outcome.examples = stream.examples[before[2] :]
        for name in COUNTS:
            setattr(outcome, name, getattr(stream, name) - counted[name])
        outcome.tracebacks = cell.processes.tracebacks() - tracebacks
    outcome.seconds = time.monotonic() - started_s
    return outcome


def run_trial(row: Row, cell, index: int) -> Trial | None:
    """One injection; None when the machine itself made a hold that hides what the fault does."""
    begun_s = time.monotonic()
    try:
        if cell is not None:
            cell.recover()
            begun_s = time.monotonic()
        trial = row.inject(cell, index)
    except Disturbed:
        return None
    except Timeout as timeout:
        if cell is not None and set(cell.spy.codes_since(begun_s)) & set(BY_LOAD) - set(row.expected):
            return None
        return Trial("TIMEOUT", ok=False, note=str(timeout)[:300])
    except AssertionError as error:
        return Trial("ASSERTION", ok=False, note=str(error)[:300])
    except Exception:  # a mistake in one row must not cost the rows after it
        if not rclpy.ok():
            raise
        return Trial("ERROR", ok=False, note=traceback.format_exc()[-300:])
    return None if trial.code in BY_LOAD and trial.code not in row.expected else trial
