"""Would the tests notice a broken safety core? Breaks it in every small way it knows, one at a time, and runs them.

    python benchmarks/mutation.py

Each mutant of the files of the safety core runs the fast tests, in a copy of the project, until the first failure; a
mutant that no test notices survives. Prints the survivors with their lines and writes all of it as JSON. Survivors that
were looked at and cannot matter are explained in benchmarks/mutation_survivors.json, by file and change.
"""

import argparse
import ast
import copy
import json
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import hypothesis  # noqa: F401  what the tests import, once instead of for every mutant
import numpy as np  # noqa: F401
import pytest
import yaml  # noqa: F401
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
FILES = tuple(
    f"openvla_core/{name}.py"
    for name in ("safety", "safety_settings", "stopping", "orientation_cone", "gripper_gate", "vectors")
)
TESTS = tuple(f"test/core/test_safety{name}.py" for name in ("_settings", "_gripper", "_stopping", "", "_cone"))
# The tests that look at a file most closely come first.
CLOSEST = {"safety": "", "safety_settings": "_settings", "orientation_cone": "_cone", "gripper_gate": "_gripper"}
THOROUGH = ("test/core/test_safety_invariants.py",)
EXPLAINED = Path(__file__).with_name("mutation_survivors.json")

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
SWAPPED = {"min": "max", "max": "min", "cos": "sin", "sin": "cos", "any": "all", "all": "any"}
NAMES_ONLY = {"__all__", "Vector"}  # for readers and type checkers
MARKED = "_mutant_number"


@dataclass(frozen=True)
class Mutant:
    """One change: in which file, at which line, what it was and what it became; and the whole changed source."""

    file: str
    line: int
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        return f"{self.file}: {self.before} -> {self.after}"


