"""The intervals against their formulas, written out."""

import math
from math import sqrt

import numpy as np
import pytest

from patchclamp.core.intervals import bootstrap, mean_row, wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (0, 10), (3, 10), (10, 10), (61, 100)])
def test_the_interval_of_a_share_is_wilsons_at_95_percent(hits: int, count: int) -> None:
    z, share = 1.959963984540054, hits / count
    middle, half = share + z**2 / (2 * count), z * sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    expected = tuple((middle + sign * half) / (1 + z**2 / count) for sign in (-1, 1))
    assert wilson(hits, count) == pytest.approx(expected, abs=1e-12)


def test_equal_weights_are_no_weights_and_heavier_values_pull() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap(values, 1, np.full(30, 7.0)) == pytest.approx(bootstrap(values, 1))
    heavy = np.where(values > 0, 10.0, 1.0)
    assert bootstrap(values, 1, heavy)[0] > bootstrap(values, 1)[0]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_of_a_mean_equals_a_loops_over_2000_draws(weighted: bool) -> None:
    values = np.array([0.0, 1.0, 5.0, 2.5, -3.25, 7.75])
    weights = np.array([1, 2, 4, 1, 3, 5]) if weighted else np.ones(6)
    draws = np.random.default_rng(3).integers(6, size=(2000, 6))
    means = sorted(sum(values[i] * weights[i] for i in row) / sum(weights[i] for i in row) for row in draws)
    assert bootstrap(values, 3, weights if weighted else None) == pytest.approx(
        tuple(np.interp([0.025 * 1999, 0.975 * 1999], np.arange(2000), means))
    )


def test_another_seed_draws_others_and_the_same_seed_the_same() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap(values, 1) == bootstrap(values, 1)
    low, high = zip(*(bootstrap(values, seed) for seed in range(4)), strict=True)
    assert len(set(low)) == len(set(high)) == 4


def test_values_that_are_not_finite_are_not_hidden() -> None:
    row = mean_row([1.0, math.nan, 2.0], 0)
    assert math.isnan(row["mean"])
    assert math.isnan(row["low"])
    row = mean_row([3.0], 0)
    assert (row["mean"], row["count"]) == (3.0, 1)
    assert math.isnan(row["low"]), "one value says nothing about others"
    assert mean_row([1.0, 2.0], 0)["low"] == 1.0
    assert math.isnan(mean_row([], 0)["mean"])
