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
        return is_installed(str(value.__globals__.get("__name__", "")))
    name = str(getattr(value, "__module__", ""))
    if not is_installed(name):
        return False
    if not isinstance(value, type):
        return True
    definition: Any = sys.modules.get(name)
    for part in value.__qualname__.split("."):
        definition = getattr(definition, part, None)
    return definition is value or name == "builtins"


def is_installed(module: str) -> bool:
    """Whether a module belongs to Python, to patchclamp or to an installed package."""
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or root in ("builtins", "patchclamp") or _in_packages(root)


@cache
def _in_packages(root: str) -> bool:
    module = sys.modules.get(root)
    if module is None or root == "__main__":
        return False
    locations = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", ()))
    return any(
        part in ("site-packages", "dist-packages") for location in locations for part in Path(str(location)).parts
    )


def replacements(kind: type) -> Iterator[tuple[str, types.FunctionType]]:
    """Functions that a library's class or its module holds, but that no library defines: somebody has replaced its own."""
    for base in kind.__mro__:
        for name, function in _functions(base):
            if not is_library(function):
                yield f"{base.__qualname__}.{name}", function
        if not base.__module__.startswith(("builtins", "torch", "abc", "typing")):
            for name, function in _functions(sys.modules.get(base.__module__)):
                if not is_library(function):
                    yield f"{base.__module__}.{name}", function


def _functions(holder: Any) -> list[tuple[str, types.FunctionType]]:
    attributes = list(vars(holder).items()) if holder is not None else []
    return [(name, value) for name, value in attributes if isinstance(value, types.FunctionType)]


def referenced_values(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function's code reads, and what it may read of modules that are the user's own."""
    namespace = function.__globals__
    for code in _codes(function.__code__):
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in namespace:
                value = namespace[step.argval]
            elif step.opname == "IMPORT_NAME":
                value = sys.modules.get(str(step.argval))
            else:
                continue
            yield str(step.argval), value
            if isinstance(value, types.ModuleType) and not is_installed(value.__name__):
                yield from (
                    (f"{step.argval}.{name}", vars(value)[name]) for name in code.co_names if name in vars(value)
                )


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)
