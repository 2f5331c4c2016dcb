"""Runs the documentation: every Python block of a page in one namespace, every command, and what they print.

A page shows output in a ``text`` block right below the code (or below the command, in a ``console`` block). Write it anew
with ``python -m tests.documentation docs/sweeps.md``, then read what changed.
"""

import contextlib
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchclamp.cli.app import main as command_line
from patchclamp.core.errors import PatchclampError

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(
    r"^```(?P<kind>python|console)\n(?P<code>.*?)^```\n(?:\n?```text\n(?P<output>.*?)^```\n)?", re.M | re.S
)
_COMMAND = re.compile(r"^\$ (?P<line>(?:.*\\\n)*.*)\n(?P<output>(?:(?!\$ ).*\n)*)", re.M)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_TIME = re.compile(r"^time .*$", re.M)
RELATIVE, ABSOLUTE = 0.03, 2e-3
"""How far a decimal number may be from the one on the page: other processors round otherwise."""


@dataclass(frozen=True)
class Shown:
    """Some code of a page, the output that stands below it, and what it really prints."""

    code: str
    expected: str
    printed: str
    span: tuple[int, int]
    """Where the expected output stands in the page."""


def run_page(path: Path) -> Iterator[Shown]:
    """Run a page from top to bottom; gives each piece of code that has output below it."""
    text, names = path.read_text(encoding="utf-8"), {"__name__": "__page__"}
    for block in _BLOCK.finditer(text):
        if block["kind"] == "console":
            for command in _COMMAND.finditer(block["code"]):
                start, end = (block.start("code") + at for at in command.span("output"))
                yield Shown(command["line"], command["output"], _run_command(command["line"]), (start, end))
        else:
            printed = _run_python(block["code"], names, f"{path.name}, line {text[: block.start()].count(chr(10)) + 2}")
            if block["output"] is not None:
                yield Shown(block["code"], block["output"], printed, block.span("output"))


def _run_python(code: str, names: dict[str, Any], where: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            exec(compile(code, where, "exec"), names)
        except PatchclampError as error:
            print(f"{type(error).__name__}: {error}")  # noqa: T201  (pages show what mistakes look like)
    return output.getvalue()


def _run_command(line: str) -> str:
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = command_line(shlex.split(line.replace("\\\n", " "))[1:])
    return output.getvalue() if code == 0 else errors.getvalue()


def same(expected: str, printed: str) -> bool:
    """Whether two outputs say the same: equal words, equal whole numbers, decimals about equal, ``…`` for anything."""
    patterns, numbers = zip(*(_split(text) for text in (expected, printed)), strict=True)
    wildcard = ".*?".join(re.escape(part) for part in patterns[0].split("…"))
    if not re.fullmatch(wildcard, patterns[1], re.S):
        return False
    return "…" in expected or all(_close(a, b) for a, b in zip(*numbers, strict=True))


def _split(text: str) -> tuple[str, list[str]]:
    text = " ".join(_TIME.sub("time", text).split())
    return _NUMBER.sub("#", text), _NUMBER.findall(text)


def _close(a: str, b: str) -> bool:
    if "." not in a + b and "e" not in a + b:
        return a == b
    x, y = float(a.replace(",", "")), float(b.replace(",", ""))
    return abs(x - y) <= max(ABSOLUTE, RELATIVE * abs(x))


def refresh(path: Path) -> None:
    """Write a page's outputs anew (but not those with a ``…``)."""
    text = path.read_text(encoding="utf-8")
    for shown in reversed(list(run_page(path))):
        if "…" not in shown.expected:
            start, end = shown.span
            text = (
                text[:start]
                + "\n".join(line.rstrip() for line in shown.printed.rstrip().splitlines())
                + "\n"
                + text[end:]
            )
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    for page in pages:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            refresh(page)
