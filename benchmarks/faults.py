"""Injects the faults of docs/faults.md into real processes and tells what each of them ended in.

    python benchmarks/faults.py                     # every row, 20 to 25 minutes
    python benchmarks/faults.py --quick             # every row once or a few times
    python benchmarks/faults.py --rows 11,33        # some rows
    python benchmarks/faults.py --json out.json --markdown docs/faults.md --plot docs/images/faults.png
    python benchmarks/faults.py --report --json out.json --markdown docs/faults.md    # of what was run before

The controller is always the real one, in a process of its own, and so is whatever is killed or stopped. A spy records
every command and checks it: finite, within speed, acceleration, jerk and box, no motion in a hold, and so on.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="numbers of rows, such as 11,33; empty: all")
    parser.add_argument("--repeat", type=int, default=0, help="injections per row; 0: what the row says")
    parser.add_argument("--quick", action="store_true", help="each row only once or a few times")
    parser.add_argument("--cells", default="", help="only rows of these kinds of cells, such as robot,policy,none")
    parser.add_argument(
        "--merge", action="store_true", help="keep the rows that --json holds already and that are not run"
    )
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--markdown", type=Path, help="write the page with the table here")
    parser.add_argument("--plot", type=Path, help="write a picture of the times here")
    parser.add_argument("--report", action="store_true", help="run nothing: page and picture of what --json holds")
    arguments = parser.parse_args()
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")

    results = json.loads(arguments.json.read_text()) if arguments.report else run(arguments)
    from fault_injection import report
    from fault_injection.plot import plot

    print(report.table(results))
    beside = None
    if arguments.plot:
        plot(results, arguments.plot)
        beside = Path(os.path.relpath(arguments.plot, (arguments.markdown or arguments.plot).parent))
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(results, beside), encoding="utf-8")
    return 0 if all(row["verdict"] in ("ok", "late") for row in results["rows"]) else 1


def run(arguments: argparse.Namespace) -> dict:
    """Runs the rows that are asked for; the results, also in --json."""
    from fault_injection import report, running

    running.enter_private_domain()
    from fault_injection.rows import ROWS

    running.load_rows()
    wanted = {int(number) for number in arguments.rows.split(",") if number}
    cells = set(arguments.cells.split(",")) - {""}
    by_cell = defaultdict(list)
    for row in ROWS:
        if (not wanted or wanted & set(row.numbers)) and (not cells or (row.cell or "none") in cells):
            by_cell[row.cell].append(row)
    before = json.loads(arguments.json.read_text()) if arguments.merge and arguments.json.exists() else None

    def save(outcomes) -> dict:
        """After every row, so that a run that is ended early is not lost."""
        results = report.results(outcomes, running.machine(), before)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        return results

    return save(running.run(by_cell, arguments.repeat, arguments.quick, save))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Fast DDS may hang when its threads are torn down by the interpreter.
    os._exit(status)
