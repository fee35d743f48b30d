"""Would the tests notice a broken safety core? Breaks it in every small way it knows, one at a time, and runs them.

    python benchmarks/mutation.py

First it runs the tests on the whole core, to see how long each takes and which functions it calls. Then each mutant
meets the tests that call the broken function, until the first failure: those that noticed its neighbours first, then
the quick ones. A mutant that no test notices survives. Survivors that were looked at and cannot matter are explained in
the table of docs/safety-core.md; one that is not in it makes this fail. All of it is written as JSON.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from random import Random

import hypothesis  # noqa: F401  what the tests import, once instead of for every mutant
import numpy as np  # noqa: F401
import pytest
import yaml  # noqa: F401
from mutants import ROOT, Mutant, functions, mutants
from tqdm import tqdm

FILES = tuple(
    f"openvla_core/{name}.py"
    for name in ("safety", "safety_settings", "stopping", "orientation_cone", "gripper_gate", "vectors")
)
TESTS = "test/core/test_safety*.py"
# Counts what the other tests did, so it fails when some of them are left out.
LEFT_OUT = "test_enough_commands_were_checked"
EXPLAINED = ROOT / "docs" / "safety-core.md"
# Processor time of one test: a broken loop is stopped, a busy machine changes nothing.
PATIENCE_S = 5.0
NOTICED = ("failed", "endless")


@dataclass
class Facts:
    """Of one test on the whole core: its processor time and the functions it calls, as file and first line."""

    seconds: float
    calls: list[tuple[str, int]]


class Examiner:
    """A pytest plugin: chooses and orders the tests, limits their time, and reports what `wanted` asks for."""

    def __init__(self, order: list[str] | None, facts: dict[str, Facts], report: Path) -> None:
        self.order, self.facts, self.report = order, facts, report

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if LEFT_OUT not in item.nodeid]
        if self.order is not None:
            by_name = {item.nodeid: item for item in items}
            items[:] = [by_name[name] for name in self.order]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        if self.order is None:
            return (yield from self._observed(item))
        # The signal ends the process: there is nothing a broken core could do against it.
        signal.setitimer(signal.ITIMER_PROF, PATIENCE_S + 20.0 * self.facts[item.nodeid].seconds)
        return (yield)

    def _observed(self, item: pytest.Item):
        seen = set()
        started = time.process_time()
        sys.setprofile(lambda frame, event, _: seen.add(frame.f_code) if event == "call" else None)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            calls = [(os.path.relpath(code.co_filename), code.co_firstlineno) for code in seen]
            ours = sorted(call for call in calls if call[0] in FILES)
            self.facts[item.nodeid] = Facts(time.process_time() - started, ours)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.report.write_text(json.dumps(report.nodeid))

    def pytest_sessionfinish(self) -> None:
        if self.order is None:
            self.report.write_text(json.dumps({name: asdict(facts) for name, facts in self.facts.items()}))


def run_tests(folder: Path, examiner: Examiner) -> str:
    """'passed', 'failed' or 'endless' for the tests in a copy of the project, in a child of this process."""
    child = os.fork()
    if child == 0:
        _become_pytest(folder, examiner)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return "endless" if os.WTERMSIG(status) == signal.SIGPROF else "failed"
    return "passed" if os.WEXITSTATUS(status) == 0 else "failed"


def _become_pytest(folder: Path, examiner: Examiner) -> None:
    """Never returns. What takes long to import was imported before the fork; the project was not."""
    code = 99
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
        os.environ["OPENVLA_HYPOTHESIS"] = "few"
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading them takes longer than most mutants live
        if examiner.order is None:
            tests = sorted(str(path.relative_to(folder)) for path in folder.glob(TESTS))
        else:
            tests = sorted({name.partition("::")[0] for name in examiner.order})
        options = ["-q", "-x", "--tb=no", "--assert=plain", "-p", "no:cacheprovider"]
        code = int(pytest.main([*options, *tests], plugins=[examiner]))
    finally:
        os._exit(code)


def copy_of_the_project(folder: Path) -> Path:
    for part in ("openvla_core", "test/core", "config/limits"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "sim", "training"))
    # The suite's own conftest needs the simulation; the safety core needs none of it.
    (folder / "conftest.py").write_text(
        "from hypothesis import settings\n"
        "settings.register_profile('few', derandomize=True, deadline=None, max_examples=8, database=None)\n"
        "settings.load_profile('few')\n",
        encoding="utf-8",
    )
    for conftest in (folder / "test").rglob("conftest.py"):
        conftest.unlink()
    return folder


def observe(folder: Path) -> dict[str, Facts]:
    """What each test does while nothing is broken."""
    report = folder / "report.json"
    if run_tests(folder, Examiner(None, {}, report)) != "passed":
        sys.exit("the tests fail before anything is broken; repair that first")
    loaded = json.loads(report.read_text())
    spans = {file: functions(file) for file in FILES}
    facts = {}
    for name, values in loaded.items():
        calls = {(file, span.start) for file, line in values["calls"] for span in spans[file] if line in span}
        facts[name] = Facts(values["seconds"], sorted(calls))
    return facts


class Judge:
    """Breaks its own copy of the project, over and over, and mends it."""

    def __init__(self, folder: Path, facts: dict[str, Facts]) -> None:
        self.folder, self.facts = copy_of_the_project(folder), facts
        self.report = folder / "report.json"

    def verdicts(self, group: list[Mutant]) -> list[tuple[str, str | None, float]]:
        """For mutants of one function: the verdict, the test that noticed, and the seconds it took."""
        found: list[tuple[str, str | None, float]] = []
        lately: list[str] = []  # tests that noticed something, the last one first
        for mutant in group:
            started = time.monotonic()
            verdict, test = self.verdict(mutant, lately)
            if test is not None:
                lately = [test, *(name for name in lately if name != test)]
            found.append((verdict, test, time.monotonic() - started))
        return found

    def verdict(self, mutant: Mutant, lately: list[str]) -> tuple[str, str | None]:
        place = (mutant.file, mutant.function)
        able = [name for name, facts in self.facts.items() if not mutant.function or place in facts.calls]
        if not able:
            return "passed", None
        able.sort(key=lambda name: (lately.index(name) if name in lately else len(lately), self.facts[name].seconds))
        path = self.folder / mutant.file
        whole = path.read_text(encoding="utf-8")
        path.write_text(mutant.source, encoding="utf-8")
        self.report.unlink(missing_ok=True)
        try:
            verdict = run_tests(self.folder, Examiner(able, self.facts, self.report))
        finally:
            path.write_text(whole, encoding="utf-8")
        return verdict, json.loads(self.report.read_text()) if self.report.exists() else None


WORKER: list[Judge] = []


def _begin_worker(folder: str, facts: dict[str, Facts]) -> None:
    WORKER.append(Judge(Path(folder) / str(os.getpid()), facts))


def _judge(group: list[Mutant]) -> list[tuple[str, str | None, float]]:
    return WORKER[0].verdicts(group)


def groups_of(everything: list[Mutant], share: float, seed: int) -> list[list[Mutant]]:
    """A share of the mutants of each function, in parts of a size that lets processes take turns.

    With one seed a smaller share is part of a larger one, whichever files were asked for.
    """
    groups = defaultdict(list)
    for mutant in everything:
        groups[mutant.file, mutant.function].append(mutant)
    parts = []
    for (file, _), group in groups.items():
        Random(f"{seed} {file} {group[0].code}").shuffle(group)
        chosen = sorted(group[: math.ceil(share * len(group))], key=lambda mutant: mutant.line)
        parts += [chosen[i : i + 8] for i in range(0, len(chosen), 8)]
    Random(seed).shuffle(parts)  # so that a run that is cut short has seen some of everything
    return parts


def explanations(text: str) -> dict[tuple[str, str, str], str]:
    """(file, line of code, change) -> why it does not matter, from the table of the document."""
    rows = [line.strip("|\n ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {tuple(part.strip(" `") for part in row[:3]): row[3] for row in rows if len(row) == 4}


def noticed_before(arguments: argparse.Namespace, everything: list[Mutant]) -> set[tuple[str, str, str]]:
    """The mutants that an earlier run of the same choice noticed, in files that are what they were."""
    if arguments.again is None:
        return set()
    result = json.loads(arguments.again.read_text(encoding="utf-8"))
    if result["mutants"] < result["chosen"]:
        sys.exit(f"{arguments.again} was cut short: it judged {result['mutants']} of {result['chosen']}")
    if (result["share"], result["seed"]) != (arguments.share, arguments.seed):
        sys.exit(f"{arguments.again} was made with --share {result['share']} --seed {result['seed']}; give the same")
    same = {file for file, row in result["files"].items() if row["sha256"] == digest(file)}
    survived = {(Path(row["file"]).name, row["code"], row["change"]) for row in result["survivors"]}
    return {key(mutant) for mutant in everything if mutant.file in same} - survived


def digest(file: str) -> str:
    return hashlib.sha256((ROOT / file).read_bytes()).hexdigest()


def key(mutant: Mutant) -> tuple[str, str, str]:
    return Path(mutant.file).name, mutant.code, mutant.change


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="*", default=FILES, help="which files to break")
    parser.add_argument("--share", type=float, default=1.0, help="of the mutants of each function, at random")
    parser.add_argument("--seed", type=int, default=0, help="of this choice")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after this, report what was judged by then")
    parser.add_argument("--again", type=Path, help="an earlier JSON: judge only its survivors, where code is the same")
    parser.add_argument("--lines", type=int, nargs="*", help="only these lines")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON file")
    arguments = parser.parse_args()

    everything = [mutant for file in arguments.files for mutant in mutants(file)]
    if arguments.lines:
        everything = [mutant for mutant in everything if mutant.line in arguments.lines]
    groups = groups_of(everything, arguments.share, arguments.seed)
    everything = [mutant for group in groups for mutant in group]
    before = noticed_before(arguments, everything)
    left = [[mutant for mutant in group if key(mutant) not in before] for group in groups]
    explained = explanations(EXPLAINED.read_text(encoding="utf-8"))
    started = time.monotonic()
    verdicts: list[tuple[str, str | None, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        facts = observe(copy_of_the_project(Path(folder) / "whole"))
        context = multiprocessing.get_context("fork")
        with (
            context.Pool(arguments.processes, _begin_worker, (folder, facts)) as pool,
            tqdm(total=sum(map(len, left))) as progress,
        ):
            for group, judged, found in zip(groups, left, pool.imap(_judge, left), strict=True):
                known = dict(zip(map(key, judged), found, strict=True))
                verdicts += [known.get(key(mutant), ("failed", None, 0.0)) for mutant in group]
                progress.update(len(judged))
                for mutant, (verdict, _, _) in zip(judged, found, strict=True):
                    if verdict == "passed":
                        progress.write(f"{mutant.file}:{mutant.line}  {mutant.code}   {mutant.change}", sys.stderr)
                if time.monotonic() - started > 60.0 * arguments.minutes:
                    break  # leaving the pool ends its processes
    return report(everything, verdicts, explained, time.monotonic() - started, arguments, print)


def report(
    everything: list[Mutant],
    verdicts: list[tuple[str, str | None, float]],
    explained: dict[tuple[str, str, str], str],
    seconds: float,
    arguments: argparse.Namespace,
    say: Callable[[str], None],
) -> int:
    """Says what survived and why, writes the JSON file, and returns 1 when an explanation is missing."""
    chosen, everything = len(everything), everything[: len(verdicts)]
    survivors = [m for m, verdict in zip(everything, verdicts, strict=True) if verdict[0] == "passed"]
    noticed = len(everything) - len(survivors)
    for mutant in survivors:
        say(f"survives {mutant.file}:{mutant.line}  {mutant.code}   {mutant.change}")
        say(f"         {explained.get(key(mutant), 'NOT EXPLAINED in docs/safety-core.md')}")
    tried, survived = {key(mutant) for mutant in everything}, {key(mutant) for mutant in survivors}
    whole = (
        arguments.share == 1.0 and len(everything) == chosen and not arguments.lines and tuple(arguments.files) == FILES
    )
    needless = sorted(row for row in explained if row not in survived and (row in tried or whole))
    for row in needless:
        say(f"explained, but noticed or gone: {row}")
    missing = [mutant for mutant in survivors if key(mutant) not in explained]
    say(f"{chosen} mutants chosen, {len(everything)} judged")
    say(f"{noticed} of {len(everything)} mutants noticed, {100 * noticed / max(len(everything), 1):.1f} %")
    say(f"{len(survivors)} survivors, {len(missing)} of them not explained")

    now = datetime.now(timezone.utc)
    per_file: dict[str, dict] = {}
    for mutant, (verdict, _, _) in zip(everything, verdicts, strict=True):
        row = per_file.setdefault(mutant.file, {"mutants": 0, "noticed": 0, "sha256": digest(mutant.file)})
        row["mutants"] += 1
        row["noticed"] += verdict != "passed"
    result = {
        "date": now.isoformat(timespec="seconds"),
        "share": arguments.share,
        "seed": arguments.seed,
        "chosen": chosen,
        "mutants": len(everything),
        "noticed": noticed,
        "endless": sum(verdict == "endless" for verdict, _, _ in verdicts),
        "files": per_file,
        "seconds": round(seconds),
        "machine": {"cpu_count": os.cpu_count(), "architecture": platform.machine(), "processes": arguments.processes},
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("numpy", "hypothesis", "pytest")}},
        "survivors": [
            {"file": m.file, "line": m.line, "code": m.code, "change": m.change, "why": explained.get(key(m))}
            for m in survivors
        ],
    }
    path = arguments.out / f"{now:%Y-%m-%d}-safety-mutation.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if missing or needless else 0


if __name__ == "__main__":
    sys.exit(main())
