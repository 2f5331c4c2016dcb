"""One ordinary call of every public function; a new public function needs a line in one of the tables."""

from functools import cache

from tests.fuzz import table_edits, table_lenses, table_networks, table_others, table_running
from tests.fuzz.ordinary import Ordinary


@cache
def table() -> dict[str, Ordinary]:
    """Public name -> ordinary call."""
    parts = (
        table_running.lines, table_edits.edits, table_edits.reads, table_lenses.tracing, table_lenses.lenses, table_lenses.concepts,
        table_lenses.baking, table_networks.methods, table_others.metrics, table_others.estimators, table_others.rewriting, table_others.files,
    )  # fmt: skip
    return {name: line for part in parts for name, line in part().items()}
