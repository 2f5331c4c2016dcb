"""Evaluation: batch by batch equal to the direct computation, and what a perfect and an empty dictionary get."""

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.dictionaries import Dictionary, ToyData, evaluate, frontier
from tests.dictionaries.stand_in import StandInLeastSquares, StandInThreshold

TOY = ToyData.zipf(24, 12, active=2)
DICTIONARY = Dictionary(TOY.features, StandInThreshold())


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_numbers_are_those_of_the_direct_computation_however_large_the_mean(offset):
    rows = (TOY.sample(9000, seed=1)[0].double() + offset).double()
    dictionary = Dictionary(
        TOY.features.double(), StandInThreshold(), bias=torch.full((12,), offset, dtype=torch.float64)
    )
    result = evaluate(dictionary, rows)
    output, codes = dictionary(rows), dictionary.encode(rows)
    explained = 1 - (rows - output).square().sum() / (rows - rows.mean(0)).square().sum()
    assert result.explained_variance == pytest.approx(float(explained), abs=1e-9)
    assert result.l0 == pytest.approx(float((codes != 0).sum(1).double().mean()))
    assert np.array_equal(result.data["rows"].values, torch.bincount((codes != 0).sum(1)).numpy())
    assert np.allclose(result.data["density"].values, (codes != 0).double().mean(0))
    cosine = torch.nn.functional.cosine_similarity(rows, output)[rows.norm(dim=1) > 0].mean()
    assert float(result.data["cosine"]) == pytest.approx(float(cosine), abs=1e-9)


def test_rows_in_any_memory_are_measured_alike():
    rows = TOY.sample(300, seed=1)[0].numpy()
    expected = evaluate(DICTIONARY, rows).explained_variance
    for same in (rows.astype(">f4"), np.asfortranarray(rows), np.ascontiguousarray(rows[::-1])[::-1]):
        assert evaluate(DICTIONARY, same).explained_variance == pytest.approx(expected, abs=1e-6)


def test_exact_codes_explain_everything_and_no_codes_nothing():
    toy = ToyData.zipf(8, 8, active=2)
    rows = toy.sample(2000, seed=1)[0]
    rows = rows - rows.mean(0)
    exact = evaluate(Dictionary(toy.features, StandInLeastSquares()), rows)
    assert exact.explained_variance == pytest.approx(1, abs=1e-5)
    empty = evaluate(DICTIONARY, TOY.sample(2000, seed=1)[0], encoder=StandInThreshold(1e6)).summary()
    assert empty["dead"] == 24
    assert empty["l0"] == 0
    assert empty["explained_variance"] < 0


def test_another_encoder_on_the_same_atoms_shows_what_the_first_one_misses():
    toy = ToyData.zipf(8, 8, active=2)
    dictionary, rows = Dictionary(toy.features, StandInThreshold(0.5)), toy.sample(500, seed=1)[0]
    gap = (
        evaluate(dictionary, rows, encoder=StandInLeastSquares()).explained_variance
        - evaluate(dictionary, rows).explained_variance
    )
    assert gap > 0.1


def test_a_stream_is_read_on_from_where_it_stands_and_is_not_moved():
    stream = TOY.stream(256, seed=3)
    next(iter(stream))
    state = stream.state()
    ahead = evaluate(DICTIONARY, stream, batches=2)
    assert stream.state() == state
    rows = torch.cat([TOY.sample(256, seed=3, step=step)[0] for step in (1, 2)])
    assert ahead.explained_variance == pytest.approx(evaluate(DICTIONARY, rows).explained_variance, abs=1e-9)


def test_the_front_holds_what_no_other_beats():
    rows = TOY.sample(2000, seed=1)[0]
    thresholds = (0.2, 0.4, 0.6)
    good = [evaluate(DICTIONARY, rows, encoder=StandInThreshold(threshold)) for threshold in thresholds]
    bad = Dictionary(TOY.features.flip(1), StandInThreshold())
    result = frontier({"good": good, "bad": [evaluate(bad, rows)]})
    table = result.frame()
    for _, row in table.iterrows():
        beaten = ((table["l0"] <= row["l0"]) & (table["explained_variance"] > row["explained_variance"])).any()
        assert row["best"] == (not beaten)
    assert not table[table["method"] == "bad"]["best"].any()


def test_results_are_drawn_saved_and_opened(tmp_path):
    result = evaluate(DICTIONARY, TOY.sample(2000, seed=1)[0])
    for name, part in {"evaluation": result, "frontier": frontier({"threshold": [result, result]})}.items():
        part.save(tmp_path / name)
        assert pc.open(tmp_path / name) == part


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (lambda: torch.zeros(0, 12), {}, "no rows"),
        (lambda: torch.ones(5, 12), {}, "no variance"),
        (lambda: torch.ones(5, 7), {}, "do not fit"),
        (lambda: torch.ones(12), {}, "rows are"),
        (lambda: torch.full((5, 12), float("nan")), {}, "NaN"),
        (lambda: TOY.stream(8), {}, "no end"),
        (lambda: torch.ones(5, 12), {"batches": 0}, "batches"),
    ],
)
def test_rows_that_cannot_be_measured_are_refused(rows, options, message):
    with pytest.raises(pc.InputError, match=message):
        evaluate(DICTIONARY, rows(), **options)


def test_a_frontier_of_nothing_is_refused():
    with pytest.raises(pc.InputError, match="no evaluations"):
        frontier({})
