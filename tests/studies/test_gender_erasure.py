"""The study of gender from end to end on a small model: what is chosen, what is measured, what is left."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import patchclamp as pc
from patchclamp.studies import gender, gender_erasure

pytestmark = [
    pytest.mark.assets,
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::patchclamp.core.errors.PatchclampWarning", "ignore::sklearn.exceptions.ConvergenceWarning"
    ),
]


@pytest.fixture(scope="module")
def found(stories: pc.Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[gender_erasure.GenderErasure, Path]:
    """On a few people and one layer, so that it takes seconds."""
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("TRAIN_NOUNS", 5), ("TEST_NOUNS", 3), ("TRAIN_NAMES", 1), ("TEST_NAMES", 1)):
            patch.setattr(gender, name, getattr(gender, name)[:count])
        for name in ("ON_TOPIC", "OFF_TOPIC"):
            patch.setattr(gender_erasure, name, getattr(gender_erasure, name)[:2])
        return gender_erasure.study(stories, out, layers=[3], texts=2, winograd=4), out


def test_the_choice_is_made_on_training_pairs_within_the_cost(found: tuple[gender_erasure.GenderErasure, Path]) -> None:
    study, _ = found
    for edit, goal in (("erase", np.abs), ("swap", np.asarray)):
        data = study.effects.data.sel(edit=edit, layer=3)
        allowed = np.where(data["kl"] <= gender_erasure.ALLOWED, goal(data["bias"]), np.inf)
        assert study.chosen[edit] == (str(data["direction"].values[allowed.argmin()]), "resid_post.3")


def test_the_tables_hold_every_method_and_the_model_is_biased_before(
    stories: pc.Model, found: tuple[gender_erasure.GenderErasure, Path]
) -> None:
    study, _ = found
    methods = set(gender_erasure.methods())
    cells = {(row["direction"], row["edit"]) for row in study.tested.to_dict("records")}
    assert cells == {(method, edit) for method in methods for edit in gender_erasure.EDITS}
    assert study.tested["bias before"].iloc[0] > 0.5
    random = study.tested[study.tested["direction"] == "random"]
    assert (random["bias"] - random["bias before"]).abs().max() < 0.1, "the control changes little"
    rlace = study.tested[study.tested["direction"] == "rlace"].set_index("edit")["bias"]
    assert abs(rlace["erase"]) < study.tested["bias before"].iloc[0] - 0.2, "the direction of the class means does more"
    assert set(study.probes["direction"]) == (methods - {"gradient"}) | {"none"}
    assert set(study.interchange["direction"]) == methods - {"leace"}
    assert set(study.winograd["edit"]) == {"unedited", "erase", "swap"}
    seed = study.beside_seed().set_index("edit")
    assert seed["R-LACE, here"].to_dict() == {
        "before": study.tested["bias before"].iloc[0], **{edit: rlace[edit] for edit in gender_erasure.EDITS}
    }  # fmt: skip
    assert seed.loc["swap", "R-LACE, GPT-2"] == -0.29
    assert study.model == stories.source.name


def test_the_summary_is_plain_and_the_folder_whole(found: tuple[gender_erasure.GenderErasure, Path]) -> None:
    study, out = found
    summary = json.loads(json.dumps(study.summary()))
    assert summary["chosen"]["erase"] == list(study.chosen["erase"])
    assert [row["bias"] for row in summary["tested"]] == study.tested["bias"].tolist()
    results = {"effects", "pushed", "projections", "divergence"}
    tables = {"tested", "probes", "winograd", "interchange"}
    files = {"study.json", "report.html"}
    assert {p.name for p in out.iterdir()} == results | {f"{name}.csv" for name in tables} | files
    for name in results:
        assert pc.open(out / name) == getattr(study, name)
    for name in tables:
        own = getattr(study, name).select_dtypes("number")
        assert np.allclose(pd.read_csv(out / f"{name}.csv")[own.columns], own, equal_nan=True)
    page = (out / "report.html").read_text()
    for title in ("The experiment", "Beside the seed", "Winogender", "Completions"):
        assert title in page
    assert page.count("data:image") >= 4
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    for title in ("Held-out people", "Beside the seed", "Interchange"):
        assert title in study.text()
