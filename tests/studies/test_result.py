"""The contract of a study: what a result declares is what its folder holds, and every study keeps the contract."""

import json
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, get_type_hints

import pandas as pd
import pytest
from matplotlib.figure import Figure

import patchclamp as pc
import patchclamp.studies
from patchclamp.core import folders
from patchclamp.studies.drawing import canvas
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, records, table_text, with_titles

TABLE = pd.DataFrame({"layer": [0, 1], "effect": [0.25, None]})


def modules() -> list[Any]:
    """Those of the studies that run an experiment."""
    names = [module.name for module in iter_modules(patchclamp.studies.__path__)]
    studies = [import_module(f"patchclamp.studies.{name}") for name in names]
    return [module for module in studies if hasattr(module, "study")]


def drawn() -> Figure:
    with canvas((2, 1)) as (figure, axis):
        axis.plot([0, 1])
    return figure


@dataclass(frozen=True)
class MadeUp(StudyResult):
    """A study of nothing."""

    declared: StudyFiles
    main: pc.Result | None = None

    def summary(self) -> dict[str, Any]:
        return {"rows": records(TABLE)}

    def text(self) -> str:
        return as_text("Rows", TABLE)

    def files(self) -> StudyFiles:
        return self.declared

    def main_result(self) -> pc.Result | None:
        return self.main


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_study_keeps_the_contract() -> None:
    assert len(modules()) == 19
    for module in modules():
        returned = get_type_hints(module.study)["return"]
        assert issubclass(returned, StudyResult), module.__name__
        assert "out" in signature(module.study).parameters
        assert len(returned.experiment()) > 200, "the report says what the experiment is"


def test_a_folder_holds_what_is_declared_and_nothing_else(tmp_path: Path) -> None:
    declared = StudyFiles("Nothing", [("Rows", TABLE)])
    MadeUp(declared).save(tmp_path / "bare")
    assert files_of(tmp_path / "bare") == {"study.json", "report.html"}
    with folders.opened(tmp_path / "bare", folders.STUDY) as record:
        assert record["name"] == "test-result", "a study is called as its module"
    more = replace(
        declared, tables={"rows": TABLE, "deep/rows": TABLE}, figures={"figure": drawn()}, numbers={"rows": [1]},
        evidence={"seed": 987654321}, formats=("png", "pdf"),
    )  # fmt: skip
    MadeUp(more).save(tmp_path / "more")
    assert files_of(tmp_path / "more") == {
        "study.json", "report.html", "rows.csv", "deep/rows.csv", "figure.png", "figure.pdf", "rows.json",
    }  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "more" / "deep" / "rows.csv"), TABLE)
    page = (tmp_path / "more" / "report.html").read_text()
    assert "The experiment" in page
    assert "987654321" in page
    assert "987654321" not in (tmp_path / "bare" / "report.html").read_text()


def test_the_main_result_opens_from_the_folder_of_the_study(llama: pc.Model, tmp_path: Path) -> None:
    grid = llama.sweep([[5, 6, 7]], pc.Zero(), sites="mlp_out", at="last", read=pc.Rank([7]))
    MadeUp(StudyFiles("Nothing", [("Grid", grid)], results={"again": grid}), grid).save(tmp_path)
    assert pc.open(tmp_path) == grid == pc.open(tmp_path / "again")
    assert not (tmp_path / "study.json").exists()


def test_a_study_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    MadeUp(StudyFiles("Nothing", [("Rows", TABLE)])).save(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(pc.InputError, match="a report takes"):
        MadeUp(StudyFiles("Nothing", [("Rows", 3)], tables={"rows": TABLE})).save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_numbers_that_are_not_there_are_said_and_are_json() -> None:
    assert records(TABLE) == [{"layer": 0, "effect": 0.25}, {"layer": 1, "effect": None}]
    assert json.loads(json.dumps(records(TABLE))) == records(TABLE)
    assert table_text(TABLE, 1).splitlines() == [" layer  effect", "     0     0.2", "     1     NaN"]
    assert "NaN" not in table_text(TABLE, absent="-")
    assert as_text("Rows", TABLE, "end") == f"Rows\n{table_text(TABLE)}\nend"
    assert with_titles({"Rows": TABLE}) == [f"\nRows\n{table_text(TABLE)}"]
