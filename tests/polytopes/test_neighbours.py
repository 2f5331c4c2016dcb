"""Distances and neighbours of packed codes against the obvious ways, ties and blocks included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.polytopes import neighbours
from patchclamp.polytopes.neighbours import Engine, Metric, Packed, hamming, jaccard, knn
from tests.effort import examples

ENGINES: tuple[Engine, ...] = ("int8", "float32")


def codes(rows: int, bits: int, seed: int = 0, share: float = 0.4) -> Packed:
    return np.packbits(np.random.default_rng(seed).random((rows, bits)) < share, axis=1)


def slow(one: Packed, other: Packed, metric: Metric) -> np.ndarray:
    a, b = (np.unpackbits(c, axis=1).astype(bool) for c in (one, other))
    different = (a[:, None] ^ b).sum(-1)
    if metric == "hamming":
        return different
    either = (a[:, None] | b).sum(-1)
    return np.where(either > 0, different / np.maximum(either, 1), 0.0)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Packed, Packed, int]:
    width = draw(st.integers(1, 4))
    make = lambda rows: np.frombuffer(draw(st.binary(min_size=rows * width, max_size=rows * width)), np.uint8)  # noqa: E731
    base, queries = draw(st.integers(1, 30)), draw(st.integers(1, 12))
    found = make(base).reshape(base, width).copy(), make(queries).reshape(queries, width).copy()
    return *found, draw(st.integers(1, base))


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=examples(15, 60))
@given(problem=problems())
def test_distances_and_neighbours_equal_brute_force(engine: Engine, problem: tuple[Packed, Packed, int]) -> None:
    base, queries, k = problem
    for metric, fast in (("hamming", hamming), ("jaccard", jaccard)):
        want = slow(queries, base, metric)  # type: ignore[arg-type]
        np.testing.assert_allclose(fast(queries, base, engine).numpy(), want, rtol=0, atol=1e-15)
        found = knn(base, queries, k, metric, engine)  # type: ignore[arg-type]
        order = np.argsort(want, axis=1, kind="stable")[:, :k]
        assert np.array_equal(found.index.numpy(), order), "the nearest first; of equally near ones the first rows"
        np.testing.assert_allclose(found.distance.numpy(), np.take_along_axis(want, order, 1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("metric", ["hamming", "jaccard"])
@pytest.mark.parametrize("bits", [13, 200])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, metric: Metric, bits: int) -> None:
    base, queries = codes(700, bits), codes(45, bits, seed=1)
    base[300:] = base[:400]  # equals in other blocks
    whole = knn(base, queries, 17, metric)
    monkeypatch.setattr(neighbours, "BASE", 256)
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    cut = knn(base, queries, 17, metric)
    assert torch.equal(whole.index, cut.index)
    assert torch.equal(whole.distance, cut.distance)
    assert torch.equal(hamming(queries, base), torch.from_numpy(slow(queries, base, "hamming")).int())


def test_jaccard_distances_that_are_nearly_equal_are_told_apart() -> None:
    """To 100 set bits, 99 of them are 1/100 away and 101 around them 1/101, which is nearer."""
    base = np.packbits(np.arange(200) < np.array([[99], [101]]), axis=1)
    query = np.packbits(np.arange(200)[None] < 100, axis=1)
    found = knn(base, query, 1, "jaccard")
    assert found.index.tolist() == [[1]]
    assert found.distance.tolist() == [[pytest.approx(1 / 101)]]


def test_wide_codes_use_wide_keys() -> None:
    base, queries = codes(50, 300_000), codes(3, 300_000, seed=1)
    base[7] = base[40] = queries[1]
    found = knn(base, queries, 3)
    assert found.index[1, :2].tolist() == [7, 40]
    assert found.distance[1, :2].tolist() == [0, 0]
    want = slow(queries, base, "hamming")
    assert np.array_equal(found.distance.numpy(), np.sort(want, axis=1)[:, :3])


@given(problem=problems())
def test_identities(problem: tuple[Packed, Packed, int]) -> None:
    one, other, _ = problem
    for distance in (hamming, jaccard):
        assert torch.equal(distance(one, other), distance(other, one).T)
        own = distance(one, one)
        assert bool((own.diagonal() == 0).all())
    assert torch.equal(hamming(~one, ~other), hamming(one, other)), "complements differ in as many bits"
    share = jaccard(one, other)
    assert bool(((share >= 0) & (share <= 1)).all())


@pytest.mark.parametrize("distance", [hamming, jaccard])
def test_the_triangle_inequality(distance: object) -> None:
    own = distance(codes(30, 40), codes(30, 40)).double()  # type: ignore[operator]
    assert bool((own[:, None, :] <= own[:, :, None] + own[None] + 1e-12).all())


def test_faiss_gives_the_same_distances() -> None:
    faiss = pytest.importorskip("faiss")
    base, queries = codes(3000, 64), codes(50, 64, seed=1)  # few bits: many ties
    index = faiss.IndexBinaryFlat(64)
    index.add(base)
    theirs, rows = index.search(queries, 20)
    found = knn(base, queries, 20)
    assert np.array_equal(found.distance.numpy(), theirs)
    inside = theirs < theirs[:, -1:]  # of equally near ones at the end each takes what it likes
    for ours, other, sure in zip(found.index.numpy(), rows, inside, strict=True):
        assert set(ours[sure]) == set(other[sure])


def test_bad_input_is_refused() -> None:
    base = codes(5, 16)
    with pytest.raises(pc.InputError, match="unknown metric 'haming'; did you mean 'hamming'"):
        knn(base, base, 1, "haming")  # type: ignore[arg-type]
    for k in (0, 6):
        with pytest.raises(pc.InputError, match=f"k = {k}: there are 5 codes"):
            knn(base, base, k)
    with pytest.raises(pc.InputError, match="codes of 3 and of 2 bytes"):
        hamming(codes(2, 24), base)
    with pytest.raises(pc.InputError, match="packed codes"):
        hamming(np.zeros((2, 2)), base)  # type: ignore[arg-type]
