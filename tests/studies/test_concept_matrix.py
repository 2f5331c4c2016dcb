"""The matrix of concepts: the control at equal divergence, the contrast of classes, and erasures that erase."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import patchclamp as pc
from patchclamp.studies import concept_matrix, concepts

RANDOM = ("random, rank 1", "random, rank 4", "random, rank 16")


@pytest.fixture
def concept() -> concept_matrix.MeasuredConcept:
    texts = concepts.Texts(("a", "b", "c", "d"), ("no", "yes", "no", "yes"), (0, 0, 1, 1))
    return concept_matrix.MeasuredConcept("gender", texts, texts, texts.prompts, (1, 2))


def test_an_edit_like_the_random_ones_has_ratio_one(concept: concept_matrix.MeasuredConcept) -> None:
    """Shifts of random erasures grow as the root of their divergence; an edit is held against that at its own divergence."""
    kl = dict(zip(RANDOM, (0.01, 0.04, 0.16), strict=True)) | {"gender": 0.09, "politics": 0.04, "sentiment": 0.01}
    shift = {name: value**0.5 for name, value in kl.items()} | {"politics": 0.6, "sentiment": 0.05}
    signs = np.array([1, -1, 1, 1])
    odds = pd.DataFrame(
        {"unedited": np.arange(4.0)} | {n: np.arange(4.0) + signs * value for n, value in shift.items()}
    )
    rows = pd.DataFrame(concept_matrix.answer_shifts(concept, odds, kl)).set_index("edit")
    np.testing.assert_allclose(rows["random"], [0.3, 0.2, 0.1])
    np.testing.assert_allclose(rows["ratio"], [1.0, 3.0, 0.5])
    np.testing.assert_allclose(rows["low"], rows["ratio"], err_msg="all prompts moved alike")


def test_the_contrast_is_of_the_second_class_over_the_first(concept: concept_matrix.MeasuredConcept) -> None:
    values = {"unedited": [0.0, 2.0, 0.0, 2.0], "gender": [1.0, 1.0, 1.0, 1.0], "sentiment": [2.0, 0.0, 2.0, 0.0]}
    rest = {name: [0.0, 0.0, 0.0, 4.0] for name in ("politics", *concept_matrix.PROBED)}
    rows = pd.DataFrame(concept_matrix.class_contrasts(concept, pd.DataFrame(values | rest))).set_index("edit")
    assert dict(rows.loc[["unedited", "gender", "sentiment", "politics"], "contrast"]) == {
        "unedited": 2, "gender": 0, "sentiment": -2, "politics": 2,
    }  # fmt: skip
    assert rows.loc["politics", "low"] < 2 < rows.loc["politics", "high"]


def test_everything_found_is_kept(tmp_path: Path) -> None:
    names = concept_matrix.NAMES
    shifts = pd.DataFrame(
        [{"edit": a, "concept": b, "shift": 1.0, "ratio": 4.0 if a == b else 1.0} for a in names for b in names]
    )
    edits = ("unedited", *names, *concept_matrix.PROBED)
    rest = pd.DataFrame([{"edit": a, "concept": b, "contrast": 2.0, "accuracy": 0.5} for a in edits for b in names])
    made = concept_matrix.ConceptMatrix("tiny", 1, shifts, rest, rest, shifts)
    made.save(tmp_path)
    np.testing.assert_array_equal(made.matrix(), 1 + 3 * np.eye(3))
    for name in ("shifts", "contrasts", "probes", "damage"):
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / f"{name}.csv"), getattr(made, name))
    assert "produced weird results" in (tmp_path / "report.html").read_text()
    assert "politics" in made.text()
    assert json.dumps(made.summary())
    drawn = [text.get_text() for text in concept_matrix.figure(made).axes[0].texts]
    assert drawn == ["4.0", "1.0", "1.0", "1.0", "4.0", "1.0", "1.0", "1.0", "4.0"]


@pytest.mark.assets
@pytest.mark.slow
def test_classes_of_test_texts_are_apart_from_those_fitted_on(smollm2: pc.Model) -> None:
    given = concept_matrix.chosen_concepts(smollm2, 40)
    assert [one.name for one in given] == list(concept_matrix.NAMES)
    for one in given:
        assert not set(one.fit.prompts) & set(one.test.prompts)
        assert set(one.fit.labels) == set(one.test.labels)
        assert 0.4 < one.second.mean() < 0.6
        assert len(one.prompts) == len(one.test)
    held = set(given[1].test.groups)
    assert held == set(concept_matrix.HELD_OUT)
    assert not held & set(given[1].fit.groups)


@pytest.mark.assets
@pytest.mark.slow
def test_erasing_gender_takes_gender_from_the_answers_and_a_random_erasure_does_not(smollm2: pc.Model) -> None:
    given = concept_matrix.chosen_concepts(smollm2, 20)
    edits = concept_matrix.erasures(smollm2, given, 15)
    odds = concept_matrix.answer_odds(smollm2, given[0], edits)
    rows = pd.DataFrame(concept_matrix.class_contrasts(given[0], odds)).set_index("edit")["contrast"]
    assert abs(rows["gender"]) < 0.4 * rows["unedited"]
    assert abs(rows["random, rank 1"] / rows["unedited"] - 1) < 0.2
