"""Runs the rows, cell by cell, and shows how far it is."""

import os
import platform
import random
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fault_injection.rows import Outcome, Row, Trial, run_row
from fault_injection.spy import Timeout


def enter_private_domain() -> None:
    """A domain of our own on this machine only; then rclpy may start."""
    from openvla_ros.demo import free_domain

    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ["ROS_DOMAIN_ID"] = str(free_domain())
    import rclpy

    from openvla_ros import preflight

    preflight.enter([])
    rclpy.init()


def load_rows() -> None:
    """Importing these registers their rows."""
    from fault_injection import (  # noqa: F401
        authority_faults,
        camera_faults,
        data_faults,
        file_faults,
        picture_faults,
        policy_faults,
        robot_faults,
        stream_faults,
    )


def make_cell(kind: str):
    """The cell of that name, its arm moving."""
    from fault_injection.cell import GripperCell, JointCell, RobotCell, SimCell, UnheardCell
    from fault_injection.special_cells import CELLS

    kinds = {"robot": RobotCell, "sim": SimCell, "gripper": GripperCell, "joints": JointCell}
    kinds |= {"unheard": UnheardCell, **CELLS}
    cell = kinds[kind]()
    try:
        return cell.open()
    except BaseException:
        for name in ("robot", "controller", "policy"):
            print(f"--- {name}\n{cell.processes.log(name)[-1500:]}")
        cell.close()
        raise


def run(by_cell: dict[str, list[Row]], repeat: int, quick: bool, save: Callable) -> list[Outcome]:
    """Every row, those of one kind of cell together; a row without repeats is left out."""
    random.seed(1)

    def count(row: Row) -> int:
        return repeat or (row.quick if quick else row.repeats)

    outcomes = []
    columns = (TextColumn("{task.description:60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=sum(count(row) for rows in by_cell.values() for row in rows))
        for kind, rows in by_cell.items():
            rows = [row for row in rows if count(row)]
            progress.update(task, description=f"starting the cell {kind!r}")
            try:
                cell = make_cell(kind) if kind and rows else None
            except Timeout as timeout:
                progress.print(f"the cell {kind!r} did not start: {timeout}")
                outcomes += [Outcome(row, [Trial("NO_CELL", ok=False, note=str(timeout))]) for row in rows]
                continue
            for row in rows:
                progress.update(task, description=f"{row.label}: {row.fault}"[:60])
                outcome = run_row(row, cell, count(row), lambda: progress.advance(task))
                outcomes.append(outcome)
                save(outcomes)
                progress.print(f"{row.label:>6} {outcome.verdict:7} {row.fault[:58]:58} {dict(outcome.codes)}")
                for text in [*outcome.examples[:3], *(t.note for t in outcome.trials if not t.ok)]:
                    progress.print(f"       {text}", markup=False)
            if cell is not None:
                for outcome in outcomes[-1:]:
                    outcome.examples += [f"tracebacks in the logs: {n}" for n in [cell.processes.tracebacks()] if n]
                cell.close()
    return sorted(outcomes, key=lambda outcome: outcome.row.numbers)


def machine() -> dict:
    """Where and with what this ran."""
    versions = {"python": platform.python_version()}
    for name in ("numpy", "rclpy", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not a package"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"cpu_count": os.cpu_count(), "architecture": platform.machine(), "load": os.getloadavg()},
        "versions": versions,
        "seconds": round(time.monotonic()),
    }
