"""Probes on data whose answer is known: no signal, a signal, an erased one, a remembered one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.metrics.controls import random_projection, rank_of

D, N = 12, 1500


def rows(shift: float, seed: int = 0, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Normal rows; class c is moved by ``shift`` along feature c."""
    draw = np.random.default_rng(seed)
    z = draw.integers(classes, size=N)
    X = draw.standard_normal((N, D))
    X[np.arange(N), z] += shift
    return X, z


def project_out_the_mean_difference(X: np.ndarray, z: np.ndarray, train: np.ndarray) -> object:
    """About the training mean, along the differences of the training class means."""
    means = np.stack([X[train][z[train] == c].mean(0) for c in np.unique(z)])
    basis = np.linalg.svd(means - means.mean(0))[2][: len(means) - 1]
    mean = X[train].mean(0)
    return lambda x: x - (x - mean) @ basis.T @ basis


@pytest.fixture(scope="module")
def erased() -> pc.metrics.ProbeReport:
    X, z = rows(2.0)
    train, _ = pc.metrics.split(z)
    return pc.metrics.probe(X, z, project_out_the_mean_difference(X, z, train))


def test_the_erased_is_at_chance_and_a_random_projection_is_not(erased: pc.metrics.ProbeReport) -> None:
    chance = float(erased.data["chance_accuracy"])
    concept = erased.data["accuracy"].sel(task="concept")
    assert (concept.sel(data="before") > 0.88).all()
    assert (abs(concept.sel(data="after") - chance) < 0.07).all()
    assert (concept.sel(data="random") > 0.8).all()
    loss = erased.data["loss"].sel(task="concept")
    assert (loss.sel(data="before") < 0.3).all()
    assert (loss.sel(data="after") > float(erased.data["chance_loss"]) - 0.02).all()
    assert erased.record["parameters"]["rank"] == 1


def test_gaps_and_damage_are_those_by_hand(erased: pc.metrics.ProbeReport) -> None:
    X, z = rows(2.0)
    train, test = pc.metrics.split(z)
    after = project_out_the_mean_difference(X, z, train)(X)
    for name, part in (("train", train), ("test", test)):
        before, left = (
            np.linalg.norm(Y[part][z[part] == 1].mean(0) - Y[part][z[part] == 0].mean(0)) for Y in (X, after)
        )
        assert float(erased.data["gap_left"].sel(data="after", rows=name)) == pytest.approx(left / before, abs=1e-12)
    assert float(erased.data["gap_left"].sel(data="after", rows="train")) < 1e-12
    assert float(erased.data["gap_left"].sel(data="after", rows="test")) > 1e-3, "held-out rows have a gap of their own"
    damage = ((after - X)[test] ** 2).sum() / ((X[test] - X[test].mean(0)) ** 2).sum()
    assert float(erased.data["damage"].sel(data="after")) == pytest.approx(damage)
    assert float(erased.data["damage"].sel(data="before")) == 0
    assert float(erased.data["gap_left"].sel(data="before", rows="test")) == 1


def test_no_signal_is_read_where_there_is_none() -> None:
    X, z = rows(0.0, seed=1)
    found = pc.metrics.probe(X, z, lambda x: x)
    assert (abs(found.data["accuracy"].sel(task="concept") - 0.5) < 0.08).all()
    assert np.array_equal(found.data["accuracy"].sel(data="after"), found.data["accuracy"].sel(data="before"))


def test_a_constant_erases_everything() -> None:
    X, z = rows(2.0, classes=3)
    found = pc.metrics.probe(X, z, lambda x: 0 * x, probes=["linear"])
    after = found.data.sel(data="after", task="concept", probe="linear")
    assert float(after["accuracy"]) == pytest.approx(float(found.data["chance_accuracy"]))
    assert float(after["loss"]) == pytest.approx(float(found.data["chance_loss"]), abs=1e-4)
    assert float(found.data["gap_left"].sel(data="after", rows="test")) == 0


def test_an_mlp_reads_what_a_line_cannot() -> None:
    draw = np.random.default_rng(0)
    X = draw.standard_normal((3000, 4))
    z = (X[:, 0] * X[:, 1] > 0).astype(int)
    found = pc.metrics.probe(X, z, lambda x: x).data["accuracy"].sel(data="before", task="concept")
    assert float(found.sel(probe="linear")) < 0.58
    assert float(found.sel(probe="mlp")) > 0.85


def test_selectivity_tells_a_concept_from_memory_of_types() -> None:
    draw = np.random.default_rng(0)
    types = draw.integers(8, size=N)
    z = types % 2
    X = np.eye(D)[types] + 0.05 * draw.standard_normal((N, D))  # every type has a feature of its own
    memory = pc.metrics.probe(X, z, lambda x: x, types=types, probes=["linear"], seed=3)
    assert float(memory.data["accuracy"].sel(data="before", task="control", probe="linear")) > 0.95
    assert abs(float(memory.selectivity().sel(data="before", probe="linear"))) < 0.05
    X, z = rows(3.0)
    types = draw.integers(50, size=N)
    concept = pc.metrics.probe(X, z, lambda x: x, types=types, probes=["linear"])
    assert float(concept.selectivity().sel(data="before", probe="linear")) > 0.25


