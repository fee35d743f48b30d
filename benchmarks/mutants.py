"""Every small way to break a file of Python: other comparisons, other numbers, a statement left out, ..."""

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

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
    """One change: in which file, at which line, what it was and what it became; and the whole changed source.

    code: the line without its indentation. turn: which one of several such changes of the line, from 1. function: the
    first line of the outermost function around it, 0 outside of functions.
    """

    file: str
    line: int
    code: str
    before: str
    after: str
    turn: int
    function: int
    source: str

    @property
    def change(self) -> str:
        return f"{self.before} -> {self.after}" + (f", no. {self.turn}" if self.turn > 1 else "")


def mutants(file: str) -> Iterator[Mutant]:
    """Every mutant of one file. Docstrings, annotations, messages and descriptions are left alone."""
    text = (ROOT / file).read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    nodes, spans, seen = list(_nodes(tree)), functions(file), Counter[tuple[str, str, str]]()
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
            code, before, after = lines[node.lineno - 1].strip(), _shown(node), _shown(changed)
            seen[code, before, after] += 1
            function = next((span.start for span in spans if node.lineno in span), 0)
            turn = seen[code, before, after]
            yield Mutant(file, node.lineno, code, before, after, turn, function, ast.unparse(mutated))


def functions(file: str) -> list[range]:
    """The lines of each function of a file that is not inside another one, with its decorators."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    return [
        range(min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]), node.end_lineno + 1)
        for owner in owners
        for node in owner.body
        if isinstance(node, ast.FunctionDef)
    ]


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
