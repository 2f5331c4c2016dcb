"""Annotations as types, whose names may be imported for type checkers alone."""

import ast
import builtins
import inspect
import sys
import typing
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any


def types_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> its type."""
    return typing.get_type_hints(function, localns=_Names(function), include_extras=True)


class _Names(dict[str, Any]):
    """The names of a function's module, with those that it imports under ``TYPE_CHECKING``."""

    def __init__(self, owner: Callable[..., Any]) -> None:
        super().__init__()
        self.owner = inspect.unwrap(owner)

    def __missing__(self, name: str) -> Any:
        module = getattr(self.owner, "__module__", "")
        for place in (getattr(self.owner, "__globals__", {}), vars(sys.modules[module]), vars(builtins)):
            if name in place:
                return place[name]
        origin = _imported_for_checkers(module).get(name)
        if origin is None:
            return Any
        home, attribute = origin
        return getattr(import_module(home), attribute) if attribute else import_module(home)


@cache
def _imported_for_checkers(module: str) -> dict[str, tuple[str, str]]:
    """Name -> its module and its name there, of every import under ``if TYPE_CHECKING``."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):  # a program without its source
        return {}
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    names: dict[str, tuple[str, str]] = {}
    for node in (node for block in blocks for node in block.body):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    return names
