"""Shares with their intervals."""

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import patchclamp as pc
from patchclamp.core.intervals import bootstrap, wilson
from patchclamp.rewriting import scores as module


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


def test_a_score_compares_what_is_wanted_with_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target against the true answer for the fact, a neighbour's own answer against the target; how likely does not matter."""
    asked: list[Any] = []
    after = torch.tensor([[0.4, 0.1, 0.5], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]]).log()

    def run(*given: Any, logits: str) -> Any:
        asked.append((*given[1:], logits))
        return SimpleNamespace(last_logits=lambda: after + 1.0)

    monkeypatch.setattr(module, "run", run)
    model: Any = SimpleNamespace(output_id=["new", "old", "own"].index)
    fact = pc.rewriting.Fact("{} is", "x", "old", "new", ("{} was",), (("y", "own"),))
    found = inspect.unwrap(pc.rewriting.score)(model, fact, "edits")  # type: ignore[arg-type]
    assert asked == [(["x is", "x was", "y is"], "edits", "last")]
    assert found["test"].tolist() == ["efficacy", "paraphrase", "neighbourhood"]
    assert found["p_wanted"].tolist() == pytest.approx([0.4, 0.1, 0.3], rel=1e-6)
    assert found["p_other"].tolist() == pytest.approx([0.1, 0.3, 0.2], rel=1e-6)
    assert found["success"].tolist() == [True, False, True]
    assert found["magnitude"].tolist() == pytest.approx([0.3, -0.2, 0.1], rel=1e-6)
    with pytest.raises(pc.InputError, match=r"one \{\} for its subject; got 'It was'"):
        inspect.unwrap(pc.rewriting.score)(model, pc.rewriting.Fact("{} is", "x", "old", "new", ("It was",)))


def test_a_fact_counts_once_a_test() -> None:
    def frame(near: list[bool], by: float) -> pd.DataFrame:
        rows = [("efficacy", True, 0.5), *(("neighbourhood", good, by + 0.1 * i) for i, good in enumerate(near))]
        return pd.DataFrame(rows, columns=["test", "success", "magnitude"])

    scores = [frame([True] * 9 + [False], 0.0), frame([False], 0.1), frame([True, False], 0.7)]
    scores += [frame([True] * i + [False] * 2, 0.13 * i) for i in range(1, 7)]
    found = pc.rewriting.summary(scores).set_index("test")
    assert list(found.index) == ["efficacy", "neighbourhood"]
    shares = [0.9, 0.0, 0.5, *(i / (i + 2) for i in range(1, 7))]
    magnitudes = [0.45, 0.1, 0.75, *(0.13 * i + 0.05 * (i + 1) for i in range(1, 7))]
    assert bootstrap(shares, 0) != bootstrap(shares, 1)
    assert bootstrap(magnitudes, 0) != bootstrap(magnitudes, 1)
    for seed in (0, 1):
        row = pc.rewriting.summary(scores, seed).set_index("test").loc["neighbourhood"]
        assert row["success"] == pytest.approx(np.mean(shares))
        assert row["magnitude"] == pytest.approx(np.mean(magnitudes))
        assert (row["low"], row["high"]) == pytest.approx(bootstrap(shares, seed))
        assert (row["magnitude_low"], row["magnitude_high"]) == pytest.approx(bootstrap(magnitudes, seed))
    assert found.loc["efficacy", "facts"] == 9
    assert (found.loc["efficacy", "low"], found.loc["efficacy", "high"]) == pytest.approx(wilson(9, 9))
    with pytest.raises(pc.InputError, match="no scores"):
        pc.rewriting.summary([])
