"""The study of dropout on tiny models."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import patchclamp as pc
from patchclamp.studies import dropout, training
from tests.studies.conftest import TEXTS, TINY

SHORT = [text[:80] for text in TEXTS[:3]]


@pytest.fixture(scope="module")
def twice(storyteller: pc.Model) -> dropout.Dropout:
    return dropout.compare({"one": storyteller, "two": storyteller}, SHORT, progress=False)


def test_one_model_under_two_names_has_one_result(twice: dropout.Dropout) -> None:
    for name in ("models", "effects", "depth", "regained", "ablations"):
        table = getattr(twice, name)
        first, second = (
            table[table["model"] == model].drop(columns="model").reset_index(drop=True) for model in ("one", "two")
        )
        assert len(first)
        pd.testing.assert_frame_equal(first, second)


def test_no_layer_erased_is_the_bias_before(twice: dropout.Dropout, storyteller: pc.Model) -> None:
    depth = twice.depth[twice.depth["model"] == "one"].set_index("layers erased")
    assert list(depth.index) == [0, 1, 2]
    summary = pc.metrics.bias(storyteller, dropout.pairs(dropout.TEST_NOUNS), dropout.ANSWERS, {}).summary()
    before = float(summary.set_index("metric")["mean"]["within"])
    assert depth["bias"][0] == pytest.approx(before)
    assert twice.models["bias"].tolist() == pytest.approx([before] * 2)
    effects = twice.effects[(twice.effects["model"] == "one") & (twice.effects["direction"] == "mean")]
    erased = effects[effects["edit"] == "erase"].set_index("layer")["bias"]
    assert depth["bias"][1] == pytest.approx(erased[0], abs=1e-6), "the first layer alone: nothing was erased before it"


def test_the_regained_gap_is_that_of_later_activations(twice: dropout.Dropout, storyteller: pc.Model) -> None:
    row = twice.regained[twice.regained["model"] == "one"].iloc[0]
    assert (row["erased at"], row["read at"], row["to the last layer"]) == (0, 1, True)
    prompts = [prompt for pair in dropout.pairs(dropout.TRAIN_NOUNS) for prompt in pair]
    labels = np.arange(len(prompts)) % 2
    erase = storyteller.fit_direction("mean", prompts, labels, "resid_post.0", holdout=0).erase()

    (site,) = storyteller.sites.expand(["resid_post.1"])

    def gap(edits: list[pc.Edit]) -> float:
        acts = storyteller.record(prompts, "resid_post.1", "rest", edits=edits)
        rows = [acts.vectors(site, i, None)[: len(acts.positions[i])].double().numpy() for i in range(len(prompts))]
        first, second = (np.concatenate(rows[label::2]).mean(0) for label in (0, 1))
        return float(np.linalg.norm(second - first))

    assert row["share"] == pytest.approx(gap([erase]) / gap([]), rel=1e-4)


def test_ablations_cost_what_the_edit_costs(twice: dropout.Dropout, storyteller: pc.Model) -> None:
    rows = twice.ablations[twice.ablations["model"] == "one"].set_index(["what", "layer"])["kl"]
    assert len(rows) == 2 * (2 + len(dropout.STEPS))
    found = pc.metrics.damage(storyteller, pc.Zero(site="mlp_out.1", at="rest"), SHORT).summary()
    kl = found[(found["edit"] == "edited") & (found["metric"] == "kl")]["mean"].item()
    assert rows["mlp_out taken out", 1] == pytest.approx(kl)
    assert rows["random vector of 1", 0] > rows["random vector of 0.25", 0] > 0


@pytest.mark.slow
def test_the_whole_study_from_nothing(storyteller: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TOKENS", 4)
    monkeypatch.setattr(dropout, "ANSWERS", (" was", " a"))
    found = dropout.study(tmp_path, teller=storyteller, rounds=2, shape=TINY, progress=False)
    assert found.models["model"].tolist() == ["dropout-0.1-0", "dropout-0-0"]
    assert found.models["dropout"].tolist() == [0.1, 0.0]
    assert found.models["held_out_loss"].nunique() == 2
    assert {"report.html", "figure.png", "figure.svg", "stories", "models", "depth.csv", "ablations.csv"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert set(found.compared()["model"]) == set(found.models["model"])
    assert "GPT-Neo" in found.text()
    assert found.summary()["models"][0]["steps"] == TINY.steps
    monkeypatch.setattr(pc.Model, "generate", lambda *_, **__: pytest.fail("stories are kept"))
    again = dropout.study(tmp_path, teller=storyteller, rounds=2, shape=TINY, progress=False)
    pd.testing.assert_frame_equal(again.effects, found.effects)


def test_a_model_that_has_not_learnt_gender_gives_no_verdict(twice: dropout.Dropout) -> None:
    def said(bias: float) -> str:
        return dropout.replace(twice, models=twice.models.assign(bias=bias)).findings()[0]

    assert "has not learnt gender" in said(0.1)
    assert "is back at the end" in said(0.5)


def test_too_little_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pc.InputError, match="at least 1 seed"):
        dropout.study(tmp_path, seeds=0)
    with pytest.raises(pc.InputError, match="2 rounds"):
        dropout.study(tmp_path, rounds=1)
    assert not list(tmp_path.iterdir())


def test_openings_and_pairs_are_balanced() -> None:
    assert len(set(dropout.OPENINGS)) == len(dropout.OPENINGS) == 32
    assert not set(dropout.TRAIN_NOUNS) & set(dropout.TEST_NOUNS)
    for male, female in dropout.pairs(dropout.TEST_NOUNS):
        assert male != female
        assert len(male.split()) == len(female.split())
