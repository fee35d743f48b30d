"""Checks more than a million commands of the safety core against every promise about the stream, on random scripts.

Runs test/core/test_safety_invariants.py in its nightly profile and writes the count and the time as JSON:

    python benchmarks/safety_fuzz.py
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
TEST = "test/core/test_safety_invariants.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=["ci", "nightly"], default="nightly", help="how many scripts")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON file")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        started = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", TEST, f"--junitxml={report}"],
            cwd=ROOT,
            env={**os.environ, "OPENVLA_HYPOTHESIS": arguments.profile},
            check=False,
        )
        seconds = time.monotonic() - started
        suite = next(ElementTree.parse(report).iter("testsuite"))
    now = datetime.now(timezone.utc)
    result = {
        "date": now.isoformat(timespec="seconds"),
        "profile": arguments.profile,
        "commands_checked": next(int(p.get("value", 0)) for p in suite.iter("property") if p.get("name") == "commands"),
        "tests": int(suite.get("tests", 0)),
        "violations": int(suite.get("failures", 0)) + int(suite.get("errors", 0)),
        "seconds": round(seconds, 1),
        "machine": {"cpu_count": os.cpu_count(), "load": os.getloadavg(), "architecture": platform.machine()},
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("numpy", "hypothesis", "pytest")}},
    }
    path = arguments.out / f"{now:%Y-%m-%d}-safety-fuzz-{arguments.profile}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['commands_checked']:,} commands, {result['violations']} violations, {seconds:.0f} s: {path}")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
