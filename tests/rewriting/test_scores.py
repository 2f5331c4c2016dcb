"""Shares with their intervals."""

import numpy as np
import pandas as pd
import pytest

import patchclamp as pc
from patchclamp.core.intervals import bootstrap, wilson


def test_wilson_intervals() -> None:
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_the_bootstrap_covers_the_mean_and_follows_the_seed() -> None:
    draw, hits = np.random.default_rng(0), 0
    for _ in range(200):
        low, high = bootstrap(draw.normal(1.0, 2.0, 40), 0)
        hits += low <= 1.0 <= high
    assert 175 <= hits <= 199
    values = draw.normal(size=9)
    assert bootstrap(values, 3) == bootstrap(values, 3) != bootstrap(values, 4)


def test_a_fact_counts_once_a_test() -> None:
    def frame(near: list[bool], by: float) -> pd.DataFrame:
        rows = [("efficacy", True, 0.5), *(("neighbourhood", good, by + 0.1 * i) for i, good in enumerate(near))]
        return pd.DataFrame(rows, columns=["test", "success", "magnitude"])

    scores = [frame([True] * 9 + [False], 0.0), frame([False], 0.1), frame([True, False], 0.7)]
    found = pc.rewriting.summary(scores).set_index("test")
    assert list(found.index) == ["efficacy", "neighbourhood"]
    shares, magnitudes = [0.9, 0.0, 0.5], [0.45, 0.1, 0.75]
    for seed in (0, 1):
        row = pc.rewriting.summary(scores, seed).set_index("test").loc["neighbourhood"]
        assert row["success"] == pytest.approx(1.4 / 3)
        assert row["magnitude"] == pytest.approx(1.3 / 3)
        assert (row["low"], row["high"]) == pytest.approx(bootstrap(shares, seed))
        assert (row["magnitude_low"], row["magnitude_high"]) == pytest.approx(bootstrap(magnitudes, seed))
    assert found.loc["efficacy", "facts"] == 3
    assert (found.loc["efficacy", "low"], found.loc["efficacy", "high"]) == pytest.approx(wilson(3, 3))
    with pytest.raises(pc.InputError, match="no scores"):
        pc.rewriting.summary([])
