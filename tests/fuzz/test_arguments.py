"""Every argument matters: two clearly different values of a parameter give two results."""

import warnings
from pathlib import Path

import pytest

import patchclamp as pc
from tests.effort import FULL
from tests.fuzz.ordinary import Beside, Ordinary
from tests.fuzz.outcome import same
from tests.fuzz.table import table
from tests.pictures import draw_nothing

QUICK = 1 if FULL else 12
"""The short form tries every twelfth function."""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_nothing(monkeypatch)


def without_effect(line: Ordinary, folder: Path) -> list[str]:
    """Parameters whose second value gives the numbers of the first."""
    usual, found = line(folder), []
    for parameter in line.parameters:
        if parameter in line.inert or parameter not in line.other:
            continue
        value, beside, before = line.other[parameter], {}, usual
        if isinstance(value, Beside):
            beside = {name: item for name, item in value.given.items() if name != parameter}
            before = line(folder, **value.given)
            value = value.value
        if same(line(folder, **{**beside, parameter: value}), before):
            found.append(parameter)
    return found


@pytest.mark.parametrize("name", sorted(table())[::QUICK])
def test_no_argument_is_ignored(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not without_effect(table()[name], tmp_path)


def test_an_ignored_argument_is_found(tmp_path: Path) -> None:
    """The negative control."""

    def scaled(x: float, factor: float = 1.0, sign: int = 1) -> float:
        del sign
        return factor * x

    line = Ordinary(scaled, {"x": 2.0}, {"x": 3.0, "factor": 2.0, "sign": -1})
    assert without_effect(line, tmp_path) == ["sign"]
    assert not without_effect(Ordinary(scaled, {"x": 2.0}, {"factor": 2.0}, inert={"sign": "a control"}), tmp_path)


def test_an_ordinary_call_gives_the_same_twice(tmp_path: Path) -> None:
    """Else two values would differ whether they matter or not."""
    for name in ("Model.run", "Model.sweep", "Model.fit_direction", "Noise", "Model.head_scores"):
        assert same(table()[name](tmp_path), table()[name](tmp_path)), name
    assert isinstance(table()["Model.run"](tmp_path), pc.Run)
