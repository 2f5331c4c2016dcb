"""One ordinary call of every public function; a new one has its line in its own test file, as ``def ordinary()``."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path

from tests.fuzz import table_edits, table_lenses, table_networks, table_others, table_running
from tests.fuzz.ordinary import Ordinary

_ORDINARY = re.compile(r"^def ordinary\(", re.M)


@cache
def table() -> dict[str, Ordinary]:
    """Public name -> ordinary call."""
    parts = (
        table_running.lines, table_edits.edits, table_edits.reads, table_lenses.tracing, table_lenses.lenses, table_lenses.concepts,
        table_lenses.baking, table_networks.methods, table_others.metrics, table_others.estimators, table_others.rewriting, table_others.files,
    )  # fmt: skip
    return {name: line for part in parts for name, line in part().items()} | of_test_files()


@cache
def of_test_files() -> dict[str, Ordinary]:
    """The lines that stand beside the test of a capability."""
    root = Path(__file__).parents[2]
    files = (path for path in sorted((root / "tests").rglob("test_*.py")) if _ORDINARY.search(path.read_text("utf-8")))
    modules = [import_module(".".join(path.relative_to(root).with_suffix("").parts)) for path in files]
    return {name: line for module in modules for name, line in module.ordinary().items()}