def mutants(file: str) -> Iterator[Mutant]:
    """Every mutant of one file. Docstrings, annotations, messages and descriptions are left alone."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    nodes = list(_nodes(tree))
    for number, node in enumerate(nodes):
        setattr(node, MARKED, number)
    for number, node in enumerate(nodes):
        for change in _changes(node):
            mutated = copy.deepcopy(tree)
            target = next(n for n in ast.walk(mutated) if getattr(n, MARKED, None) == number)
            changed = change(target)
            if changed is not target:
                mutated = _Replace(target, changed).visit(mutated)
            ast.fix_missing_locations(mutated)
            yield Mutant(file, node.lineno, _shown(node), _shown(changed), ast.unparse(mutated))


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Raise):
            continue
        if isinstance(child, ast.keyword) and child.arg in ("strict", "frozen", "kw_only"):
            continue  # these guard against our own mistakes, which is what a mutant is
        if isinstance(child, ast.AnnAssign | ast.FunctionDef | ast.arg):
            parts: list[ast.AST] = [child]
            parts += [child.value] if isinstance(child, ast.AnnAssign) and child.value else []
            parts += child.body if isinstance(child, ast.FunctionDef) else []
            for part in parts:
                if hasattr(part, "lineno"):
                    yield part
                yield from _nodes(part) if part is not child else ()
            continue
        if hasattr(child, "lineno"):
            yield child
        yield from _nodes(child)


def _changes(node: ast.AST) -> Iterator:
    """Functions that turn a copy of the node into a broken one, in place or as a new node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in COMPARISONS.get(type(node.ops[0]), ()):
            yield _set(ops=[other()])
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield _set(op=ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield lambda n: n.operand
    elif isinstance(node, ast.BoolOp):
        yield _set(op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        for index in range(len(node.values)):
            yield lambda n, i=index: n.values[i]
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield _set(value=node.value * 1.5 + 1 if isinstance(node.value, float) else node.value + 1)
        if node.value:
            yield _set(value=node.value / 2 if isinstance(node.value, float) else node.value - 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _set(value=not node.value)
    elif isinstance(node, ast.If | ast.While):
        yield lambda n: _put(n, test=ast.UnaryOp(ast.Not(), n.test))
        yield lambda n: _put(n, test=ast.Constant(False))
    elif isinstance(node, ast.IfExp):
        yield lambda n: n.body
        yield lambda n: n.orelse
    elif isinstance(node, ast.Call) and _called(node) in SWAPPED:
        yield _swap_call
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield _set(value=ast.Constant(None))
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in NAMES_ONLY:
        return
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.Continue | ast.Break) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield lambda n: ast.Pass()


def _set(**fields):
    return lambda node: _put(node, **fields)


def _put(node: ast.AST, **fields) -> ast.AST:
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def _swap_call(node: ast.AST) -> ast.AST:
    other = SWAPPED[_called(node)]
    if isinstance(node.func, ast.Name):
        node.func.id = other
    else:
        node.func.attr = other
    return node


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _shown(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split("\n")[0]


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def run_tests(folder: Path, tests: tuple[str, ...], timeout_s: float) -> str:
    """'passed', 'failed' or 'hung' for the tests in a copy of the project, in a child of this process."""
    child = os.fork()
    if child == 0:
        _become_pytest(folder, tests)
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "passed" if status == 0 else "failed"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"


def _become_pytest(folder: Path, tests: tuple[str, ...]) -> None:
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
        code = int(pytest.main(["-q", "-x", "--tb=no", "-p", "no:cacheprovider", *tests]))
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


def judge(mutant: Mutant, folder: Path, timeout_s: float) -> str:
    """Puts the mutant into the copy, runs the fast tests and, if they notice nothing, the thorough ones."""
    path = folder / mutant.file
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.source, encoding="utf-8")
    try:
        first = f"test/core/test_safety{CLOSEST.get(path.stem, '_stopping')}.py"
        verdict = run_tests(folder, (first, *(test for test in TESTS if test != first)), timeout_s)
        if verdict == "passed":
            verdict = run_tests(folder, THOROUGH, 4 * timeout_s)
        return verdict
    finally:
        path.write_text(original, encoding="utf-8")


WORKER: dict = {}


def _begin_worker(folder: str, timeout_s: float) -> None:
    WORKER.update(folder=copy_of_the_project(Path(folder) / str(os.getpid())), timeout_s=timeout_s)


def _judge(mutant: Mutant) -> str:
    return judge(mutant, **WORKER)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="*", default=FILES, help="which files to break")
    parser.add_argument("--every", type=int, default=1, help="only every n-th mutant")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--timeout-s", type=float, default=90.0, help="of the fast tests; who takes longer is noticed")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON file")
    arguments = parser.parse_args()

    everything = [mutant for file in arguments.files for mutant in mutants(file)][:: arguments.every]
    explained = json.loads(EXPLAINED.read_text(encoding="utf-8")) if EXPLAINED.exists() else {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if run_tests(copy_of_the_project(Path(folder) / "whole"), TESTS + THOROUGH, 900.0) != "passed":
            sys.exit("the tests fail before anything is broken; repair that first")
        context = multiprocessing.get_context("fork")
        with context.Pool(arguments.processes, _begin_worker, (folder, arguments.timeout_s)) as pool:
            verdicts = []
            progress = tqdm(zip(everything, pool.imap(_judge, everything), strict=True), total=len(everything))
            for mutant, verdict in progress:
                verdicts.append(verdict)
                if verdict == "passed":
                    progress.write(f"{mutant.file}:{mutant.line}  {mutant.before}  ->  {mutant.after}", file=sys.stderr)
    survivors = [m for m, verdict in zip(everything, verdicts, strict=True) if verdict == "passed"]
    killed = len(everything) - len(survivors)
    for mutant in survivors:
        print(f"survives {mutant.file}:{mutant.line}  {mutant.before}  ->  {mutant.after}")
        print(f"         {explained.get(mutant.name, 'not explained')}")
    print(f"{killed} of {len(everything)} mutants noticed, {100 * killed / max(len(everything), 1):.1f} %")

    now = datetime.now(timezone.utc)
    result = {
        "date": now.isoformat(timespec="seconds"),
        "mutants": len(everything),
        "noticed": killed,
        "hung": verdicts.count("hung"),
        "seconds": round(time.monotonic() - started),
        "machine": {"cpu_count": os.cpu_count(), "architecture": platform.machine()},
        "python": platform.python_version(),
        "survivors": [
            {**{k: v for k, v in asdict(m).items() if k != "source"}, "why": explained.get(m.name, "not explained")}
            for m in survivors
        ],
    }
    path = arguments.out / f"{now:%Y-%m-%d}-safety-mutation.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(m.name in explained for m in survivors) else 1


if __name__ == "__main__":
    sys.exit(main())
