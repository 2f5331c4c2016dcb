"""Small changes of a source text, each of which a test should notice: cosmic-ray's, and more of the kinds that mistakes are of."""

import ast
import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

SWAPS = {
    "min": "max", "amin": "amax", "argmin": "argmax", "minimum": "maximum", "any": "all", "floor": "ceil", "mean": "sum",
    "median": "mean", "first": "last", "cumsum": "cumprod", "sorted": "list", "abs": "float", "zeros": "ones",
    "zeros_like": "ones_like",
}  # fmt: skip
SWAPS |= {value: key for key, value in SWAPS.items() if value not in ("list", "float", "sum")}
TELLING = {
    "NumberReplacer", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "AddNot",
    "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop", "ExceptionReplacer", "RemoveDecorator",
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Mul_Add", "Pow_Mul", "FloorDiv_Div",
                                                   "Mod_FloorDiv", "BitAnd_BitOr", "BitOr_BitAnd")),
    *(f"ReplaceUnaryOperator_{kind}" for kind in ("Delete_Not", "USub_UAdd", "Delete_USub")),
}  # fmt: skip
"""Of cosmic-ray's operators, those whose change is not a TypeError at the first call, as ``a | b`` for ``a - b`` is."""


@dataclass(frozen=True)
class Mutation:
    """A changed file."""

    file: str
    line: int
    kind: str
    before: str
    source: str
    """The whole text of the file after the change."""

    def describe(self) -> dict[str, Any]:
        """What was changed, without the rest of the file."""
        return {"file": self.file, "line": self.line, "kind": self.kind, "change": self.change()}

    def change(self) -> str:
        """The lines that differ."""
        lines = difflib.unified_diff(self.before.splitlines(), self.source.splitlines(), lineterm="", n=0)
        return "\n".join(line.rstrip() for line in lines if line[:3] not in ("---", "+++") and line[:2] != "@@")

    def __str__(self) -> str:
        changed = " ".join(self.change().split())
        return f"{self.file}:{self.line} {self.kind}: {changed[:160]}"


@dataclass(frozen=True)
class Place:
    """Somewhere a file can be changed, and how."""

    line: int
    kind: str
    make: Callable[[], str | None]


def places(source: str) -> dict[int, list[Place]]:
    """What can be changed, by line: nothing of annotations, of messages, and of what is declared at the top of a file."""
    code, found = lines_of_code(source), defaultdict(list)
    for place in (*_by_hand(source), *_by_cosmic_ray(source)):
        if place.line in code:
            found[place.line].append(place)
    return found


def mutation(source: str, file: str, place: Place) -> Mutation | None:
    """The changed file, or None where the change is none, or no Python."""
    text = place.make()
    return (
        Mutation(file, place.line, place.kind, source, text) if text not in (None, source) and _parses(text) else None
    )


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def lines_of_code(source: str) -> set[int]:
    """Lines inside functions, without signatures, docstrings and the messages of errors."""
    tree, lines, silent = ast.parse(source), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in node.body:
                lines.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
        if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) or isinstance(
            node, ast.Import | ast.ImportFrom
        ):
            silent.update(range(node.lineno, (node.end_lineno or 0) + 1))
        if isinstance(node, ast.AnnAssign):
            silent.update(range(node.annotation.lineno, (node.annotation.end_lineno or 0) + 1))
        if isinstance(node, ast.Raise):  # that it is raised is tested by leaving it out
            silent.update(range(node.lineno + 1, (node.end_lineno or 0) + 1))
    return lines - silent


def _replaced(source: str, node: Any, text: str) -> str:
    lines = source.splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + _column(lines[node.lineno - 1], node.col_offset)
    end = sum(map(len, lines[: node.end_lineno - 1])) + _column(lines[node.end_lineno - 1], node.end_col_offset)
    return source[:start] + text + source[end:]


def _place(line: int | None, kind: str, source: str, node: Any, text: str) -> Place:
    return Place(line or 0, kind, lambda: _replaced(source, node, text))


def _column(line: str, offset: int) -> int:
    """The syntax tree counts bytes."""
    return len(line.encode()[:offset].decode())


def _by_hand(source: str) -> Iterator[Place]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield from _calls(source, node)
        elif isinstance(node, ast.Raise):
            yield _place(node.lineno, "error not raised", source, node, "pass")
        elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            yield _place(node.lineno, "statement left out", source, node, "pass")
        elif isinstance(node, ast.BoolOp):
            joint = " and " if isinstance(node.op, ast.And) else " or "
            for value in node.values:
                rest = joint.join(
                    f"({ast.get_source_segment(source, other)})" for other in node.values if other is not value
                )
                yield _place(value.lineno, "condition left out", source, node, f"({rest})")
        elif isinstance(node, ast.IfExp | ast.If):
            yield _negated(source, node.test)
        elif isinstance(node, ast.comprehension):
            yield from (_negated(source, test) for test in node.ifs)
        elif isinstance(node, ast.Slice):
            for bound in (node.lower, node.upper):
                if bound is not None:
                    text = f"({ast.get_source_segment(source, bound)}) + 1"
                    yield _place(bound.lineno, "slice off by one", source, bound, text)


def _negated(source: str, test: ast.expr) -> Place:
    return _place(test.lineno, "condition negated", source, test, f"not ({ast.get_source_segment(source, test)})")


def _calls(source: str, node: ast.Call) -> Iterator[Place]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    function = ast.get_source_segment(source, node.func) or ""
    if name in SWAPS:
        swapped = function[: len(function) - len(name)] + SWAPS[name]
        yield _place(node.func.end_lineno, "another function", source, node.func, swapped)
    arguments = [ast.get_source_segment(source, argument) or "" for argument in node.args]
    for keyword in node.keywords:
        if keyword.arg is not None:
            others = [ast.get_source_segment(source, other) or "" for other in node.keywords if other is not keyword]
            text = f"{function}({', '.join([*arguments, *others])})"
            yield _place(keyword.lineno, "argument left out", source, node, text)


@cache
def _operators() -> list[Any]:
    from cosmic_ray.plugins import get_operator, operator_names

    chosen = [name for name in operator_names() if name.split("/")[1] in TELLING or "Comparison" in name]
    return [get_operator(name)() for name in chosen if "_Is" not in name and "/no-op" not in name]


def _by_cosmic_ray(source: str) -> Iterator[Place]:
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code

    nodes = list(ast_nodes(get_ast(source)))
    for operator in _operators():
        lines = [start[0] for node in nodes for start, _ in operator.mutation_positions(node)]
        for number, line in enumerate(lines):
            yield Place(line, type(operator).__name__, partial(mutate_code, source, operator, number))
