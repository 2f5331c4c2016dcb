"""What a verb prints and leaves: tables, JSON, the command and the configuration."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import patchclamp as pc
from patchclamp.cli.app import main
from patchclamp.cli.output import keep, remember, say, show
from patchclamp.cli.specs import EditSpec


def shown(capsys: pytest.CaptureFixture[str], value: Any, **options: Any) -> str:
    capsys.readouterr()
    show(value, **{"as_json": False, **options})
    return capsys.readouterr().out


def test_json_holds_plain_numbers_and_every_letter(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": np.float64(0.25), "b": np.int64(3), "c": torch.tensor(2), "d": Path("x/y"), "é": [None, True]}
    said = shown(capsys, value, as_json=True, table=[{"not": "shown"}])
    assert json.loads(said) == {"a": 0.25, "b": 3, "c": 2, "d": "x/y", "é": [None, True]}
    assert "é" in said
    assert said.count("\n") == 1
    assert json.loads(shown(capsys, value)) == json.loads(said), "without a table the same, indented"
    assert shown(capsys, "a [bold] text") == "a [bold] text\n"


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": [float("nan"), np.float32("inf"), torch.tensor(float("nan"))], "b": "\x1b\x9b\u202e\ud800"}
    said = shown(capsys, value, as_json=True)
    assert json.loads(said, parse_constant=pytest.fail) == {"a": [None] * 3, "b": "\x1b\x9b\u202e\ud800"}
    assert said.isascii()


def test_the_terminal_shows_text_and_obeys_none(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[31m\x9b\x07\u202e\r\ttab [red] [/x] :smile:"
    safe = "\\x1b[31m\\x9b\\x07\\u202e\\x0d"
    rows = [{"name": hostile, hostile: 1.0}]
    for said in (
        shown(capsys, hostile), shown(capsys, {"a": hostile}), shown(capsys, None, table=rows, title=hostile),
        shown(capsys, None, table=pd.DataFrame(rows)),
    ):  # fmt: skip
        assert not [c for c in said if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c == "\u202e"]
        assert "[red] [/x] :smile:" in said
    assert safe in shown(capsys, hostile)
    say(hostile)
    assert capsys.readouterr().err.startswith(safe)


def test_an_error_shows_the_name_of_a_file_and_obeys_none(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["repeat", "\x1b[31m"],
        ["--config", "\x1b]0;x\x07", "top", "a", "b"],
        ["top", "a", "b", "--\x1b[31m"],
    ):
        assert main(arguments) == 2
        assert "\x1b" not in "".join(capsys.readouterr())
        main([*arguments, "--json"])
        assert json.loads(capsys.readouterr().out)["message"]


def test_a_command_of_any_bytes_is_kept(tmp_path: Path) -> None:
    remember(tmp_path, "patchclamp x \udcff\x1b", "top", {"prompt": "\udcff\x1b", "model": Path("\udcff")})
    assert (tmp_path / "command.txt").read_text() == "patchclamp x \\udcff\\x1b\n"
    assert tomllib.loads((tmp_path / "config.toml").read_text()) == {
        "top": {"prompt": "\\udcff\x1b", "model": "\\udcff"}
    }


def test_a_table_has_a_column_a_key_and_short_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"name": "first", "p": 0.123456, "n": 5, "text": "a\nb"},
        {"name": "second", "p": 12345.678, "n": 12, "text": "c"},
        {"name": "third", "p": 0.0000123, "n": 0, "text": "-0.5"},
        {"name": "fourth", "p": 0.0, "n": 0, "text": ""},
        {"name": "fifth", "p": -0.0001, "n": 0, "text": ""},
        {"name": "sixth", "p": -9999.5, "n": 0, "text": ""},
        {"name": "seventh", "p": 10000.0, "n": 0, "text": ""},
    ]
    for table in (rows, pd.DataFrame(rows)):
        lines = shown(capsys, None, table=table, title="What it is").splitlines()
        assert lines[0].strip() == "What it is"
        assert lines[1].split() == ["name", "p", "n", "text"]
        cells = [line.split() for line in lines[2:]]
        assert [row[1] for row in cells] == [
            "0.1235",
            "1.23e+04",
            "1.23e-05",
            "0.0000",
            "-0.0001",
            "-9999.5000",
            "1e+04",
        ]
        assert cells[0][3] == "a⏎b"
        ends = [line.rindex(row[2]) + len(row[2]) for line, row in zip(lines[2:4], cells[:2], strict=True)]
        assert ends[0] == ends[1], "numbers end below each other"
    assert shown(capsys, None, table=[]).strip() == ""


def test_what_is_kept_says_how_it_was_made(
    capsys: pytest.CaptureFixture[str], llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/patchclamp", "run", "a model", "--k", "3"])
    run = llama.run([[5, 6, 7]])
    keep(run, None, "run", {"k": 3})
    assert "command" not in run.record
    capsys.readouterr()
    keep(run, tmp_path / "out", "run", {"k": 3}, k=2)
    assert f"saved to {tmp_path / 'out'}" in capsys.readouterr().err.replace("\n", "")
    command = "patchclamp run 'a model' --k 3"
    assert (tmp_path / "out" / "command.txt").read_text() == command + "\n"
    assert pc.open(tmp_path / "out").record["command"] == command
    assert tomllib.loads((tmp_path / "out" / "config.toml").read_text()) == {"run": {"k": 3}}


def test_options_of_the_figure_reach_it(llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = llama.run([[5, 6, 7]]), []
    monkeypatch.setattr(type(run), "save", lambda _, folder, **options: asked.append((folder, options)))
    tmp_path.joinpath("out").mkdir()
    keep(run, tmp_path / "out", "run", {}, layers="up", metric="kl")
    assert asked == [(tmp_path / "out", {"layers": "up", "metric": "kl"})]


def test_a_configuration_holds_what_was_given(tmp_path: Path) -> None:
    edit = EditSpec(op="add", token=" Rome", site=["mlp_out"])
    options = {
        "edit": [edit],
        "out": Path("a/b"),
        "none": None,
        "empty": [],
        "zero": 0,
        "no": False,
        "texts": ("a", Path("c")),
    }
    remember(tmp_path, "patchclamp x", "direction.fit", options)
    read = tomllib.loads((tmp_path / "config.toml").read_text())
    assert read == {"direction": {"fit": {
        "edit": [{"op": "add", "token": " Rome", "scale": 1.0, "std": 1.0, "noise_seed": 0, "site": ["mlp_out"], "at": "all"}],
        "out": "a/b", "zero": 0, "no": False, "texts": ["a", "c"],
    }}}  # fmt: skip
