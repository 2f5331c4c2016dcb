"""Probes on data whose answer is known: no signal, a signal, an erased one, a remembered one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.core.intervals import bootstrap, wilson
from patchclamp.metrics import classifiers
from patchclamp.metrics.controls import control_labels, random_projection, rank_of, rounding_of
from tests.effort import examples

D, N = 12, 1500


def rows(shift: float, seed: int = 0, classes: int = 2, count: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Normal rows; class c is moved by ``shift`` along feature c."""
    draw = np.random.default_rng(seed)
    z = draw.integers(classes, size=count)
    X = draw.standard_normal((count, D))
    X[np.arange(count), z] += shift
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


@pytest.mark.sensitive
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


@pytest.mark.sensitive
def test_a_report_is_made_of_its_parts_with_one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(classifiers.ITERATIONS, "mlp", 12)
    X, z = rows(1.0, classes=3, count=240)
    groups = np.random.default_rng(1).integers(20, size=240)
    found = pc.metrics.probe(X, z, lambda x: 0.5 * x + 1, groups=groups, rank=2, test_size=0.4, seed=7)
    train, test = pc.metrics.split(z, groups, test_size=0.4, seed=7)
    assert len(np.unique(groups[test])) == 8
    draw = np.random.default_rng(7)
    versions = {"before": X, "after": 0.5 * X + 1, "random": random_projection(X, X[train].mean(0), 2, draw)}
    tasks = {"concept": z, "control": control_labels(z, None, train, test, draw)}
    names, member, sizes = np.unique(groups[test], return_inverse=True, return_counts=True)
    gaps = {}
    for version, changed in versions.items():
        scaled = (changed - X[train].mean(0)) / X[train].std(0)
        for task, labels in tasks.items():
            on, off = (classifiers.ProbeRows(scaled[part], labels[part], groups[part]) for part in (train, test))
            for name in ("linear", "mlp"):
                fitted = classifiers.fit(name, on, off, 7)
                cell = found.data.sel(data=version, probe=name, task=task)
                assert float(cell["accuracy"]) == fitted.correct.mean() == fitted.accuracy
                assert float(cell["loss"]) == fitted.loss
                assert bool(cell["converged"]) == fitted.converged
                means = [fitted.correct[member == i].mean() for i in range(len(names))]
                assert (float(cell["low"]), float(cell["high"])) == pytest.approx(bootstrap(means, 7, sizes))
        for name, part in (("train", train), ("test", test)):
            means = np.array([changed[part][z[part] == c].mean(0) for c in range(3)])
            gaps[version, name] = np.sqrt(((means - means.mean(0)) ** 2).sum())
            left = gaps[version, name] / gaps["before", name]
            assert float(found.data["gap_left"].sel(data=version, rows=name)) == pytest.approx(left)
        damage = ((changed - X)[test] ** 2).sum() / ((X[test] - X[test].mean(0)) ** 2).sum()
        assert float(found.data["damage"].sel(data=version)) == pytest.approx(damage)
    chance = classifiers.guess(z[train], z[test])
    assert (float(found.data["chance_accuracy"]), float(found.data["chance_loss"])) == chance
    said = found.record["parameters"]
    assert {key: said[key] for key in ("rows", "test_rows", "d", "rank", "test_size", "seed", "grouped", "typed")} == {
        "rows": 240, "test_rows": len(test), "d": D, "rank": 2, "test_size": 0.4, "seed": 7, "grouped": True, "typed": False,
    }  # fmt: skip


