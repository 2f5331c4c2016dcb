"""Text from others does nothing in a terminal, a figure, a page, a CSV file or JSON, and can be seen there."""

import io
import json
import re
import unicodedata
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.core.files import write_csv, write_json
from patchclamp.core.progress import task
from patchclamp.core.text import csv_text, escaped, for_csv, for_figure, for_page, for_terminal, json_text
from patchclamp.figures.style import key, save, styled, visible
from tests.effort import examples

HOSTILE = "=$x_{$\\frac{ $$ \x1b]0;owned\x07\x9b31m\u202e\ud800\r\x00\ufffe\U000e0041</script><b> [red] :smile: [/x] 😀"
"""Something for every medium."""

texts = st.text(st.characters(), max_size=30) | st.text(
    st.sampled_from("=+-@'\\x1bu0\t\r\n\x1b $_{}^%\ud800\u202e"), max_size=12
)


def acts(text: str, but: str = "\n") -> list[str]:
    """The characters that a terminal obeys or that nobody sees, by Unicode's own table; joiners of emoji and scripts are text."""
    own = [c for c in text if c not in but and unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    return own + [
        c
        for c in text
        if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    ]


def undone(cell: str) -> str:
    """The documented way back from a cell of a CSV file."""
    cell = cell[1:] if re.match("'+[=+\\-@\t\n＝＋－＠]", cell) else cell
    return re.sub(
        r"(\\+)(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})",
        lambda m: "\\" * (len(m[1]) // 2) + (chr(int(m[2][1:], 16)) if len(m[1]) % 2 else m[2]),
        cell,
    )


def test_a_long_row_of_backslashes_is_read_once() -> None:
    row = "\\" * 100_000  # read again at every backslash it would take hours
    assert for_csv(row) == row
    assert for_csv(f"{row}x1b") == f"{row}{row}x1b"


@given(texts)
@example(HOSTILE)
def test_nothing_acts_in_any_medium(text: str) -> None:
    assert not acts(for_terminal(text))
    assert not acts(for_figure(text))
    assert not acts(for_page(text), but="\n\t")
    assert not acts(for_csv(text), but="\n\t")
    assert not acts(visible(text, 100), but="")
    assert not acts(json_text([text]))
    assert not acts(str(pc.InputError(text)))
    assert not acts(str(PatchclampWarning(text)))


@pytest.mark.parametrize(
    "text", ["Madrid", " naïve", "नमस्ते", "مرحبا", "日本語", "👩‍👩‍👧", "a\nb", "'s", r"C:\new", "50 % <b>", "_x_"]
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert escaped(text) == for_terminal(text) == for_figure(text) == for_page(text) == for_csv(text) == text
    assert json_text(text) == json.dumps(text, ensure_ascii=False)


@settings(max_examples=examples(60, 500))
@given(st.lists(texts, min_size=1, max_size=4))
@example([HOSTILE, "=1", "'=1", "-1.5", "\\x1b", "\\\x1b", "\\\\u202e", "\tx", "NA", "", "a,b\n\"c'", "＝1"])
def test_a_csv_gives_the_text_back_and_holds_no_formula(cells: list[str]) -> None:
    frame = pd.DataFrame({"=name": cells, "number": [-1.5] * len(cells), "mixed": [None, *[-2.5] * (len(cells) - 1)]})
    text = csv_text(frame)
    read = pd.read_csv(io.StringIO(text, newline=""), keep_default_na=False)
    assert read["number"].tolist() == [-1.5] * len(cells)
    assert [undone(name) for name in read] == list(frame)
    read = pd.read_csv(io.StringIO(text, newline=""), keep_default_na=False, dtype=str)
    assert [undone(cell) for cell in read.iloc[:, 0]] == cells
    assert not [cell for cell in read.iloc[:, 0] if cell.startswith(tuple("=+-@\t\r\n＝＋－＠"))]
    assert not acts(text, but="\n\t")


def test_a_csv_of_plain_text_is_that_of_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"token": [" a", "b,c"], "p": [0.1, -1e-9], "n": [3, -4], "is": [True, False]}, index=["x", "-y"]
    )
    assert csv_text(frame) == frame.to_csv(index=False)
    write_csv(tmp_path / "a.csv", frame, index=True)
    assert (tmp_path / "a.csv").read_text() == frame.to_csv().replace("\n-y", "\n'-y")


@given(st.dictionaries(st.text(max_size=5), texts, max_size=3))
@example({"a": "\ud800"})
def test_json_gives_the_text_back(value: dict[str, str]) -> None:
    pairs = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # two halves side by side are one character to JSON
    value = {name: pairs.sub("", text) for name, text in value.items()}
    assert json.loads(json_text(value)) == json.loads(json_text(value, indent=2)) == value


def test_json_files_hold_any_text(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"token": HOSTILE})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"token": HOSTILE}


def drawn(texts: list[str]) -> Any:
    """A figure with a text in every place where a figure has one."""
    a, b, c = texts
    with styled() as make:
        figure = make(figsize=(6, 4), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [1, 10], label=key(a))
        axis.set_yscale("log")
        axis.set(title=a, xlabel=b, ylabel=c)
        axis.set_xticks([0, 1], [a, visible(b)])
        axis.text(0, 2, c)
        axis.annotate(a, (0, 3))
        axis.secondary_xaxis("top").set_xticks([0, 1], [b, c])
        axis.legend(title=b)
        figure.suptitle(c)
        return figure


@settings(max_examples=examples(4, 60))
@given(st.lists(texts, min_size=3, max_size=3))
@example([HOSTILE, "$", r"\$"])
@example(["_hidden", "$\\alpha$", "x" * 20000])
def test_any_text_can_be_drawn(several: list[str]) -> None:
    figure = drawn(several)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # a text that is wider than its picture
        svg, png = io.BytesIO(), io.BytesIO()
        save(figure, svg, "svg")
        figure.set_dpi(20)
        save(figure, png, "png")
    assert png.getvalue().startswith(b"\x89PNG")
    shown = " ".join(ET.fromstring(svg.getvalue()).itertext())
    assert not acts(shown)
    axis = figure.axes[0]
    assert axis.get_title() == for_figure(several[0])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ([key(several[0])] if several[0] else [])
    for number, text in enumerate(axis.get_xticklabels()):
        assert text.get_text() == for_figure([several[0], visible(several[1])][number])


def test_figures_show_the_dollar_and_the_numbers_of_an_axis_stay_numbers(tmp_path: Path) -> None:
    figure = drawn(["a$b$", "$x$", "5 $"])
    save(figure, tmp_path / "a.svg", "svg")
    shown = "".join(ET.parse(tmp_path / "a.svg").getroot().itertext())
    assert "a$b$" in shown
    assert "5 $" in shown
    assert "mathdefault" not in shown, "powers of ten are set as such"


def test_a_bar_of_progress_says_any_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with task("[/x] [red] :smile: \x1b[31m", 2, "steps", show=True) as steps:
        steps.advance()
    said = capsys.readouterr().err
    assert "[/x] [red] :smile: \\x1b[31m" in said


def test_numbers_of_numpy_are_no_text() -> None:
    frame = pd.DataFrame({"a": np.array(["x", -1.5, np.str_("=1")], dtype=object)})
    assert csv_text(frame) == "a\nx\n-1.5\n'=1\n"
