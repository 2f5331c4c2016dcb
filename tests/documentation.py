"""Runs the documentation: every Python block of a page in one namespace, every command, and what they print.

A page shows output in a ``text`` block right below the code (or below the command, in a ``console`` block). Write it anew
with ``python -m tests.documentation docs/sweeps.md``, then read what changed.

Words and whole numbers must be equal, and every number with a point or an exponent must agree to its last digit, which rounding
may move by one. Numbers as small as 1e-6 are what rounding leaves: they must not be ten times as large as shown. ``…`` stands
for anything. Where the numbers come from training on the machine at hand, they hang on its
processor, and a sentence in italics below the block tells the reader so, and this test how far they may go::

    *Elsewhere these numbers differ by up to 10 % or 0.02: the network is trained on your machine.*
    *Elsewhere these numbers are others: ...*
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
    r"^```(?P<kind>python|console)\n(?P<code>.*?)^```\n(?:\n?```text\n(?P<output>.*?)^```\n)?(?:\n(?P<note>\*[^\n]+\*)\n)?",
    re.M | re.S,
)
_COMMAND = re.compile(r"^\$ (?P<line>(?:.*\\\n)*.*)\n(?P<output>(?:(?!\$ ).*\n)*)", re.M)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_PARTS = re.compile(rf"(?P<number>{_NUMBER.pattern})|(?P<anything>…)")
_TIME = re.compile(r"^time .*$", re.M)
_VARIES = re.compile(
    r"\*Elsewhere these numbers (?:differ by up to (?P<percent>[\d.]+) %(?: or (?P<absolute>[\d.]*\d))?|are others)(?=[:.])"
)


@dataclass(frozen=True)
class Tolerance:
    """How far a printed number may be from the one on the page."""

    relative: float = 1e-3
    absolute: float = 0.0
    whole: bool = False
    """Whether whole numbers may differ too."""

    def allows(self, shown: str, printed: str) -> bool:
        """Whether a printed number agrees with the one on the page."""
        if not self.whole and not any(mark in shown + printed for mark in ".e"):
            return shown == printed
        x, y = (float(number.replace(",", "")) for number in (shown, printed))
        if 0 < abs(x) < NOISE and "e" in shown:
            return abs(y) <= 10 * abs(x)
        return abs(x - y) <= max(1.001 * _last_place(shown), self.relative * abs(x), self.absolute)


NOISE = 1e-5
OTHERS = Tolerance(absolute=float("inf"), whole=True)


def _last_place(number: str) -> float:
    """The weight of a number's last digit: 0.001 of ``1.234``, 1e-7 of ``2.4e-06``."""
    digits, _, exponent = number.partition("e")
    return float(10.0 ** (int(exponent or 0) - len(digits.partition(".")[2])))


def tolerance_of(note: str | None) -> Tolerance:
    """What the sentence below a block allows."""
    varies = _VARIES.match(note or "")
    if varies is None:
        return Tolerance()
    if varies["percent"] is None:
        return OTHERS
    return Tolerance(float(varies["percent"]) / 100, float(varies["absolute"] or 0), whole=True)


@dataclass(frozen=True)
class Shown:
    """Some code of a page, the output that stands below it, and what it really prints."""

    code: str
    expected: str
    printed: str
    span: tuple[int, int]
    """Where the expected output stands in the page."""
    tolerance: Tolerance

    @property
    def same(self) -> bool:
        """Whether the page shows what is printed."""
        return same(self.expected, self.printed, self.tolerance)


def run_page(path: Path) -> Iterator[Shown]:
    """Run a page from top to bottom; gives each piece of code that has output below it."""
    text, names = path.read_text(encoding="utf-8"), {"__name__": "__page__"}
    for block in _BLOCK.finditer(text):
        tolerance = tolerance_of(block["note"])
        if block["kind"] == "console":
            for command in _COMMAND.finditer(block["code"]):
                start, end = (block.start("code") + at for at in command.span("output"))
                yield Shown(command["line"], command["output"], _run_command(command["line"]), (start, end), tolerance)
        else:
            printed = _run_python(block["code"], names, f"{path.name}, line {text[: block.start()].count(chr(10)) + 2}")
            if block["output"] is not None:
                yield Shown(block["code"], block["output"], printed, block.span("output"), tolerance)


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


def same(expected: str, printed: str, tolerance: Tolerance = Tolerance()) -> bool:
    """Whether two outputs say the same: equal words, numbers that agree, and anything at all in place of ``…``."""
    expected, printed = (" ".join(_TIME.sub("time", text).split()) for text in (expected, printed))
    pattern, numbers, end = "", [], 0
    for part in _PARTS.finditer(expected):
        pattern += re.escape(expected[end : part.start()])
        # a number is taken whole or not at all, so that 1 does not stand for the beginning of 12
        pattern += ".*?" if part["anything"] else rf"((?>{_NUMBER.pattern}))"
        numbers += [] if part["anything"] else [part["number"]]
        end = part.end()
    match = re.fullmatch(pattern + re.escape(expected[end:]), printed, re.S)
    return match is not None and all(map(tolerance.allows, numbers, match.groups()))


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
