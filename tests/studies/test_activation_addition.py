import re
from pathlib import Path

import pandas as pd
import pytest

import patchclamp as pc
from patchclamp.studies.activation_addition import BASE, COEFFICIENTS, OTHER, PUBLISHED, study


@pytest.mark.assets
@pytest.mark.slow
def test_rome_takes_over_as_the_coefficient_grows(smollm2: pc.Model, tmp_path: Path) -> None:
    found = study(smollm2, tmp_path)
    assert found.before(" Madrid") == pytest.approx(0.377, abs=0.01)
    rome = [found.probability(" Rome", c) for c in COEFFICIENTS]
    assert rome == pytest.approx([0.026, 0.24, 0.95], abs=0.02)
    for prompt in (BASE, OTHER):
        table = found.tables[prompt]
        assert list(table.columns)[:4] == ["before", "p(before)", "c=1", "p(c=1)"]
        saved = pd.read_csv(tmp_path / f"{prompt.lower().replace(' ', '-')}.csv")
        assert saved["p(before)"].tolist() == pytest.approx(table["p(before)"].tolist())
    assert found.sweep.plan.verified == 5
    assert found.sweep.plan.strategy == "wavefront"
    names = {p.name for p in tmp_path.iterdir()}
    assert {"report.html", "figure.svg", "figure.png", "data.csv", "result.json", "dose"} <= names
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") >= 6
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "0.456" in found.text()
    assert pc.open(tmp_path) == found.sweep


@pytest.mark.hub
def test_the_tutorials_own_numbers_on_gpt2() -> None:
    """Opt in with PATCHCLAMP_HUB_TESTS=1: Madrid .105 before, Rome .456 after, on GPT-2 from the hub."""
    model = pc.load("gpt2", dtype="float32")
    found = study(model)
    assert found.before(" Madrid") == pytest.approx(PUBLISHED["before"][" Madrid"], abs=2e-3)
    for answer in (" Rome", " Madrid"):
        assert found.probability(answer, 1.0) == pytest.approx(PUBLISHED["after"][answer], abs=5e-3)
