"""Clusters: scores against known ones, matched numbers and coverage really equal, controls at chance, cards that say what is there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.polytopes import cluster, partitions
from patchclamp.polytopes.clusters import Clusters
from patchclamp.polytopes.partitions import _placed, matched, partition
from patchclamp.polytopes.purity import expected, halves, scores

marks = st.lists(st.integers(0, 5), min_size=2, max_size=40)


def blobs(rows: int = 240, kinds: int = 6, apart: float = 4.0, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Pre-activations of some classes, and the classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % kinds
    centres = torch.randn(kinds, 20, generator=draw) * apart
    return centres[labels] + torch.randn(rows, 20, generator=draw), labels.numpy()


def clustered(**options: object) -> Clusters:
    z, labels = blobs()
    return cluster(z, torch.nn.functional.silu(z), labels, **{"name": "silu", "k": 6, "pca": None, **options})  # type: ignore[arg-type]


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


@settings(max_examples=12)
@given(own=marks)
def test_the_expected_mutual_information_is_the_mean_over_shuffles(own: list[int]) -> None:
    draw, cluster_of = np.random.default_rng(0), np.array(own)
    labels = draw.integers(3, size=len(own))
    sizes = [np.unique(values, return_counts=True)[1] for values in (cluster_of, labels)]
    shuffled = [mutual_info_score(draw.permutation(labels), cluster_of) for _ in range(200)]
    assert expected(*sizes) == pytest.approx(np.mean(shuffled), abs=5 * np.std(shuffled) / 200**0.5 + 1e-9)


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


def test_half_samples_vary_as_samples_do() -> None:
    """Of a partition that is right with probability .8: the spread of halves is that of the score over fresh samples."""
    draw = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        labels = draw.integers(4, size=400)
        return np.where(draw.random(400) < 0.8, labels, (labels + 1) % 4), labels

    fresh = np.std([scores(*sample())[0] for _ in range(200)])
    own, labels = sample()
    seen = np.std(halves(own, labels, np.arange(400), 200, draw)[:, 0])
    assert 0.75 < seen / fresh < 1.33
    together = np.std(halves(own, labels, np.arange(400) // 200, 50, draw)[:, 0])
    assert together < 2 * seen, "two groups: only two halves are possible"


@settings(max_examples=60)
@given(st.data())
def test_matching_gives_equal_numbers_of_clusters_and_rows(data: st.DataObject) -> None:
    rows = data.draw(st.integers(4, 40))
    found = {}
    for form in range(data.draw(st.integers(1, 4))):
        raw = np.array(data.draw(st.lists(st.integers(-1, 5), min_size=rows, max_size=rows)))
        strength = np.array(data.draw(st.lists(st.floats(0, 1), min_size=rows, max_size=rows)))
        points = np.random.default_rng(form).normal(size=(rows, 2))
        found[str(form)] = _placed(points, raw, np.unique(raw[raw >= 0]), strength)
    made = matched(found, found)
    some = [made[form] for form in found if found[form].count]
    assert len({len(np.unique(one.cluster[one.cluster >= 0])) for one in some}) <= 1
    assert len({int((one.cluster >= 0).sum()) for one in some}) <= 1
    for form, one in made.items():
        before, inside = found[form].cluster, one.cluster >= 0
        assert (before[inside] >= 0).all()
        pairs = set(zip(before[inside].tolist(), one.cluster[inside].tolist(), strict=True))
        assert len(pairs) == len({old for old, _ in pairs}), "clusters are merged, never split"
        assert np.isnan(one.distance[~inside]).all()


def test_matching_merges_the_nearest_and_keeps_the_surest() -> None:
    points = np.array([[0.0], [0.2], [1.0], [1.2], [9.0], [9.2]])
    three = _placed(points, np.array([0, 0, 1, 1, 2, 2]), np.arange(3), np.array([1.0, 0.1, 1, 0.9, 1, 0.8]))
    two = _placed(points, np.array([0, 0, 0, -1, 1, 1]), np.arange(2), np.ones(6))
    made = matched({"three": three, "two": two}, ["three", "two"])
    assert made["three"].cluster.tolist() == [0, -1, 0, 0, 1, 1]
    assert made["two"].cluster.tolist() == two.cluster.tolist()


def test_a_control_with_fewer_clusters_keeps_them_and_decides_nothing() -> None:
    z, labels = blobs()
    lumps = torch.randn(240, 2, generator=torch.Generator().manual_seed(1)) + 50.0 * (torch.arange(240) % 2)[:, None]
    options = {"k": 6, "pca": None, "least": 20, "algorithms": ["hdbscan"]}
    alone = cluster(z, z.relu(), labels, **options)
    beside = cluster(z, z.relu(), labels, others={"lumps": lumps}, **options)
    assert int(beside.data["count"].sel(algorithm="hdbscan", form="lumps")) < beside.matched("hdbscan")[0]
    assert not beside.is_matched("hdbscan", "lumps")
    assert "; only 2 clusters of" in repr(beside)
    for name in ("value", "cluster", "count", "coverage"):
        assert beside.data[name].sel(form=list(alone.forms)).equals(alone.data[name]), name


def test_merging_is_wards() -> None:
    z, _ = blobs(120)
    points = z.numpy()
    many, few = (partition(points, "ward", k, 1, 0) for k in (20, 7))
    made = matched({"many": many, "few": few}, ["few"])
    assert adjusted_mutual_info_score(made["many"].cluster, few.cluster) == pytest.approx(1.0)


@pytest.mark.parametrize("algorithm", ["k-means", "ward", "hdbscan"])
def test_separate_classes_are_found_in_every_form(algorithm: str) -> None:
    found = clustered(algorithms=[algorithm])
    for form in found.forms:
        value = found.data["value"].sel(algorithm=algorithm, form=form, labels="label")
        assert float(value.sel(score="purity")) > 0.95, form
        assert float(value.sel(score="ami")) > 0.9, form
    chance = found.data["shuffled"]
    assert float(chance.sel(score="purity").max()) < 0.35
    assert float(abs(chance.sel(score="ami")).max()) < 0.05


def test_noise_is_not_clustered_by_label() -> None:
    z = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    found = cluster(z, z.relu(), np.arange(200) % 5, k=5, algorithms=["k-means", "ward"])
    assert float(abs(found.data["value"].sel(score="ami")).max()) < 0.06
    apart = found.differences("pre-activation").query("score == 'ami'")
    assert ((apart["low"] < 0) & (apart["high"] > 0)).all()


def test_forms_are_side_by_side_at_equal_count_and_coverage() -> None:
    z, labels = blobs(apart=1.2)
    found = cluster(z, torch.nn.functional.silu(z), labels, name="silu", others={"noise": torch.randn(240, 9)}, k=12)
    assert found.forms == ("hard code", "soft code", "pre-activation", "activation", "unit norm", "noise")
    for algorithm in found.algorithms:
        own = found.data["cluster"].sel(algorithm=algorithm, form=list(found.forms[:5])).values
        assert len({int((row >= 0).sum()) for row in own if (row >= 0).any()}) == 1
        assert len({len(np.unique(row[row >= 0])) for row in own if (row >= 0).any()}) == 1
        row = next(row for row in own if (row >= 0).any())
        assert found.matched(algorithm) == (len(np.unique(row[row >= 0])), (row >= 0).mean())
    assert "soft code" not in cluster(z, z.relu(), labels, k=6, algorithms=["ward"]).forms, "a ReLU's code is hard"


def test_scale_is_what_unit_norm_and_codes_forget() -> None:
    z, labels = blobs(apart=2.0)
    scale = torch.logspace(-1.5, 1.5, 240)[torch.randperm(240, generator=torch.Generator().manual_seed(0))][:, None]
    found = cluster(z * scale, (z * scale).relu(), labels, k=6, least=1, algorithms=["ward"], pca=None)
    value = found.data["value"].sel(algorithm="ward", labels="label", score="purity")
    assert float(value.sel(form="hard code")) > 0.9
    assert float(value.sel(form="unit norm")) > 0.9
    assert float(value.sel(form="activation")) < 0.7


def test_many_rows_go_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    z, labels = blobs()
    monkeypatch.setattr(partitions, "MANY", 100)
    monkeypatch.setattr(partitions, "CENTRES", 40)
    for algorithm in ("k-means", "ward"):
        assert scores(partition(z.numpy(), algorithm, 6, 1, 0).cluster, labels)[0] > 0.95  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_clusters() -> None:
    assert clustered() == clustered()
    assert clustered(seed=1) != clustered()


def test_cards_show_what_is_nearest_the_centre() -> None:
    z, labels = blobs()
    found = clustered(examples=[f"row {i} of class {c}" for i, c in enumerate(labels)])
    cards = found.cards("k-means", "pre-activation", most=4, examples=3)
    assert len(cards) == 4
    assert cards["size"].is_monotonic_decreasing
    own = found.data["cluster"].sel(algorithm="k-means", form="pre-activation").values
    for card in cards.itertuples():
        members = np.flatnonzero(own == card.cluster)
        away = np.linalg.norm(z.numpy()[members] - z.numpy()[members].mean(0), axis=1)
        assert card.rows == members[np.argsort(away, kind="stable")[:3]].tolist()
        assert card.examples == [f"row {i} of class {labels[i]}" for i in card.rows]
        assert card.labels == f"{labels[members[0]]} ({card.size})"


def test_small_clusters_do_not_count() -> None:
    points = np.concatenate([np.zeros((5, 2)), np.full((3, 2), 9.0)]) + np.random.default_rng(0).normal(0, 0.01, (8, 2))
    assert partition(points, "ward", 2, 4, 0).cluster.tolist() == [0] * 5 + [-1] * 3
    assert partition(points, "ward", 2, 3, 0).count == 2


def test_saving_gives_an_equal_object_back(tmp_path: Path) -> None:
    z, labels = blobs()
    found = cluster(z, z.relu(), {"class": labels, "parity": labels % 2}, k=6, algorithms=["ward"], groups=labels)
    found.save(tmp_path)
    assert pc.open(tmp_path) == found
    found.figure(view="cards", form="unit norm", pictures=torch.rand(240, 4, 4))
    with pytest.raises(pc.InputError, match="unknown view 'card'"):
        found.figure(view="card")


def test_bad_input_is_refused() -> None:
    z, labels = blobs(40)
    for options, said in (
        ({"labels": labels[:9]}, "one label for each of 40 rows"),
        ({"labels": None}, "scored against labels"),
        ({"k": 1}, "k = 1 clusters of 40 rows"),
        ({"algorithms": ["kmeans"]}, "unknown algorithm 'kmeans'; did you mean 'k-means'"),
        ({"examples": ["a"]}, "examples are one a row"),
        ({"groups": [1]}, "groups are one a row"),
        ({"others": {"activation": z}}, "is a form of its own"),
        ({"others": {"more": z[:3]}}, "'more' must be"),
        ({"activations": z[:, :3]}, "must have one shape"),
        ({"activations": z * torch.nan}, "NaN or infinite"),
        ({"name": "softplus"}, "'softplus' has no soft code"),
        ({"labels": {"form": labels}}, "cannot be called 'form'"),
    ):
        given = {"preactivations": z, "activations": z.relu(), "labels": labels, **options}
        with pytest.raises(pc.InputError, match=said):
            cluster(**given)  # type: ignore[arg-type]
    found = cluster(z, z.relu(), labels, k=4, algorithms=["ward"])
    with pytest.raises(pc.InputError, match="unknown form 'soft code'"):
        found.differences("soft code")
    with pytest.raises(pc.InputError, match="unknown algorithm 'hdbscan'"):
        found.cards("hdbscan", "activation")


@pytest.mark.parametrize("gate", [nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.ReLU, lambda: nn.GELU("tanh")])
def test_layers_of_every_gate_have_clusters_and_smooth_ones_a_soft_code(gate: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = pc.wrap(nn.Sequential(nn.Linear(4, 8), gate(), nn.Linear(8, 2)))
    found = model.cluster(torch.randn(40, 4), "1", labels=[0, 1] * 20, algorithms=["k-means"])
    assert ("soft code" in found.forms) == isinstance(gate(), nn.GELU)