def test_the_interval_of_single_rows_is_wilsons_and_the_summary_says_the_reports_numbers(
    erased: pc.metrics.ProbeReport,
) -> None:
    data = erased.data
    for cell in data[["accuracy", "low", "high"]].to_dataframe().to_dict("records"):
        interval = wilson(round(450 * cell["accuracy"]), 450)
        assert (cell["low"], cell["high"]) == pytest.approx(interval)
    lines = repr(erased).splitlines()
    assert lines[0].startswith("ProbeReport on 450 held-out rows of 1500: chance accuracy")
    summary = erased.summary().to_dict("records")
    assert [(row["data"], row["probe"]) for row in summary] == [
        (version, name) for version in ("before", "after", "random") for name in ("linear", "mlp")
    ]
    for row, line in zip(summary, lines[1:], strict=True):
        one = data.sel(data=row["data"], probe=row["probe"])
        own, other = one.sel(task="concept"), one.sel(task="control")
        assert all(row[part] == float(own[part]) for part in ("accuracy", "low", "high", "loss"))
        assert row["selectivity"] == pytest.approx(float(own["accuracy"]) - float(other["accuracy"]))
        assert row["gap_left"] == float(one["gap_left"].sel(rows="test"))
        assert row["damage"] == float(one["damage"])
        assert row["converged"] == bool(one["converged"].all())
        assert f"accuracy {row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}], loss {row['loss']:.3f}" in line
        assert (
            f"selectivity {row['selectivity']:+.3f}, gap left {row['gap_left']:.2g}, damage {row['damage']:.2g}" in line
        )
    frame = erased.frame()
    assert list(frame.columns) == ["data", "probe", "task", "accuracy", "low", "high", "loss", "converged"]
    assert frame["accuracy"].tolist() == data["accuracy"].values.ravel().tolist()
    half = data.copy(deep=True)
    half["converged"][:] = True
    half["converged"][0, 1, 1] = False
    unsure = pc.metrics.ProbeReport(half, erased.record)
    assert unsure.summary()["converged"].tolist() == [True, False, True, True, True, True], (
        "both tasks must have converged"
    )
    assert repr(unsure).count("not converged") == 1


def test_the_linear_probe_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    X, z = rows(1.0, classes=3, count=120)
    on, off = (classifiers.ProbeRows(X[part], z[part], None) for part in (slice(0, 80), slice(80, 120)))
    found = classifiers.fit("linear", on, off, 0)
    model = LogisticRegression(C=1.0, max_iter=2000).fit(on.X, on.z)
    assert np.array_equal(found.correct, model.predict(off.X) == off.z)
    assert found.loss == pytest.approx(log_loss(off.z, model.predict_proba(off.X)))
    part = on.z < 2
    half = classifiers.fit("linear", classifiers.ProbeRows(on.X[part], on.z[part], None), off, 0)
    assert half.loss == np.inf, "a class that was never seen"


