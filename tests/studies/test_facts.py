"""The study of capitals: which facts count as known, and what another country's state brings."""

from pathlib import Path

import pytest

import patchclamp as pc
from patchclamp.studies.facts import EFFECTS, known_capitals, study


@pytest.mark.assets
@pytest.mark.slow
def test_known_means_likeliest_and_not_copied(smollm2: pc.Model) -> None:
    known = known_capitals(smollm2, most=6)
    assert list(known["country"])[:3] == ["China", "Indonesia", "Bangladesh"]
    assert "Mexico" not in set(known["country"]), "its capital's name is in the prompt"
    for row in known.itertuples():
        top = smollm2.top(f"The capital of {row.country} is the city of", k=1)
        assert top["token"][0] == row.answer
        assert " " + row.capital == row.answer or (" " + row.capital).startswith(row.answer)


@pytest.mark.assets
@pytest.mark.slow
def test_the_whole_study(smollm2: pc.Model, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "mine.txt").write_text("mine")
    found = study(smollm2, tmp_path, most=4, samples=1)
    assert float(found.average.total_effect().mean()) > 0.3
    table = found.table().set_index(["role", "site"])
    assert table.loc[("last subject token", "mlp_out"), "effect"] > 10 * abs(
        table.loc[("last subject token", "attn_out"), "effect"]
    )
    early = found.control.iloc[5]
    assert early[EFFECTS[0]] > 0.2
    assert abs(early[EFFECTS[1]]) < 0.05, "another country's state does not bring the capital back"
    assert early[EFFECTS[2]] > 0.2, "it brings its own"
    assert pc.open(tmp_path) == found.average
    assert {"control.csv", "known.csv", "report.html"} <= {p.name for p in tmp_path.iterdir()}
    assert [p.name for p in (tmp_path / "checkpoint").iterdir()] == ["mine.txt"], "what the study kept there is gone"
