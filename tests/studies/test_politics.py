"""The study of party: held-out folds are held out, deals are all the others, and a planted party is found."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import patchclamp as pc
from patchclamp.studies import concepts, politics
from tests.effort import FULL


@pytest.fixture
def texts() -> concepts.Texts:
    rows = [
        (f"{name} {i}", party, name)
        for pair in concepts.ERAS
        for party, name in zip(concepts.PARTIES, pair, strict=True)
        for i in range(8)
    ]
    return concepts.Texts(*zip(*rows, strict=True))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of the sixty-three deals, where it is not them that is looked at."""
    every = politics.deals
    monkeypatch.setattr(politics, "deals", lambda texts: every(texts)[::21])


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third deal, but in the full form all of them."""
    every = politics.deals
    monkeypatch.setattr(politics, "deals", lambda texts: every(texts)[:: 1 if FULL else 3])


def features(texts: concepts.Texts, party: float, president: float) -> np.ndarray:
    """Rows with noise, a vector of the party and a vector of each president."""
    draw = np.random.default_rng(0)
    names = list(dict.fromkeys(texts.groups))
    own = draw.normal(size=(len(names), 30))
    sides = np.array([1.0 if label == concepts.PARTIES[1] else -1.0 for label in texts.labels])
    x = draw.normal(size=(len(texts), 30)) + president * own[[names.index(name) for name in texts.groups]]
    x[:, 0] += party * sides
    return x


@pytest.mark.usefixtures("third")
def test_a_planted_party_is_read_on_held_out_presidents(texts: concepts.Texts) -> None:
    probes, shares, null = politics.probe_tables(features(texts, 5.0, 0.0), texts)
    own = probes.set_index(["concept", "split"])["accuracy"]
    assert own["party", "by president"] > 0.95
    assert (shares["right"] > 0.8).all()
    assert null.max() < own["party", "by president"]


@pytest.mark.usefixtures("few")
def test_presidents_without_a_party_are_recognised_by_passage_alone(texts: concepts.Texts) -> None:
    """The trap that the study is about: the same probe, split by passage, looks as if it read party."""
    probes, _, _ = politics.probe_tables(features(texts, 0.0, 3.0), texts)
    own = probes.set_index(["concept", "split"])["accuracy"]
    assert own["party", "by passage"] > 0.9
    assert own["party", "by president"] < 0.75


def test_deals_are_all_others_up_to_exchanging_the_labels(texts: concepts.Texts) -> None:
    found = politics.deals(texts)
    party = np.array(texts.labels) == concepts.PARTIES[1]
    keys = {tuple(one if one[0] else ~one) for one in (*found, party)}
    assert len(found) == 63
    assert len(keys) == 64, "none twice, none with its opposite, none is party"
    for labels in found:
        frame = pd.DataFrame({"pair": politics.times_of(texts), "president": texts.groups, "label": labels})
        assert (frame.groupby("president")["label"].nunique() == 1).all()
        assert (frame.groupby("pair")["label"].mean() == 0.5).all()


def test_a_row_is_judged_by_a_probe_that_has_not_seen_its_fold() -> None:
    x = np.eye(6).repeat(4, axis=0)
    y, folds = np.arange(24) // 4 % 2 == 0, np.arange(24) // 4
    alone = politics.held_out(x, y, folds)
    assert alone.mean() <= 0.5, "each fold has a feature of its own, so nothing carries over"
    assert politics.held_out(x, y, np.arange(24) % 4).all(), "with rows of the same fold seen, it is easy"


def test_the_p_value_counts_the_deals_that_do_as_well() -> None:
    probes = pd.DataFrame([{"concept": "party", "split": "by president", "accuracy": 0.6}])
    empty = pd.DataFrame()
    found = politics.Politics("tiny", 1, probes, empty, np.array([0.7, 0.6, 0.5]), ((), ()), None, empty, empty)  # type: ignore[arg-type]
    assert found.p_value() == pytest.approx(3 / 4)


@pytest.mark.usefixtures("few")
def test_everything_found_is_kept(llama: pc.Model, texts: concepts.Texts, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(len(texts), 32))
    probes, shares, null = politics.probe_tables(x, texts)
    made = concepts.fit_at_site(llama, pc.directions.MeanDifference(), x, np.array(texts.labels), "resid_post.1", 1.0)
    response = llama.dose_response({"party": made}, [[5, 6, 7], [8, 9]], (5, 9), [-1, 1], [[5, 6, 7, 8], [9, 8, 7]])
    found = politics.Politics("tiny", 1, probes, shares, null, ((" a",), (" b",)), response, shares, shares)
    found.save(tmp_path)
    assert pc.open(tmp_path / "dose") == response
    np.testing.assert_allclose(pd.read_csv(tmp_path / "deals.csv")["accuracy"], null)
    assert f"p = {found.p_value():.3f}" in (tmp_path / "report.html").read_text()
    assert "Harry S Truman" in found.text()
    assert json.dumps(found.summary())


@pytest.mark.assets
@pytest.mark.slow
def test_the_whole_study(smollm2: pc.Model, tmp_path: Path) -> None:
    found = politics.study(smollm2, tmp_path, layer=4, each=4)
    own = found.probes.set_index(["concept", "split"])["accuracy"]
    assert own["era", "by passage"] > own["party", "by president"]
    assert {"report.html", "figure.svg", "probes.csv", "deals.csv", "dose"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert pc.open(tmp_path / "dose") == found.response