@pytest.mark.sensitive
@pytest.mark.parametrize(("shift", "epochs"), [(0.4, 500), (6.0, 25), (0.4, 3)])
def test_the_mlp_is_the_epoch_of_64_units_that_did_best_on_a_tenth_of_the_groups(
    shift: float, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier

    X, z = rows(shift, count=90)
    groups = np.arange(90) // 3
    on, off = (classifiers.ProbeRows(X[part], z[part], groups[part]) for part in (slice(0, 60), slice(60, 90)))
    assert classifiers.ITERATIONS["mlp"] == 500
    if epochs < 500:
        monkeypatch.setitem(classifiers.ITERATIONS, "mlp", epochs)
    losses = set()
    for seed in (0, 1):
        held = np.isin(on.groups, np.random.default_rng(seed).permutation(20)[:2])
        model, best, shares = MLPClassifier((64,), random_state=seed), (np.inf, -1), None
        for epoch in range(epochs):
            model.partial_fit(on.X[~held], on.z[~held], classes=[0, 1])
            loss = log_loss(on.z[held], model.predict_proba(on.X[held]), labels=[0, 1])
            if loss < best[0]:
                best, shares = (loss, epoch), model.predict_proba(off.X)
            if epoch - best[1] == 15:
                break
        found = classifiers.fit("mlp", on, off, seed)
        assert np.array_equal(found.correct, shares.argmax(1) == off.z)
        assert found.loss == pytest.approx(log_loss(off.z, shares))
        assert found.converged == (epoch - best[1] == 15) == (shift < 1 and epochs > 3)
        losses.add(found.loss)
    assert len(losses) == 2, "another seed, another probe"


def test_a_guess_knows_the_training_rows_alone() -> None:
    accuracy, loss = classifiers.guess(np.array([0, 1, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 1, 1]))
    assert accuracy == 1 / 2
    assert loss == pytest.approx(-(np.log(1 / 6) + 3 * np.log(1 / 2) + 2 * np.log(1 / 3)) / 6)


def test_a_constant_feature_is_not_stretched() -> None:
    X = np.array([[1.0, 7.0, 1e6], [3.0, 7.0, 1e6 + 1e-8], [8.0, 7.0, 1e6]])
    mean, deviation = classifiers.scale_of(X)
    assert mean == pytest.approx([4.0, 7.0, 1e6])
    assert deviation == pytest.approx([np.sqrt((9 + 1 + 16) / 3), 1.0, 1.0])


def test_control_labels_say_nothing_of_the_rows_and_have_the_labels_frequencies() -> None:
    z = np.repeat([0, 1], [900, 100])
    train, test = np.arange(0, 1000, 2), np.arange(1, 1000, 2)
    one, other, again = (control_labels(z, None, train, test, np.random.default_rng(seed)) for seed in (0, 1, 1))
    assert not np.array_equal(one, other)
    assert np.array_equal(other, again)
    for side in (train, test):
        assert one[side].sum() == 50, "the same labels on each side"
        assert one[side][z[side] == 1].mean() < 0.3, "but in other rows"
    types = np.arange(1000) % 500
    typed, other = (control_labels(z, types, train, test, np.random.default_rng(seed)) for seed in (0, 1))
    assert np.array_equal(typed[:500], typed[500:]), "one label a type"
    assert not np.array_equal(typed, other)
    assert abs(typed[:500].sum() - 50) < 5 * np.sqrt(500 * 0.1 * 0.9), "five standard deviations of a binomial"
    with pytest.raises(pc.InputError, match="types are one a row: got 3 for 1000 rows"):
        control_labels(z, [1, 2, 3], train, test, np.random.default_rng(0))
    with pytest.raises(pc.InputError, match="needs more than 2 types"):
        control_labels(z, np.arange(1000) == 1, train, test, np.random.default_rng(2))
    rare, sides = np.repeat([0, 1], [95, 5]), (np.arange(0, 100, 2), np.arange(1, 100, 2))
    drawn = control_labels(rare, np.arange(100), *sides, np.random.default_rng(0))
    assert drawn[sides[0]].sum() == 2, "two training rows of a label are enough"
    with pytest.raises(pc.InputError, match="needs more than 100 types"):  # this seed draws one
        control_labels(rare, np.arange(100), *sides, np.random.default_rng(3))


@pytest.mark.sensitive
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


@pytest.mark.sensitive
def test_an_mlp_reads_what_a_line_cannot() -> None:
    draw = np.random.default_rng(0)
    X = draw.standard_normal((2400, 3))
    z = (X[:, 0] * X[:, 1] > 0).astype(int)
    on, off = (classifiers.ProbeRows(X[part], z[part], np.arange(1200)) for part in (slice(0, 1200), slice(1200, 2400)))
    assert classifiers.fit("linear", on, off, 0).accuracy < 0.58
    assert classifiers.fit("mlp", on, off, 0).accuracy > 0.85


@pytest.mark.sensitive
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


@settings(max_examples=examples(10, 50))
@given(st.integers(0, 10_000), st.integers(3, 30))
def test_groups_are_never_on_both_sides(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    groups = draw.integers(count, size=400)
    z = draw.integers(2, size=400)
    train, test = pc.metrics.split(z, groups, seed=seed)
    assert not set(groups[train]) & set(groups[test])
    assert sorted([*train, *test]) == list(range(400))


@pytest.mark.sensitive
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


def test_one_held_out_group_has_no_interval() -> None:
    X, z = rows(1.0, count=400)
    found = pc.metrics.probe(X, z, lambda x: x, groups=np.arange(400) // 100, probes=["linear"], test_size=1).data
    assert np.isnan(found["low"]).all()
    assert np.isnan(found["high"]).all()
    assert not np.isnan(found["accuracy"]).any()


def test_a_split_holds_out_the_share_that_is_asked_for_and_keeps_the_classes_shares() -> None:
    z = np.repeat([0, 1], [60, 40])
    for size, held in ((0.3, 30), (0.2, 20)):
        train, test = pc.metrics.split(z, test_size=size)
        assert (len(test), z[test].sum()) == (held, 0.4 * held)
        assert sorted([*train, *test]) == list(range(100))
        assert np.array_equal(train, np.sort(train))
    assert len(pc.metrics.split(z)[1]) == 30
    for groups in (None, np.arange(100) // 4 % 20):
        one, other, again = (pc.metrics.split(z, groups, seed=seed)[1] for seed in (0, 1, 1))
        assert not np.array_equal(one, other)
        assert np.array_equal(other, again)
    assert len(np.unique((np.arange(100) // 4 % 20)[one])) == 6
    few = np.repeat([0, 1], [90, 20])
    assert (few[pc.metrics.split(few, test_size=0.5)[0]] == 1).sum() == 10, "ten training rows are enough"
    with pytest.raises(pc.InputError, match="class 1 has 9 training rows; at least 10 are needed"):
        pc.metrics.split(np.repeat([0, 1], [90, 18]), test_size=0.5)
    three = np.arange(90) // 30
    train, test = pc.metrics.split(np.arange(90) % 2, three)
    assert (len(train), len(test)) == (60, 30), "three groups are enough"
    with pytest.raises(pc.InputError, match="class 0 has 0 held-out rows; at least 1 are needed"):
        pc.metrics.split(np.repeat([0, 1], [10, 80]), np.repeat([0, *range(1, 9)], 10), seed=0)


def test_the_same_seed_gives_the_same_report_and_tensors_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(classifiers.ITERATIONS, "mlp", 5)
    X, z = rows(1.0, count=100)
    one, other = (pc.metrics.probe(data, z, lambda x: 0.5 * x, seed=4) for data in (X, torch.from_numpy(X)))
    assert one == other
    assert one != pc.metrics.probe(X, z, lambda x: 0.5 * x, seed=5)


def test_the_random_control_has_the_rank_of_the_erasure() -> None:
    X, _ = rows(1.0)
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.standard_normal((D, 3)))[0]
    after = X - (X - 5.0) @ basis @ basis.T
    assert rank_of(after - X) == 3
    assert rank_of(0 * X) == 1
    for small, rank in ((1e-4, 2), (1e-6, 1)):  # their squares are compared with 1e-10
        assert rank_of(X[:, :2] * [1.0, small]) == rank
    assert rank_of(X[:, :2] * [1.0, 1e-4], [0.0, 1e-3]) == 1, "what is no larger than rounding counts for nothing"
    about = X.mean(0) + 3
    control = random_projection(X, about, 3, draw)
    assert np.linalg.matrix_rank(control - about, tol=1e-8) == D - 3
    assert np.allclose(random_projection(about[None], about, 3, draw), about), "the point stays where it is"
    drawn = [random_projection(X, about, 3, np.random.default_rng(seed)) for seed in (0, 1, 1)]
    assert not np.allclose(drawn[0], drawn[1])
    assert np.array_equal(drawn[1], drawn[2])
    assert np.allclose(random_projection(X, about, D, draw), about), "of full rank nothing is left"
    changed = (np.abs(drawn[0] - X).max(0) > 1e-6).sum()
    assert changed == D, "directions are not those of features"
    assert rounding_of(X.astype(np.float32), X) == pytest.approx(2.0**-23 * np.abs(X).max(0))
    assert rounding_of(X.astype(int), X) == pytest.approx(2.0**-52 * np.abs(X).max(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_is_no_rank(dtype: torch.dtype) -> None:
    X, z = rows(1.0)
    X[:, 0] *= 1e5  # a massive activation, which the erasure only rounds
    unit = np.eye(D)[[2]]

    def erased(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x - (x - 5.0) @ unit.T @ unit).to(dtype)

    assert pc.metrics.probe(X, z, erased, probes=["linear"]).record["parameters"]["rank"] == 1


def test_unfinished_training_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    X, z = rows(1.0, count=200)
    assert bool(pc.metrics.probe(X, z, lambda x: x, probes=["linear"]).data["converged"].all())
    monkeypatch.setitem(classifiers.ITERATIONS, "linear", 1)
    found = pc.metrics.probe(X, z, lambda x: x, probes=["linear"])
    assert not bool(found.data["converged"].any())
    assert repr(found).count(", not converged") == 3
    assert not found.summary()["converged"].any()


@pytest.mark.parametrize(("change", "said"), [
    ({"z": [0, 1]}, "one a row: got 2"), ({"z": np.zeros(N)}, "at least 2 classes"), ({"z": [0] * (N - 1) + [1]}, "class 1 has 1 row"),
    ({"z": [0] * (N - 8) + [1] * 8}, "training rows; at least 10"), ({"X": np.full((N, D), np.nan)}, "must be finite"),
    ({"X": np.zeros(N)}, r"rows of features"), ({"transform": lambda x: x[:, 1:]}, "must keep the shape"),
    ({"rank": 99}, "outside 1..12"), ({"rank": 0}, "outside 1..12"), ({"probes": ["liner"]}, "did you mean 'linear'"), ({"groups": [1, 2]}, "groups are one a row"),
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


def test_rows_that_are_all_equal_and_erasures_without_an_argument_are_refused() -> None:
    rows, labels = np.random.default_rng(0).normal(size=(40, 3)), [0, 1] * 20
    with pytest.raises(pc.InputError, match="all rows of X are equal"):
        pc.metrics.probe(np.ones((40, 3)), labels, lambda x: x, probes=["linear"])
    with pytest.raises(pc.InputError, match="does not take one argument"):
        pc.metrics.probe(rows, labels, lambda: rows, probes=["linear"])
