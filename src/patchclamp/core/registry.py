"""Where a kind of result finds its class, its figure and its page: by its name, so that no list of kinds is kept.

A class of results is known by its ``kind`` from its definition on. ``figures/KIND.py`` draws it and ``reports/KIND.py`` lays out
its page, unless the class says ``drawn_by`` or ``shown_by``; a kind without them gets a summary.
"""

import pkgutil
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from patchclamp.core.arguments import checked_as
from patchclamp.core.errors import InputError, unknown

_CLASSES: dict[str, type] = {}
_NO_RESULTS = ("core", "catalogue", "models", "figures", "reports", "studies", "cli")
"""Packages that define no results of a saved kind."""


def add(kind: type[Any]) -> None:
    """Make a class of results known."""
    _CLASSES[kind.kind] = kind


def result_class(kind: str, home: str = "") -> Any:
    """The class of a kind of results.

    Args:
        kind: The name of the kind.
        home: The module inside patchclamp that defines it, if that is known; otherwise all are imported.

    Raises:
        InputError: There is no such kind.
    """
    package, _, name = home.partition(".")
    inside = package in _packages() and re.fullmatch(r"\w+", name)
    if kind not in _CLASSES and inside and find_spec(f"patchclamp.{home}"):
        find_module(home)
    if kind not in _CLASSES and kind not in kinds():
        raise InputError(unknown("result kind", kind, kinds()))
    return _CLASSES[kind]


@cache
def _packages() -> tuple[str, ...]:
    """The packages that may define results."""
    root = import_module("patchclamp")
    names = (module.name for module in pkgutil.iter_modules(root.__path__) if module.ispkg)
    return tuple(name for name in names if name not in _NO_RESULTS)


@cache
def kinds() -> tuple[str, ...]:
    """Every kind of result."""
    for package in map(find_module, _packages()):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    return tuple(sorted(kind for kind, cls in _CLASSES.items() if cls.__module__.startswith("patchclamp.")))


def figure_module(kind: str) -> Any:
    """The module of ``figures`` that draws a kind."""
    return _module_of("figures", result_class(kind).drawn_by or kind, "summary")


def page_module(kind: str) -> Any:
    """The module of ``reports`` that lays out the page of a kind."""
    return _module_of("reports", result_class(kind).shown_by or kind, "summary_page")


def _module_of(package: str, name: str, otherwise: str) -> Any:
    return find_module(f"{package}.{name if find_spec(f'patchclamp.{package}.{name}') else otherwise}")


def find_module(name: str) -> Any:
    """A module inside patchclamp, imported now."""
    return import_module(f"patchclamp.{name}")


def page_of(result: Any) -> str:
    """The complete HTML page of a result."""
    text: str = find_module("reports.page").result_page(result)
    return text


def write_figure(figure: Any, path: Any, kind: str) -> None:
    """Write a drawn figure as ``svg`` or ``png``."""
    find_module("figures.style").save(figure, path, kind)


@cache
def figure_of(kind: str) -> Callable[..., Any]:
    """The function that draws a result of this kind with matplotlib; its options are checked."""
    draw: Callable[..., Any] = figure_module(kind).figure
    return checked_as(InputError, f"the figure of a {kind}")(draw)
