"""Weighted intervals."""

import numpy as np
import pytest

from patchclamp.core.intervals import RESAMPLES, bootstrap


def test_equal_weights_are_no_weights_and_heavier_values_pull() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap(values, 1, np.full(30, 7.0)) == pytest.approx(bootstrap(values, 1))
    heavy = np.where(values > 0, 10.0, 1.0)
    assert bootstrap(values, 1, heavy)[0] > bootstrap(values, 1)[0]


def test_the_weighted_interval_equals_a_loops() -> None:
    values, weights = np.array([0.0, 1.0, 5.0]), np.array([1, 2, 4])
    draws = np.random.default_rng(3).integers(3, size=(RESAMPLES, 3))
    means = [sum(values[i] * weights[i] for i in row) / sum(weights[i] for i in row) for row in draws]
    assert bootstrap(values, 3, weights) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
