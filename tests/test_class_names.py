"""No two classes of the package share a name, so that a name in a traceback or a search is one thing."""

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import patchclamp

PACKAGE = Path(patchclamp.__file__).parent


def shared(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """The names that several classes have, with the modules in which they stand."""
    homes = defaultdict(list)
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(module)
    return {name: modules for name, modules in homes.items() if len(modules) > 1}


def test_no_two_classes_share_a_name() -> None:
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    assert not shared(sources)


def test_a_shared_name_is_found_wherever_it_stands() -> None:
    sources = {"a": "class One: ...", "b": "def f():\n    class One: ...", "c": "class Two(One): ..."}
    assert shared(sources) == {"One": ["a", "b"]}
