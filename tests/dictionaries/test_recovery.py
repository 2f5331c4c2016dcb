"""Recovery: equal to SAELens' own numbers, blind to what must not matter, and what chance gives."""

from pathlib import Path

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.core.tensors import read_tensors
from patchclamp.dictionaries import Dictionary, ToyData, agreement, evaluate, recovery
from tests.dictionaries.stand_in import StandInCodes, StandInLeastSquares, StandInThreshold

FIXTURE = Path(__file__).parent.parent / "data" / "synthsaebench" / "metrics.safetensors"
TOY = ToyData.zipf(24, 12, active=2)


def _random(count, d=12, seed=7):
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed))


def test_f1_mcc_uniqueness_and_explained_variance_are_those_of_saelens():
    held = read_tensors(FIXTURE)
    encoder = StandInCodes(held["codes"], held["rows"] - 3.0)
    dictionary = Dictionary(held["atoms"], encoder, bias=torch.full((6,), 3.0))
    result = recovery(dictionary, held["features"], rows=held["rows"], coefficients=held["coefficients"])
    numbers = result.summary()
    for name in ("mcc", "uniqueness", "f1", "precision", "recall", "accuracy"):
        assert numbers[name] == pytest.approx(float(held[name]), abs=1e-6), name
    assert numbers["dead"] == 1
    explained = evaluate(dictionary, held["rows"]).explained_variance
    assert explained == pytest.approx(float(held["explained_variance"]), rel=2e-5), (
        "theirs is a difference of float32 sums"
    )


def test_the_truth_recovers_itself_in_any_order_and_at_any_length():
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    lengths = torch.linspace(0.1, 3, 24)[:, None]
    numbers = recovery((TOY.features * lengths)[order], TOY).summary()
    for name in ("mmcs", "atom_mmcs", "weighted_mmcs", "mcc", "uniqueness", "recovered_0.99", "precision_0.9"):
        assert numbers[name] == pytest.approx(1, abs=1e-6), name
    assert numbers["duplicates"] == 0


def test_a_flipped_atom_counts_for_the_absolute_cosine_and_not_for_the_signed_one():
    flipped = TOY.features * torch.where(torch.arange(24) < 6, -1.0, 1.0)[:, None]
    numbers = recovery(flipped, TOY).summary()
    assert numbers["mcc"] == pytest.approx(1, abs=1e-6)
    assert numbers["recovered_0.99"] == pytest.approx(0.75)
    assert numbers["mmcs"] < 0.95


def test_random_atoms_recover_what_the_sphere_says():
    d, count = 64, 400
    features = _random(300, d, seed=1)
    mmcs = recovery(_random(count, d, seed=2), features).mmcs
    axis = torch.zeros(d)
    axis[0] = 1
    draws = torch.nn.functional.normalize(_random(count * 400, d, seed=3), dim=1) @ axis
    assert mmcs == pytest.approx(float(draws.reshape(400, count).max(1).values.mean()), abs=0.01)


def test_each_measure_is_that_of_its_formula_and_duplicates_are_counted_once():
    atoms = torch.cat([_random(10), _random(10)[:3] * 2])
    cosines = torch.nn.functional.normalize(TOY.features, dim=1) @ torch.nn.functional.normalize(atoms, dim=1).T
    result = recovery(atoms, TOY)
    assert result.mmcs == pytest.approx(float(cosines.max(1).values.mean()), abs=1e-6)
    weights = TOY.probabilities
    weighted = float((cosines.max(1).values * weights).sum() / weights.sum())
    assert result.summary()["weighted_mmcs"] == pytest.approx(weighted, abs=1e-6)
    assert result.summary()["duplicates"] == 3
    assert np.isnan(result.data["matched"].values).sum() == 24 - 13
    assert int(result.histogram(20).sum()) == 24


def test_contributions_see_shrinkage_and_not_how_a_length_is_split_between_atom_and_code():
    toy = ToyData.zipf(8, 8, active=2)

    def contribution(factor, length):
        dictionary = Dictionary(toy.features * length, StandInLeastSquares(factor))
        return recovery(dictionary, toy, samples=500).summary()["contribution"]

    assert contribution(1.0, 1.0) == pytest.approx(1, abs=1e-4)
    assert contribution(1.0, 5.0) == pytest.approx(1, abs=1e-4), "least squares gives codes a fifth as large"
    assert contribution(0.5, 1.0) == pytest.approx(0.75, abs=1e-4), "1 - (1 - .5) ** 2"


def test_a_latent_for_each_feature_is_a_perfect_detector_and_shuffled_truth_is_not():
    toy = ToyData.zipf(8, 8, active=2)
    x, codes = toy.sample(400, seed=3)
    dictionary = Dictionary(toy.features, StandInLeastSquares())
    right = recovery(dictionary, toy.features, rows=x, coefficients=codes).summary()
    assert right["f1"] > 0.99
    wrong = recovery(dictionary, toy.features, rows=x, coefficients=codes.dense().flip(0)).summary()
    assert wrong["f1"] < 0.6


def test_dictionaries_agree_with_themselves_and_a_small_one_with_a_larger_that_holds_it():
    small, large = _random(10), torch.cat([_random(10), _random(20, seed=9)])
    table = agreement(small, large, names=["small", "large"]).summary().set_index("dictionary")
    assert table.loc["small", "mmcs"] == pytest.approx(1, abs=1e-6)
    assert table.loc["large", "mmcs"] < 0.9
    assert table.loc["large", "low"] < table.loc["large", "mmcs"] < table.loc["large", "high"]
    seeds = agreement(*(_random(30, seed=seed) for seed in range(4))).overall()
    assert seeds["low"] < seeds["mean"] < seeds["high"]
    assert np.isnan(agreement(small, large).overall()["low"]), "two dictionaries say nothing about others"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: recovery(_random(4, 5), TOY), "width 5 .* width 12"),
        (lambda: recovery(_random(4), TOY, samples=0), "samples"),
        (lambda: recovery(_random(4) * float("nan"), TOY), "NaN"),
        (lambda: recovery(_random(4), TOY.features, rows=_random(3)), "belong together"),
        (lambda: recovery(_random(4), TOY.features, rows=_random(3), coefficients=_random(3, 24)), "no encoder"),
        (lambda: agreement(_random(4)), "two or more"),
        (lambda: agreement(_random(4), _random(4, 5)), "different widths"),
        (lambda: agreement(_random(4), _random(4), names=["a", "a"]), "each its own"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, message):
    with pytest.raises(pc.InputError, match=message):
        make()


def test_results_are_drawn_saved_and_opened(tmp_path):
    dictionary = Dictionary(TOY.features, StandInThreshold())
    for name, result in {
        "recovery": recovery(dictionary, TOY, samples=500), "agreement": agreement(TOY.features, _random(9)),
    }.items():  # fmt: skip
        result.save(tmp_path / name)
        assert pc.open(tmp_path / name) == result
        assert len(result.frame())