def test_rounding_along_an_erased_direction_is_no_feature() -> None:
    """An erasure in float32 leaves the sign of the class in the last bits of a large coordinate."""
    X, z = rows(2.0)
    X[:, :2] = X[:, :2] - X[:, :2].mean()

    def leaky(x: np.ndarray) -> np.ndarray:
        out = x.copy()
        out[:, 0], out[:, 1] = 1e-9 * np.sign(z - 0.5), 0
        return out

    found = pc.metrics.probe(X, z, leaky, probes=["linear"])
    chance = float(found.data["chance_accuracy"])
    assert abs(float(found.data["accuracy"].sel(data="after", task="concept", probe="linear")) - chance) < 0.07


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(3, 30))
def test_groups_are_never_on_both_sides(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    groups = draw.integers(count, size=400)
    z = draw.integers(2, size=400)
    train, test = pc.metrics.split(z, groups, seed=seed)
    assert not set(groups[train]) & set(groups[test])
    assert sorted([*train, *test]) == list(range(400))


def test_a_probe_that_remembers_groups_gains_nothing_from_a_grouped_split() -> None:
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 50)
    z = draw.integers(2, size=30)[groups]
    X = np.eye(30)[groups] + 0.05 * draw.standard_normal((N, 30))
    leaky, honest = (
        pc.metrics.probe(X, z, lambda x: x, groups=g, probes=["linear"])
        .data["accuracy"]
        .sel(data="before", task="concept")
        for g in (None, groups)
    )
    assert float(leaky[0]) > 0.99
    assert float(honest[0]) < 0.8


def test_the_interval_of_grouped_rows_is_that_of_groups() -> None:
    X, z = rows(1.0)
    groups = np.arange(N) // 100
    wide = pc.metrics.probe(X, z, lambda x: x, groups=groups, probes=["linear"]).data
    assert (wide["low"] <= wide["accuracy"]).all()
    assert (wide["accuracy"] <= wide["high"]).all()


def test_the_same_seed_gives_the_same_report_and_tensors_are_taken() -> None:
    X, z = rows(1.0)
    one, other = (pc.metrics.probe(data, z, lambda x: 0.5 * x, seed=4) for data in (X, torch.from_numpy(X)))
    assert one == other
    assert one != pc.metrics.probe(X, z, lambda x: 0.5 * x, seed=5)


def test_the_random_control_has_the_rank_of_the_erasure() -> None:
    X, _ = rows(1.0)
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.standard_normal((D, 3)))[0]
    after = X - (X - 5.0) @ basis @ basis.T
    assert rank_of(after - X) == 3
    control = random_projection(X, X.mean(0), 3, draw)
    assert np.linalg.matrix_rank(control - X.mean(0), tol=1e-8) == D - 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_is_no_rank(dtype: torch.dtype) -> None:
    X, z = rows(1.0)
    X[:, 0] *= 1e5  # a massive activation, which the erasure only rounds
    unit = np.eye(D)[[2]]

    def erased(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x - (x - 5.0) @ unit.T @ unit).to(dtype)

    assert pc.metrics.probe(X, z, erased, probes=["linear"]).record["parameters"]["rank"] == 1


def test_unfinished_training_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from patchclamp.metrics import classifiers

    X, z = rows(1.0)
    assert bool(pc.metrics.probe(X, z, lambda x: x, probes=["linear"]).data["converged"].all())
    monkeypatch.setitem(classifiers.ITERATIONS, "linear", 1)
    found = pc.metrics.probe(X, z, lambda x: x, probes=["linear"])
    assert not bool(found.data["converged"].any())
    assert "not converged" in repr(found)


@pytest.mark.parametrize(("change", "said"), [
    ({"z": [0, 1]}, "one a row: got 2"), ({"z": np.zeros(N)}, "at least 2 classes"), ({"z": [0] * (N - 1) + [1]}, "class 1 has 1 row"),
    ({"z": [0] * (N - 8) + [1] * 8}, "training rows; at least 10"), ({"X": np.full((N, D), np.nan)}, "must be finite"),
    ({"X": np.zeros(N)}, r"rows of features"), ({"transform": lambda x: x[:, 1:]}, "must keep the shape"),
    ({"rank": 99}, "outside 1..12"), ({"probes": ["liner"]}, "did you mean 'linear'"), ({"groups": [1, 2]}, "groups are one a row"),
    ({"groups": np.arange(N) % 2}, "2 groups cannot be split"),
    ({"types": np.zeros(N)}, "more than 1 types"),
])  # fmt: skip
def test_wrong_input_is_refused(change: dict[str, object], said: str) -> None:
    X, z = rows(1.0)
    given_ = {"X": X, "z": z, "transform": lambda x: x, **change}
    with pytest.raises(pc.InputError, match=said):
        pc.metrics.probe(given_.pop("X"), given_.pop("z"), given_.pop("transform"), **given_)


def test_an_erasure_that_works_in_place_does_not_touch_the_data() -> None:
    X, z = rows(2.0)
    kept = X.copy()

    def emptied(x: np.ndarray) -> np.ndarray:
        x *= 0
        return x

    found = pc.metrics.probe(X, z, emptied, probes=["linear"])
    assert np.array_equal(X, kept)
    assert float(found.data["accuracy"].sel(data="before", task="concept", probe="linear")) > 0.8
