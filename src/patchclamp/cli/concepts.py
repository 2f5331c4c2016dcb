"""Labelled texts as a command line gives them: two files of lines, or one table."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from patchclamp.core.errors import InputError
from patchclamp.core.files import read_text


@Parameter(name="*", group="Labelled texts")
@dataclass(frozen=True)
class TextFiles:
    """Where the texts are and what they stand for."""

    negative: Path | None = None
    """Texts of the first class, one a line."""
    positive: Path | None = None
    """Texts of the second class, one a line; where both files have as many lines, line by line they are pairs."""
    data: Path | None = None
    """Instead: a table with columns text, label and, if some belong together, group (.csv, or .jsonl); labels that are all
    numbers are read as numbers."""

    def read(self) -> tuple[list[str], list[Any], list[Any] | None]:
        """Texts, labels and groups.

        Raises:
            InputError: No file, both kinds of files, an empty one, or a table without the columns.
        """
        if self.data is not None:
            if self.positive is not None or self.negative is not None:
                raise InputError("--data is a table of its own; give it, or --negative and --positive")
            return _read_table(self.data)
        if self.positive is None or self.negative is None:
            raise InputError("labelled texts are needed: --negative FILE and --positive FILE, or --data TABLE")
        first, second = (lines(path) for path in (self.negative, self.positive))
        pairs = len(first) == len(second)
        groups = [*range(len(first)), *range(len(second))] if pairs else None
        return [*first, *second], [0] * len(first) + [1] * len(second), groups

    def as_config(self) -> dict[str, Any]:
        """For ``config.toml``."""
        return {"negative": self.negative, "positive": self.positive, "data": self.data}


def lines(path: Path) -> list[str]:
    """The lines of a file that hold something.

    Raises:
        InputError: There are none.
    """
    texts = [line for line in read_text(path).split("\n") if line.strip()]
    if not texts:
        raise InputError(f"{str(path)!r} holds no text")
    return texts


def _read_table(path: Path) -> tuple[list[str], list[Any], list[Any] | None]:
    text = read_text(path)
    if path.suffix == ".csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text, newline="")))
    elif path.suffix == ".jsonl":
        rows = [_json_object(line, number, path) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    else:
        raise InputError(f"{str(path)!r}: a table ends in .csv or .jsonl")
    if not rows:
        raise InputError(f"{str(path)!r} holds no row")
    for number, row in enumerate(rows, 1):
        missing = [name for name in ("text", "label") if row.get(name) is None]
        if missing:
            raise InputError(
                f"{str(path)!r}, row {number}: no column {missing[0]!r}; columns are text, label and group"
            )
    labels = _as_numbers([row["label"] for row in rows])
    groups = [row["group"] for row in rows] if all(row.get("group") is not None for row in rows) else None
    return [row["text"] for row in rows], labels, groups


def _as_numbers(labels: list[Any]) -> list[Any]:
    """Labels as numbers, where a table of text has nothing else in the column."""
    for kind in (int, float):
        try:
            return [kind(label) for label in labels] if all(isinstance(label, str) for label in labels) else labels
        except ValueError:
            continue
    return labels


def _json_object(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{str(path)!r}, line {number}, is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{str(path)!r}, line {number}, is no JSON object")
    return row
