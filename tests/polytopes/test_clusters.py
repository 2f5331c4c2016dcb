"""Clusters: scores against known ones, matched numbers and coverage really equal, controls at chance, cards that say what is there."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.polytopes import cluster, partitions
from patchclamp.polytopes.clusters import DRAWS, Clusters, _score
from patchclamp.polytopes.partitions import _number, match, partition, reduce
from patchclamp.polytopes.purity import scores
from tests import tiny
from tests.effort import examples


def blobs(rows: int = 240, kinds: int = 6, apart: float = 4.0, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Pre-activations of some classes, and the classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % kinds
    centres = torch.randn(kinds, 20, generator=draw) * apart
    return centres[labels] + torch.randn(rows, 20, generator=draw), labels.numpy()


def clustered(**options: object) -> Clusters:
    z, labels = blobs()
    return cluster(z, torch.nn.functional.silu(z), labels, **{"name": "silu", "k": 6, "pca": None, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def every() -> Clusters:
    """Blobs by all algorithms, with examples."""
    return clustered(examples=[f"row {i} of class {c}" for i, c in enumerate(blobs()[1])])


@settings(max_examples=examples(20, 60))
@given(st.data())
def test_matching_gives_equal_numbers_of_clusters_and_rows(data: st.DataObject) -> None:
    rows = data.draw(st.integers(4, 40))
    found = {}
    for form in range(data.draw(st.integers(1, 4))):
        raw = np.array(data.draw(st.lists(st.integers(-1, 5), min_size=rows, max_size=rows)))
        strength = np.array(data.draw(st.lists(st.floats(0, 1), min_size=rows, max_size=rows)))
        points = np.random.default_rng(form).normal(size=(rows, 2))
        found[str(form)] = _number(points, raw, np.unique(raw[raw >= 0]), strength)
    made = match(found, found)
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
    three = _number(points, np.array([0, 0, 1, 1, 2, 2]), np.arange(3), np.array([1.0, 0.1, 1, 0.9, 1, 0.8]))
    two = _number(points, np.array([0, 0, 0, -1, 1, 1]), np.arange(2), np.ones(6))
    made = match({"three": three, "two": two}, ["three", "two"])
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


@pytest.mark.parametrize("apart", [0.0, 4.0])
def test_merging_is_wards(apart: float) -> None:
    z, _ = blobs(120, apart=apart)
    points = z.numpy()
    many, few = (partition(points, "ward", k, 1, 0) for k in (30, 5))
    made = match({"many": many, "few": few}, ["few"])
    assert adjusted_mutual_info_score(made["many"].cluster, few.cluster) == pytest.approx(1.0)


def test_merging_weighs_clusters_by_their_size() -> None:
    """Nine at 0, nine at 1 and one at 3: the union with the single one adds 3.6, that of the two large ones 4.5."""
    points = np.array([0.0] * 9 + [1.0] * 9 + [3.0])[:, None]
    raw = np.array([0] * 9 + [1] * 9 + [2])
    three = _number(points, raw, np.arange(3), None)
    two = _number(points, np.minimum(raw, 1), np.arange(2), None)
    made = match({"three": three, "two": two}, ["two"])["three"]
    assert made.cluster.tolist() == [0] * 9 + [1] * 10
    assert made.distance[-1] == pytest.approx(3 - 1.2), "from the mean of nine at 1 and one at 3"
    assert made.distance[9] == pytest.approx(0.2)


def test_a_partition_by_hand() -> None:
    points = np.array([[0.0], [2.0], [10.0], [10.0], [13.0], [50.0]])
    found = partition(points, "ward", 3, 2, 0)
    assert found.cluster[-1] == -1
    assert len(set(found.cluster[:2])) == len(set(found.cluster[2:5])) == 1
    assert found.distance[:5].tolist() == pytest.approx([1, 1, 1, 1, 2])
    assert np.array_equal(found.strength, -found.distance, equal_nan=True), "the nearer to the centre, the surer"
    assert found.count == 2


def test_hdbscan_is_scikit_learns_with_the_smallest_size_asked_for() -> None:
    from sklearn.cluster import HDBSCAN

    points = np.random.default_rng(0).normal(size=(80, 2))
    theirs = HDBSCAN(min_cluster_size=9, min_samples=2).fit(points)
    mine = partition(points, "hdbscan", 99, 9, 0)
    assert ((mine.cluster >= 0) == (theirs.labels_ >= 0)).all()
    assert adjusted_mutual_info_score(mine.cluster, theirs.labels_) == pytest.approx(1)
    np.testing.assert_array_equal(mine.strength, theirs.probabilities_)
    assert 0 < (mine.cluster >= 0).mean() < 1


def test_principal_components_are_those_of_the_centred_rows() -> None:
    values = np.random.default_rng(0).normal(size=(30, 6)) * np.arange(1, 7)
    u, s, _ = np.linalg.svd(values - values.mean(0))
    np.testing.assert_allclose(np.abs(reduce(values, 3, 0)), np.abs(u[:, :3] * s[:3]), atol=1e-9)
    for components in (None, 6, 50):
        assert reduce(values, components, 0) is values
    assert reduce(values[:4], 5, 0).shape == (4, 6), "there are no more components than rows"


def test_what_is_scored_by_hand() -> None:
    """Two forms of eight rows in groups of two: scores before and after matching, and intervals from halves of the groups."""
    labels, groups = np.array([0, 0, 0, 1, 1, 1, 2, 2]), np.arange(8) // 2
    points = np.arange(8.0)[:, None]
    three = _number(points, np.array([0, 0, 0, 1, 1, 1, 2, 2]), np.arange(3), None)
    two = _number(points, np.array([0, 0, 0, 0, 1, 1, 1, -1]), np.arange(2), None)
    found = {"ward": {"hard code": three, "activation": two}}
    made, again, other = (Clusters(_score(found, {"label": labels}, groups, seed), {}, {}) for seed in (0, 0, 1))
    data = made.data.sel(algorithm="ward", labels="label")
    assert data["found"].values.tolist() == [3, 2]
    assert data["covered"].values.tolist() == [1, 7 / 8]
    assert data["count"].values.tolist() == [2, 2]
    assert data["coverage"].values.tolist() == [7 / 8, 7 / 8]
    assert made.matched("ward") == (2, 7 / 8)
    for form, raw in (("hard code", three), ("activation", two)):
        own = data.sel(form=form)
        assert own["unmatched"].values.tolist() == list(scores(raw.cluster, labels))
        assert own["value"].values.tolist() == list(scores(own["cluster"].values, labels))
        half = own["half"].values
        assert half.shape == (3, DRAWS)
        spread = 1.96 * np.sqrt(((half - half.mean(1, keepdims=True)) ** 2).sum(1) / (DRAWS - 1))
        assert (spread > 0).all()
        np.testing.assert_allclose(own["low"], own["value"] - spread)
        np.testing.assert_allclose(own["high"], own["value"] + spread)
        possible = {
            scores(np.where(np.isin(groups, pair), own["cluster"].values, -1), labels)
            for pair in permutations(range(4), 2)
        }
        assert {tuple(row) for row in half.T.tolist()} <= possible, "halves are of whole groups"
    (row,) = made.differences("hard code").query("score == 'purity'").to_dict("records")
    apart = data["half"].sel(form="activation", score="purity") - data["half"].sel(form="hard code", score="purity")
    value = data["value"].sel(score="purity")
    assert row["value"] == pytest.approx(float(value.sel(form="activation") - value.sel(form="hard code")))
    assert (row["form"], row["high"] - row["value"]) == (
        "activation",
        pytest.approx(1.96 * np.std(apart.values, ddof=1)),
    )
    assert row["value"] - row["low"] == pytest.approx(row["high"] - row["value"])
    table = made.frame().set_index(["form", "score"])
    assert len(table) == 6
    row = table.loc[("activation", "purity")]
    assert row["value"] == float(value.sel(form="activation"))
    assert (row["found"], row["covered"], row["count"], row["coverage"]) == (2, 7 / 8, 2, 7 / 8)
    assert made.dataset.equals(again.dataset)
    assert not made.dataset["half"].equals(other.dataset["half"])
    assert not made.dataset["shuffled"].equals(other.dataset["shuffled"])


def test_shuffled_labels_keep_their_numbers_and_lose_their_places() -> None:
    """A tenth of the rows has the second label: however they are shuffled, both clusters have mostly the first."""
    labels = np.repeat([0, 1], [900, 100])
    found = _number(np.zeros((1000, 1)), np.arange(1000) // 500, np.arange(2), None)
    data = _score({"ward": {"activation": found}}, {"label": labels}, np.arange(1000), 0)
    data = data.isel(labels=0, algorithm=0, form=0)
    assert float(data["shuffled"].sel(score="purity")) == pytest.approx(0.9)
    assert abs(float(data["shuffled"].sel(score="ami"))) < 0.02
    assert float(data["value"].sel(score="ami")) > 0.1


@pytest.mark.sensitive
@pytest.mark.parametrize("algorithm", ["k-means", "ward", "hdbscan"])
def test_separate_classes_are_found_in_every_form(algorithm: str, every: Clusters) -> None:
    found = every
    for form in found.forms:
        value = found.data["value"].sel(algorithm=algorithm, form=form, labels="label")
        assert float(value.sel(score="purity")) > 0.95, form
        assert float(value.sel(score="ami")) > 0.9, form
    chance = found.data["shuffled"].sel(algorithm=algorithm)
    assert float(chance.sel(score="purity").max()) < 0.35
    assert float(abs(chance.sel(score="ami")).max()) < 0.05


@pytest.mark.sensitive
def test_noise_is_not_clustered_by_label() -> None:
    z = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    found = cluster(z, z.relu(), np.arange(200) % 5, k=5, algorithms=["k-means", "ward"])
    assert float(abs(found.data["value"].sel(score="ami")).max()) < 0.06
    apart = found.differences("pre-activation").query("score == 'ami'")
    assert ((apart["low"] < 0) & (apart["high"] > 0)).all()


def test_forms_are_side_by_side_at_equal_count_and_coverage() -> None:
    z, labels = blobs(apart=1.2)
    found = cluster(
        z,
        torch.nn.functional.silu(z),
        labels,
        name="silu",
        others={"noise": torch.randn(240, 9, generator=torch.Generator().manual_seed(2))},
        k=12,
    )
    assert found.forms == ("hard code", "soft code", "pre-activation", "activation", "unit norm", "noise")
    for algorithm in found.algorithms:
        own = found.data["cluster"].sel(algorithm=algorithm, form=list(found.forms[:5])).values
        assert len({int((row >= 0).sum()) for row in own if (row >= 0).any()}) == 1
        assert len({len(np.unique(row[row >= 0])) for row in own if (row >= 0).any()}) == 1
        row = next(row for row in own if (row >= 0).any())
        assert found.matched(algorithm) == (len(np.unique(row[row >= 0])), (row >= 0).mean())
    assert "soft code" not in cluster(z, z.relu(), labels, k=6, algorithms=["ward"]).forms, "a ReLU's code is hard"


@pytest.mark.sensitive
def test_scale_is_what_unit_norm_and_codes_forget() -> None:
    z, labels = blobs(apart=2.0)
    scale = torch.logspace(-1.5, 1.5, 240)[torch.randperm(240, generator=torch.Generator().manual_seed(0))][:, None]
    found = cluster(z * scale, (z * scale).relu(), labels, k=6, least=1, algorithms=["ward"], pca=None)
    value = found.data["value"].sel(algorithm="ward", labels="label", score="purity")
    assert float(value.sel(form="hard code")) > 0.9
    assert float(value.sel(form="unit norm")) > 0.9
    assert float(value.sel(form="activation")) < 0.7


@pytest.mark.sensitive
def test_many_rows_go_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    z, labels = blobs()
    monkeypatch.setattr(partitions, "MANY", 100)
    monkeypatch.setattr(partitions, "CENTRES", 40)
    from sklearn.cluster import MiniBatchKMeans

    assert isinstance(partitions._kmeans(z.numpy(), 6, 0), MiniBatchKMeans)
    for algorithm in ("k-means", "ward"):
        assert scores(partition(z.numpy(), algorithm, 6, 1, 0).cluster, labels)[0] > 0.95  # type: ignore[arg-type]


@pytest.mark.sensitive
def test_the_same_seed_gives_the_same_clusters() -> None:
    """Of noise, in which k-means ends elsewhere from every start."""
    z = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        cluster(z, z.relu(), np.arange(120) % 5, k=12, algorithms=["k-means"], seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert not first.dataset["cluster"].equals(other.dataset["cluster"])


def test_options_of_clustering_reach_it() -> None:
    """Two labels beside a long coordinate that says nothing of them: what is told apart hangs on k, components and size."""
    draw = np.random.default_rng(0)
    label, side = np.arange(40) % 2, np.arange(40) // 20
    z = torch.tensor(np.stack([60.0 * side - 30, 8.0 * label - 4], 1) + draw.normal(0, 0.01, (40, 2))).float()
    how = {"algorithms": ["ward"], "least": 1}

    def purity(**options: object) -> float:
        found = cluster(z, z, label, **{**how, **options})  # type: ignore[arg-type]
        return float(found.data["value"].sel(form="pre-activation", score="purity")[0, 0])

    assert purity(k=4) == 1
    assert purity(k=4, pca=1) < 0.9, "along the first component alone"
    assert purity(k=2) == 0.5
    assert purity() == 0.5, "as many as there are labels"
    assert cluster(z, z, np.arange(40) % 7, **how).record["parameters"]["k"] == 4, "a tenth of the rows at most"  # type: ignore[arg-type]
    several = (
        cluster(z, z, label, k=9, algorithms=["ward"], least=1),
        cluster(z, z, label, k=9, algorithms=["ward"], least=8),
    )
    assert int(several[0].data["found"].max()) > int(several[1].data["found"].max())
    alone, grouped = (cluster(z, z, label, k=2, groups=groups, algorithms=["ward"]) for groups in (None, side))
    assert not alone.dataset["half"].equals(grouped.dataset["half"])


def test_forms_by_hand() -> None:
    from patchclamp.polytopes.clusters import _forms

    z = torch.tensor([[3.0, -4.0], [0.0, 2.0]])
    act = torch.tensor([[3.0, -4.0], [0.0, 5.0]])
    found = _forms(z, act, "silu", {"more": z + 1})
    assert list(found) == ["hard code", "soft code", "pre-activation", "activation", "unit norm", "more"]
    assert found["hard code"].tolist() == [[1, 0], [0, 1]]
    np.testing.assert_allclose(found["soft code"], torch.sigmoid(z))
    np.testing.assert_allclose(found["unit norm"], [[0.6, -0.8], [0, 1]])
    assert found["activation"].tolist() == act.tolist()
    assert found["more"].tolist() == (z + 1).tolist()


def test_clusters_of_a_language_models_layer_are_those_of_what_goes_through_its_gates(llama: pc.Model) -> None:
    prompts = tiny.ids(5, 5)
    how = {"algorithms": ["ward"], "k": 3, "least": 1}
    labels = {"parity": [0, 1, 0, 1, 0]}
    found = llama.cluster(prompts, 1, labels=labels, **how)
    acts = llama.record(prompts, ["mlp_pre.1", "mlp_act.1"], at="rest")
    z, out = (acts[site].flatten(0, 1).float() for site in ("mlp_pre.1", "mlp_act.1"))
    assert len(z) == 20, "all tokens but the first"
    rows = {"parity": np.repeat(labels["parity"], 4)}
    wanted = cluster(z, out, rows, name="silu", groups=np.repeat(np.arange(5), 4), **how)  # type: ignore[arg-type]
    assert set(found.label_names) == {"parity", "token"}
    own = found.dataset.sel(labels=["parity"])
    np.testing.assert_array_equal(own["cluster"], wanted.dataset["cluster"])
    np.testing.assert_array_equal(own["half"], wanted.dataset["half"])
    assert found.record["parameters"]["digest"] == wanted.record["parameters"]["digest"]
    last = llama.cluster(prompts, "1", labels=labels, at="last", name="gelu", **{**how, "k": 2})
    assert last.dataset.sizes["row"] == 5
    assert last.record["parameters"]["activation"] == "gelu"
    for layer in (3, "x"):
        with pytest.raises(pc.InputError, match="is no layer; the model has the layers 0 to 2"):
            llama.cluster(prompts, layer)


def test_clusters_of_a_networks_gate_are_those_of_what_goes_through_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    x, labels, how = torch.randn(40, 4), [0, 1] * 20, {"algorithms": ["ward"], "k": 4}
    found = pc.wrap(net).cluster(x, "1", labels=labels, **how)
    with torch.no_grad():
        z = net[0](x)
        wanted = cluster(z, net[1](z), labels, name="gelu", **how)  # type: ignore[arg-type]
    assert found == wanted
    hard = pc.wrap(net).cluster(x, "1", labels=labels, name=None, **how)
    assert "soft code" not in hard.forms
    with pytest.raises(pc.InputError, match="unknown layer '2'"):
        pc.wrap(net).cluster(x, "2", labels=labels)


def test_cards_by_hand() -> None:
    """Clusters of five, three and two rows of a line."""
    points = np.array([0.0, 1, 2, 3, 9, 20, 21, 25, 40, 41])[:, None]
    raw = np.array([2] * 5 + [0] * 3 + [1] * 2)
    found = {"ward": {"activation": _number(points, raw, np.arange(3), None)}}
    marks = np.array(["a", "b", "b", "c", "c", "d", "d", "d", "e", "d"], dtype=object)
    made = Clusters(_score(found, {"kind": marks, "other": np.arange(10)}, np.arange(10), 0), {}, {})
    cards = made.cards("ward", "activation", examples=2)
    assert cards["size"].tolist() == [5, 3, 2]
    assert cards["purity"].tolist() == [0.4, 1, 0.5]
    assert cards["labels"].tolist() == ["b (2), c (2), a (1)", "d (3)", "d (1), e (1)"]
    assert cards["rows"].tolist() == [[3, 2], [6, 5], [8, 9]], "nearest the means 3, 22 and 40.5"
    assert cards["examples"][0] == ["c", "b"], "labels where there are no texts"
    assert len(made.cards("ward", "activation", most=1)) == 1
    assert made.cards("ward", "activation", "other")["purity"][1] == pytest.approx(1 / 3)
    with pytest.raises(pc.InputError, match="unknown labels 'kinds'; did you mean 'kind'"):
        made.cards("ward", "activation", "kinds")


def test_cards_show_what_is_nearest_the_centre(every: Clusters) -> None:
    z, labels = blobs()
    found = every
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
        ({"algorithms": ["kmeans"]}, "unknown name 'kmeans'; did you mean 'k-means'"),
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
