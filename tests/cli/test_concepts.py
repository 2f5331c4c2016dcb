"""Labelled texts and edits of a direction, as a command line gives them."""

import json
from pathlib import Path

import numpy as np
import pytest

import patchclamp as pc
from patchclamp.cli.concepts import TextFiles, lines
from patchclamp.cli.direction import export
from patchclamp.cli.steer import edits_of
from patchclamp.directions import MeanDifference
from tests.directions.made import rows


def test_texts_of_tables_are_as_they_were_written(tmp_path: Path) -> None:
    texts = ["one\nline, and another", 'said "no"', "a\u2028b", "c\x0cd"]
    table = tmp_path / "a.csv"
    table.write_text(
        "text,label\n" + "\n".join(f'"{t.replace(chr(34), chr(34) * 2)}",{i % 2}' for i, t in enumerate(texts))
    )
    assert TextFiles(data=table).read() == (texts, [0, 1, 0, 1], None)
    many = tmp_path / "a.jsonl"
    many.write_text("\n".join(json.dumps({"text": t, "label": "x", "group": 3}, ensure_ascii=False) for t in texts))
    assert TextFiles(data=many).read() == (texts, ["x"] * 4, [3] * 4)
    plain = tmp_path / "a.txt"
    plain.write_bytes("one\r\n\n  two\u2028three\r\n".encode())
    assert lines(plain) == ["one", "  two\u2028three"]


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (["9", "10"], [9, 10]),
        (["0.5", "2"], [0.5, 2.0]),
        (["1", "no"], ["1", "no"]),
        (["nine", "ten"], ["nine", "ten"]),
    ],
)
def test_labels_that_are_numbers_are_numbers(tmp_path: Path, column: list[str], wanted: list[object]) -> None:
    table = tmp_path / "a.csv"
    table.write_text("text,label\n" + "\n".join(f"t,{label}" for label in column))
    assert TextFiles(data=table).read()[1] == wanted


@pytest.mark.parametrize("kind", ["erase", "swap", "scale", "clamp"])
def test_what_an_edit_does_not_take_is_refused(kind: str) -> None:
    x, y = rows(classes=3)
    direction = MeanDifference().fit(x, np.array(["a", "b", "c"])[y]).direction_
    place = {"site": "resid_post.1"}
    with pytest.raises(pc.InputError, match=f"--towards belongs to --edit add, not to {kind}"):
        edits_of(direction, kind, [1.0], "mean", "b", place)
    assert [name for name, _ in edits_of(direction, "add", [1.0, 2.0], "mean", "b", place)] == ["add 1", "add 2"]
    with pytest.raises(pc.InputError, match="it takes no --about zero"):
        edits_of(direction, "add", [1.0], "zero", "b", place)


def test_an_export_refuses_what_it_would_not_use(tmp_path: Path) -> None:
    with pytest.raises(pc.InputError, match="it takes no --about"):
        export(tmp_path, tmp_path / "out", gguf=True, edit="add", about="mean")
