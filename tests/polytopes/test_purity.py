"""Scores of clusters against known ones, and how far they vary."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score

from patchclamp.polytopes.purity import chance_information, halves, scores
from tests.effort import examples

marks = st.lists(st.integers(0, 5), min_size=2, max_size=40)


@settings(max_examples=examples(10, 60))
@given(own=marks, seed=st.integers(0, 1000))
def test_scores_against_scikit_learn_and_by_hand(own: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).integers(4, size=len(own))
    purity, entropy, ami = scores(own, labels)
    assert ami == pytest.approx(adjusted_mutual_info_score(labels, own), abs=1e-9)
    whole, hits, bits = len(own), 0, 0.0
    for one in set(own):
        inside = labels[np.array(own) == one]
        share = np.bincount(inside) / len(inside)
        hits += np.bincount(inside).max()
        bits -= len(inside) * sum(p * np.log2(p) for p in share if p > 0)
    assert purity == pytest.approx(hits / whole)
    assert entropy == pytest.approx(bits / whole, abs=1e-12)


@settings(max_examples=examples(6, 30))
@given(own=st.lists(st.integers(0, 2), min_size=2, max_size=6))
def test_the_expected_mutual_information_is_the_mean_over_all_orders(own: list[int]) -> None:
    """Exactly: over every order of the labels."""
    labels = [i % 3 for i in range(len(own))]
    sizes = [np.unique(values, return_counts=True)[1] for values in (own, labels)]
    orders = set(permutations(labels))
    assert chance_information(*sizes) == pytest.approx(
        np.mean([mutual_info_score(order, own) for order in orders]), abs=1e-12
    )


@given(own=marks, seed=st.integers(0, 1000))
def test_names_of_clusters_and_labels_do_not_matter(own: list[int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.integers(5, size=len(own))
    other = draw.permutation(6)[np.array(own)]
    names = np.array([f"class {i}" for i in draw.permutation(5)], dtype=object)[labels]
    assert scores(own, labels) == pytest.approx(scores(other, names))


def test_perfect_clusters_score_one_and_random_ones_score_nothing() -> None:
    labels = np.arange(600) % 6
    assert scores(labels, labels) == (1.0, 0.0, 1.0)
    purity, entropy, ami = scores(np.random.default_rng(0).integers(6, size=600), labels)
    assert purity < 0.25
    assert entropy > 2.5
    assert abs(ami) < 0.01
    assert np.isnan(scores(np.full(600, -1), labels)).all(), "no row is covered: nothing to score"
    assert scores([0, 0, 0], [1, 1, 1]) == (1.0, 0.0, 1.0), "one cluster of one label"
    some = np.array([0, 0, 1, 1, -1, -1])
    assert scores(some, [0, 0, 1, 2, 9, 9]) == scores(some[:4], [0, 0, 1, 2]), "rows in no cluster count for nothing"


def test_half_samples_vary_as_samples_do() -> None:
    """Of a partition that is right with probability .8: the spread of halves is that of the score over fresh samples."""
    draw = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        labels = draw.integers(4, size=400)
        return np.where(draw.random(400) < 0.8, labels, (labels + 1) % 4), labels

    fresh = np.std([scores(*sample())[0] for _ in range(300)])
    own, labels = sample()
    seen = np.std(halves(own, labels, np.arange(400), 200, draw)[:, 0])
    assert 0.75 < seen / fresh < 1.33
    groups = np.arange(400) // 200
    together = halves(own, labels, groups, 20, draw)
    assert together.shape == (20, 3)
    parts = {scores(own[groups == group], labels[groups == group]) for group in (0, 1)}
    assert {tuple(row) for row in together.tolist()} == parts, "of two groups there are two halves, and both are drawn"
