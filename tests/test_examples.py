"""Every example runs to its end; its own assertions say what it must find."""

import runpy
from pathlib import Path

import matplotlib
import pytest

import patchclamp as pc
from tests.documentation import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAMPLE = ("any_module",)
"""The examples that `make test` runs; `make test-pages` runs them all."""


@pytest.mark.assets
@pytest.mark.parametrize(
    "script", [pytest.param(p, id=p.stem, marks=[] if p.stem in SAMPLE else pytest.mark.pages) for p in EXAMPLES]
)
def test_the_example_runs(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names = runpy.run_path(str(script))
    assert names["pc"] is pc


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_is_listed_in_the_documentation(script: Path) -> None:
    assert script.stem in (ROOT / "docs" / "examples.md").read_text()
