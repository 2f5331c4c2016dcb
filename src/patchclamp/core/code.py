"""Where code comes from, and what it refers to."""

import dis
import sys
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any


def is_library(value: Any) -> bool:
    """Whether an installed library defines a function or class: then its name and the library's version tell what it does."""
    if isinstance(value, types.MethodType):
        return is_library(value.__func__)
    if isinstance(value, types.FunctionType):
        # not __module__, which a decorator copies from what it wraps
        return installed(str(value.__globals__.get("__name__", "")))
    name = str(getattr(value, "__module__", ""))
    if not installed(name):
        return False
    if not isinstance(value, type):
        return True
    found: Any = sys.modules.get(name)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value or name == "builtins"


def installed(module: str) -> bool:
    """Whether a module belongs to Python, to patchclamp or to an installed package."""
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or root in ("builtins", "patchclamp") or _in_packages(root)


@cache
def _in_packages(root: str) -> bool:
    found = sys.modules.get(root)
    if found is None or root == "__main__":
        return False
    places = [found.__file__] if getattr(found, "__file__", None) else list(getattr(found, "__path__", ()))
    return any(part in ("site-packages", "dist-packages") for place in places for part in Path(str(place)).parts)


def foreign(kind: type) -> Iterator[tuple[str, types.FunctionType]]:
    """Functions that a library's class or its module holds, but that no library defines: somebody has replaced its own."""
    for base in kind.__mro__:
        for name, held in _functions(base):
            if not is_library(held):
                yield f"{base.__qualname__}.{name}", held
        if not base.__module__.startswith(("builtins", "torch", "abc", "typing")):
            for name, held in _functions(sys.modules.get(base.__module__)):
                if not is_library(held):
                    yield f"{base.__module__}.{name}", held


def _functions(holder: Any) -> list[tuple[str, types.FunctionType]]:
    held = list(vars(holder).items()) if holder is not None else []
    return [(name, value) for name, value in held if isinstance(value, types.FunctionType)]


def referred(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function's code reads, and what it may read of modules that are the user's own."""
    around = function.__globals__
    for code in _codes(function.__code__):
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in around:
                held = around[step.argval]
            elif step.opname == "IMPORT_NAME":
                held = sys.modules.get(str(step.argval))
            else:
                continue
            yield str(step.argval), held
            if isinstance(held, types.ModuleType) and not installed(held.__name__):
                yield from ((f"{step.argval}.{name}", vars(held)[name]) for name in code.co_names if name in vars(held))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)
