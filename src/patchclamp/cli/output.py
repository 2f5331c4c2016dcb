"""What a verb prints and leaves behind: tables or JSON, and the command and config that make it again."""

import math
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tomli_w
from rich.console import Console
from rich.table import Table

from patchclamp.core import folders
from patchclamp.core.files import write_text
from patchclamp.core.text import escaped, for_terminal, json_text

if TYPE_CHECKING:
    from patchclamp.core.result import Result

Plain = dict[str, Any] | list[Any] | str | int | float | bool | None


def console(*, stderr: bool = False) -> Console:
    """A terminal that prints text as it is: no markup, no pictures for their names, no line breaks but the text's own."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(text: object) -> None:
    """Tell the user something beside the result, on stderr."""
    console(stderr=True).print(for_terminal(str(text)))


def show(value: Plain, *, as_json: bool, table: Any = None, title: str | None = None) -> None:
    """Print a result: as JSON on stdout, or as a table.

    Args:
        value: Plain data.
        as_json: Print it as JSON.
        table: A pandas frame to print instead, or a list of dictionaries.
        title: Above the table.
    """
    if as_json:
        sys.stdout.write(json_text(_plain(value), allow_nan=False) + "\n")
        return
    if table is None:
        text = value if isinstance(value, str) else json_text(_plain(value), indent=2)
        console().print(for_terminal(text))
        return
    rows = table.to_dict("records") if hasattr(table, "to_dict") else list(table)
    rich_table = Table(
        title=None if title is None else for_terminal(title), title_justify="left", box=None, pad_edge=False
    )
    for column in rows[0] if rows else ():
        justify: Literal["left", "right"] = "right" if isinstance(rows[0][column], int | float) else "left"
        rich_table.add_column(_cell(column), justify=justify, no_wrap=column == "name")  # a name is there to be copied
    for row in rows:
        rich_table.add_row(*(_cell(item) for item in row.values()))
    console().print(rich_table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-4 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
    return for_terminal(str(value).replace("\n", "⏎"))


def _plain(value: Any) -> Any:
    """Plain data of JSON, which knows no infinity and no number that is none: these are null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def keep(result: "Result", out: Path | None, verb: str, options: dict[str, Any], **figure: Any) -> None:
    """Save a result with the exact command and the effective config that remake it.

    Args:
        result: What was made.
        out: The folder; None to keep nothing.
        verb: Table of the config.
        options: Every option in effect.
        **figure: Options of the figure.
    """
    if out is None:
        return
    command = shlex.join(["patchclamp", *sys.argv[1:]])
    result.record["command"] = command
    result.save(out, **figure)
    remember(out, command, verb, options)
    say(f"saved to {out}")


def remember(out: Path, command: str, verb: str, options: dict[str, Any], *, overwrite: bool = False) -> None:
    """Write ``command.txt`` and ``config.toml``, as part of what the folder holds."""
    nested: dict[str, Any] = {
        name: _toml(value) for name, value in options.items() if value is not None and value != []
    }
    for part in reversed(verb.split(".")):
        nested = {part: nested}
    texts = dict(zip(folders.COMMAND, (escaped(command) + "\n", tomli_w.dumps(nested)), strict=True))

    def write(into: Path) -> None:
        for name, text in texts.items():
            write_text(into / name, text)

    form = folders.form_of(out)
    if form is None:
        write(out)
    else:
        folders.extend(out, form, write, overwrite=overwrite)


def _toml(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return {name: _toml(item) for name, item in value.model_dump().items() if item is not None}
    if isinstance(value, list | tuple):
        return [_toml(item) for item in value]
    if isinstance(value, Path | str):
        return re.sub("[\ud800-\udfff]", lambda half: escaped(half[0]), str(value))  # TOML holds whole characters only
    return value
