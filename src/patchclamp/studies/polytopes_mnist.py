"""The polytope lens on digits: its three predictions, each with what speaks for it, what speaks against it, and a control.

Black, Sharkey et al. (2022, arXiv 2211.12312) predict that groups of regions have one meaning each, that boundaries of meaning lie
on boundaries of polytopes, and that a direction means what it means only within a range of sizes. Sharkey adds two guesses when
asked: that adversarial perturbations cross many boundaries, and that there is a shell that many boundaries pass through.

Here everything is exact and on small networks: clusters of codes beside activations at the same number of clusters; crossings
between images of the same class and of different ones, beside plain distances, from the input and from hidden layers, also in
untrained networks; scaled activations beside moves as long elsewhere; adversarial paths beside other kinds of paths; rays;
distances to the nearest boundary; and how far the maps of neighbouring regions are apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.core.errors import InputError
from patchclamp.core.progress import task
from patchclamp.studies import digits
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, records

FRAMES = ("clusters", "pairs", "scaling", "paths", "rays", "distances", "maps")
TRAINED, UNTRAINED = "trained", "untrained"
CONTROL_SEED = 10_000
"""Added to the seed of an untrained network, whose weights are other draws than the trained one began with."""
FACTORS = tuple(2.0**power for power in range(-6, 7, 2))
EPS, BOX = 0.15, (0.0, 1.0)
DRAWS = 1000
"""Resamples of pairs for the interval of an area."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured for each network."""

    rows: int = 2000
    """Test images that are clustered."""
    pairs: int = 300
    """Pairs of images of the same class, and as many of different classes."""
    scaled: int = 1000
    """Test images that the scaled network sees."""
    attacked: int = 100
    """Test images from which paths begin."""
    rays: int = 40
    """Test images through which rays go."""
    near: int = 100
    """Test images whose nearest boundary is measured."""
    lines: int = 2
    """Pairs of images of different classes between which maps are compared."""


@dataclass(frozen=True)
class PolytopesMnist(StudyResult):
    """What the study found: a row a network, seed and measurement in every table."""

    data: str
    clusters: pd.DataFrame
    """Purity and adjusted mutual information of clusters with the digits, by layer, algorithm and form."""
    pairs: pd.DataFrame
    """Area under the ROC curve of each measure for different against same class, by place; 95 % interval over pairs."""
    scaling: pd.DataFrame
    paths: pd.DataFrame
    rays: pd.DataFrame
    """Crossings a unit of length, by distance from the origin as a share of the images' mean distance."""
    distances: pd.DataFrame
    maps: pd.DataFrame
    results: dict[str, pc.Result] = field(default_factory=dict)
    """The pictures are drawn from these results, which are those of the first network and seed."""

    def averages(self) -> dict[str, pd.DataFrame]:
        """Means over seeds, with the least and most of the column that matters."""
        return {
            "clusters": _average(self.clusters, ["network", "layer", "algorithm", "form"], "purity", ["ami", "coverage"]),
            "pairs": _average(self.pairs, ["network", "weights", "start", "measure"], "auc", ["same", "different"]),
            "scaling": _average(self.scaling, ["network", "site", "edit", "factor"], "accuracy", ["agreement", "flipped"]),
            "paths": _average(
                self.paths, ["network", "box", "path"], "density",
                ["length", "crossings", "density until flip", "flipped", "flip", "first", "cosine", "radius", "re-crossings",
                 "outside"],
            ),
            "rays": _average(self.rays, ["network", "start", "rays", "share"], "density", []),
            "distances": _average(self.distances, ["network"], "median", ["mean", "within 0.1", "within 1"]),
            "maps": _average(self.maps, ["network"], "neighbours", ["most", "end to end", "top"]),
        }  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {"data": self.data, **{name: records(table) for name, table in self.averages().items()}}

    def findings(self) -> list[str]:
        """What was found, in sentences."""
        averages = self.averages()
        sentences = []
        for network in dict.fromkeys(self.pairs["network"]):
            sentences += [_pairs_sentence(network, averages["pairs"]), _paths_sentence(network, averages["paths"])]
            sentences += [_scaling_sentence(network, averages["scaling"]), _regions_sentence(network, averages)]
        return sentences

    def text(self) -> str:
        """The tables, for a terminal."""
        parts: list[str | pd.DataFrame] = []
        for name, table in self.averages().items():
            columns = table
            if name == "scaling":
                columns = _wide(table, ["network", "site", "edit"], "factor", "accuracy")
            elif name == "rays":
                columns = _wide(
                    table[table["share"].isin(SHARES[::4])], ["network", "start", "rays"], "share", "density"
                )
            parts += [TITLES[name], columns, ""]
        return as_text(*parts, *self.findings(), absent="")

    def files(self) -> StudyFiles:
        """Every table and number, the areas as a picture, the results of the first network, and the report."""
        from patchclamp.studies.polytopes_pictures import areas

        fig = areas(self)
        return StudyFiles(
            f"The polytope lens on {self.data}",
            [
                ("What was found", "\n\n".join(self.findings())),
                ("Crossings between images", fig),
                *((TITLES[name], table) for name, table in self.averages().items() if name != "rays"),
                *((f"The first network: {name}", result.figure()) for name, result in self.results.items()),
            ],
            tables={name: getattr(self, name) for name in FRAMES},
            figures={"areas": fig},
            results=self.results,
            numbers={"summary": self.summary()},
        )


TITLES = {
    "clusters": "Clusters against digits (ten clusters; equal number and coverage in every form)",
    "pairs": "Different against same class: area under the curve of each measure, with mean of each",
    "scaling": "Activations multiplied, or moved as far elsewhere: accuracy by factor",
    "paths": "Paths: crossings a unit of length",
    "rays": "Rays from the origin: crossings a unit of length, by share of the images' mean distance",
    "distances": "Distance to the nearest boundary, and hyperplanes near",
    "maps": "Relative Frobenius distance of the maps of neighbouring regions, and of the two ends",
}
SHARES = tuple(np.round(np.arange(20) * 0.075, 4))
"""Where shells begin, as shares of the mean distance."""


def _average(table: pd.DataFrame, by: list[str], what: str, others: list[str]) -> pd.DataFrame:
    groups = table.groupby(by, sort=False, dropna=False)
    means = groups[[what, *others]].mean()
    means.insert(1, "least", groups[what].min())
    means.insert(2, "most" if "most" not in others else "greatest", groups[what].max())
    return means.reset_index()


def _wide(table: pd.DataFrame, rows: list[str], column: str, what: str) -> pd.DataFrame:
    """A column for each value of one of them."""
    return table.pivot(index=rows, columns=column, values=what).reset_index().rename_axis(columns=None)


def study(
    out: str | Path | None = None,
    *,
    data: digits.Data = "mnist",
    kinds: Sequence[digits.Kind] = ("mlp", "residual"),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 10,
    width: int = 512,
    sizes: Sizes = Sizes(),
    given: digits.Images | None = None,
    progress: bool | None = None,
) -> PolytopesMnist:
    """Run the experiment. Networks that were trained before are read from the cache.

    Args:
        out: Folder for tables, pictures and the report; None to keep nothing.
        data: Data set of the catalogue.
        kinds: Networks of :func:`patchclamp.studies.digits.network`.
        seeds: Every network is trained and measured once for each seed, which also fixes the pairs that are drawn.
        epochs: Each network is trained for this many passes over the training images.
        width: The hidden layers of the networks have this many neurons.
        sizes: How much is measured.
        given: Images in place of the data set's, to measure on.
        progress: True for bars.

    Raises:
        InputError: No seed, no network, or more pairs than the test images give.
    """
    images = given or digits.images(data)
    if not seeds or not kinds:
        raise InputError(f"give one network and one seed at least; got {list(kinds)} and {list(seeds)}")
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in FRAMES}
    results: dict[str, pc.Result] = {}
    with task("networks", len(kinds) * len(seeds), "networks", show=progress) as bar:
        for kind in kinds:
            for seed in seeds:
                net = digits.trained(kind, data, seed=seed, epochs=epochs, width=width, progress=progress)
                untrained = digits.network(kind, width=width, seed=seed + CONTROL_SEED)
                measurements, network_results = measure_network(pc.wrap(net), pc.wrap(untrained), images, sizes, seed)
                for name, frame in measurements.items():
                    frame.insert(0, "network", kind)
                    frame.insert(1, "seed", seed)
                    tables[name].append(frame)
                results = results or network_results
                bar.advance()
    frames = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    result = PolytopesMnist(data, **frames, results=results)
    if out is not None:
        result.save(out)
    return result


def measure_network(
    model: pc.Model, control: pc.Model, images: digits.Images, sizes: Sizes, seed: int
) -> tuple[dict[str, pd.DataFrame], dict[str, pc.Result]]:
    """Everything about one network, with an untrained one beside it."""
    gates = [gate.name for gate in pc.polytopes.Network.of(model).gates]
    x, labels = images.test, images.test_labels
    pairs = draw_pairs(labels, sizes.pairs, seed)
    starts = [None, *gates[:-1]]
    pair_tables = [
        areas(network, x, pairs, start, gates, seed).assign(weights=weights)
        for weights, network in ((TRAINED, model), (UNTRAINED, control))
        for start in starts
    ]
    scaling = model.scaling(
        x[: sizes.scaled], [f"{gate}:out" for gate in gates], FACTORS, labels=labels[: sizes.scaled].tolist(), seed=seed
    )
    options: dict[bool, dict[str, Any]] = {True: {}, False: {"kinds": ("pgd", "sign", "gauss")}}
    attacks = {
        clip: model.adversarial_paths(
            x[: sizes.attacked], labels[: sizes.attacked], eps=EPS, box=BOX, clip=clip, seed=seed, **attack_options
        )
        for clip, attack_options in options.items()
    }
    shells = {start: rays(model, x[: sizes.rays], start, seed) for start in starts}
    boundaries = model.boundaries(x[: sizes.near], radii=(0.01, 0.1, 1.0))
    tables = {
        "clusters": pd.concat([score_forms(model, control, x[: sizes.rows], labels[: sizes.rows], gate, seed) for gate in gates]),
        "pairs": pd.concat(pair_tables),
        "scaling": _scaling_table(scaling),
        "paths": pd.concat([result.summary(seed).assign(box=clip) for clip, result in attacks.items()]),
        "rays": pd.concat([_shells(result, start) for start, result in shells.items()]),
        "distances": pd.DataFrame([{
            "median": float(np.median(boundaries.nearest)), "mean": float(boundaries.nearest.mean()),
            "within 0.1": float(boundaries.within[:, 1].mean()), "within 1": float(boundaries.within[:, 2].mean()),
        }]),
        "maps": pd.DataFrame([maps(model, x[first], x[second]) for first, second in pairs["different"][: sizes.lines]]),
    }  # fmt: skip
    results: dict[str, pc.Result] = {
        "scaling": scaling,
        "paths": attacks[True],
        "rays": shells[None],
        "boundaries": boundaries,
    }
    return tables, results


def draw_pairs(labels: Tensor, count: int, seed: int) -> dict[str, list[tuple[int, int]]]:
    """Pairs of images of the same class and of different ones; no image is in two pairs of a kind.

    Raises:
        InputError: There are too few images.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    classes = labels.numpy()
    unpaired: dict[int, int] = {}
    same: list[tuple[int, int]] = []
    for number in order.tolist():
        other = unpaired.pop(int(classes[number]), None)
        if other is None:
            unpaired[int(classes[number])] = number
        else:
            same.append((other, number))
    second_order = generator.permutation(len(labels))
    half = len(second_order) // 2
    different = [
        (i, j)
        for i, j in zip(second_order[:half].tolist(), second_order[half:].tolist(), strict=False)
        if classes[i] != classes[j]
    ]
    if min(len(same), len(different)) < count:
        raise InputError(f"{count} pairs were asked for; {len(labels)} images give {min(len(same), len(different))}")
    return {"same": same[:count], "different": different[:count]}


def areas(
    model: pc.Model,
    x: Tensor,
    pairs: dict[str, list[tuple[int, int]]],
    start: str | None,
    gates: Sequence[str],
    seed: int,
) -> pd.DataFrame:
    """How well each measure tells pairs of different classes from pairs of the same one."""
    order = [*pairs["same"], *pairs["different"]]
    first, second = (x[[pair[side] for pair in order]] for side in (0, 1))
    begin, end = (values(model, rows, start) for rows in (first, second))
    last = [values(model, rows, gates[-1]) for rows in (first, second)]
    crossings = model.crossings(begin, end, start=start)
    measures = {
        "crossings": crossings["crossings"], "crossings a unit": crossings["density"], "flips of the ends": crossings["flips"],
        "distance": _distance(begin, end), "cosine distance": _cosine(begin, end),
        "distance after the last gate": _distance(*last), "cosine distance after the last gate": _cosine(*last),
    }  # fmt: skip
    truth = np.repeat([0, 1], [len(pairs["same"]), len(pairs["different"])])
    rows = []
    for measure, numbers in measures.items():
        scores = np.asarray(numbers, dtype=float)
        low, high = _area_interval(truth, scores, seed)
        rows.append({
            "start": start or "input", "measure": measure, "auc": area(truth, scores), "low": low, "high": high,
            "same": float(scores[truth == 0].mean()), "different": float(scores[truth == 1].mean()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def values(model: pc.Model, rows: Tensor, gate: str | None) -> Tensor:
    """What comes out of a gate, or the rows themselves."""
    return rows if gate is None else model.record(rows, f"{gate}:out")[f"{gate}:out"]


def _distance(first: Tensor, second: Tensor) -> Any:
    return (first - second).flatten(1).norm(dim=1).numpy()


def _cosine(first: Tensor, second: Tensor) -> Any:
    return 1 - nn.functional.cosine_similarity(first.flatten(1), second.flatten(1)).numpy()


def area(truth: Any, scores: Any) -> float:
    """Area under the ROC curve: the share of (same, different) couples of pairs in which the different one scores higher."""
    same, different = np.sort(scores[truth == 0]), scores[truth == 1]
    below = np.searchsorted(same, different, side="left") + np.searchsorted(same, different, side="right")
    return float(below.mean() / 2 / len(same))


def _area_interval(truth: Any, scores: Any, seed: int) -> tuple[float, float]:
    """95 % of the areas of pairs drawn with replacement, within each kind."""
    generator = np.random.default_rng(seed)
    groups = [np.flatnonzero(truth == kind) for kind in (0, 1)]
    areas = []
    for _ in range(DRAWS):
        rows = np.concatenate([generator.choice(group, len(group)) for group in groups])
        areas.append(area(truth[rows], scores[rows]))
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)


def score_forms(model: pc.Model, untrained: pc.Model, x: Tensor, labels: Tensor, gate: str, seed: int) -> pd.DataFrame:
    """Scores of ten clusters of the images by what goes into and comes out of a gate, in every form."""
    acts = model.record(x, [f"{gate}:in", f"{gate}:out"])
    z, activations = (acts[f"{gate}:{port}"].flatten(1) for port in ("in", "out"))
    untrained_z = untrained.record(x, f"{gate}:in")[f"{gate}:in"].flatten(1)
    others = {"untrained hard code": (untrained_z > 0).float(), "pixels": x.flatten(1)}
    clusters = pc.polytopes.cluster(
        z, activations, labels.tolist(), others=others, k=10, seed=seed, algorithms=("k-means", "ward")
    )
    table = clusters.frame()
    wide = table.pivot(index=["algorithm", "form"], columns="score", values="value").reset_index()
    wide = wide.merge(table.drop_duplicates(["algorithm", "form"])[["algorithm", "form", "coverage"]])
    return wide.rename_axis(columns=None).assign(layer=gate)


def rays(model: pc.Model, x: Tensor, start: str | None, seed: int) -> pc.polytopes.RadialDensity:
    """Crossings on rays from the origin, in shells of equal shares of the mean distance."""
    points = values(model, x, start)
    mean = float(points.flatten(1).norm(dim=1).mean())
    edges = [share * mean for share in (*SHARES, SHARES[-1] + SHARES[1])]
    return model.radial_density(points, edges=edges, start=start, seed=seed)


def _shells(density: pc.polytopes.RadialDensity, start: str | None) -> pd.DataFrame:
    table = density.summary()
    mean = float(density.data["norm"].mean())
    return pd.DataFrame({
        "start": start or "input", "rays": table["rays"], "share": (table["from"] / mean).round(4), "density": table["density"],
    })  # fmt: skip


def _scaling_table(scaling: pc.polytopes.Scaling) -> pd.DataFrame:
    table: pd.DataFrame = (
        scaling.data[["accuracy", "agreement", "kl"]].assign(flipped=scaling.flipped).to_dataframe().reset_index()
    )
    return table.dropna(subset=["accuracy"])


def maps(model: pc.Model, a: Tensor, b: Tensor) -> dict[str, float]:
    """Distances of the affine maps along the line between two images: of neighbours, and of the ends."""
    line = model.segment(a, b)
    near = model.neighbour_distances(line)
    ends = pc.polytopes.map_distance(model.affine_map(a), model.affine_map(b))
    return {
        "neighbours": float(near["relative"].median()), "most": float(near["relative"].max()), "end to end": ends["relative"],
        "top": float(near["top"].median()),
    }  # fmt: skip


def _row_where(table: pd.DataFrame, **conditions: Any) -> pd.Series:
    for column, value in conditions.items():
        table = table[table[column] == value]
    return table.iloc[0]


def _pairs_sentence(network: str, table: pd.DataFrame) -> str:
    rows = table[table["network"] == network]
    parts = []
    for start in dict.fromkeys(rows["start"]):
        entries = [
            f"{m} {_row_where(rows, weights=TRAINED, start=start, measure=m)['auc']:.3f}"
            for m in dict.fromkeys(rows["measure"])
        ]
        untrained = _row_where(rows, weights=UNTRAINED, start=start, measure="crossings")["auc"]
        place = "from the input" if start == "input" else f"from gate {start} on"
        parts.append(f"{place}: {', '.join(entries)}; crossings of the untrained network {untrained:.3f}")
    return f"{network}, different against same class (area under the curve), {'. '.join(parts)}."


def _paths_sentence(network: str, table: pd.DataFrame) -> str:
    rows = table[(table["network"] == network) & table["box"]]
    parts = [f"{row['path']} {row['density']:.1f}" for _, row in rows.iterrows()]
    return f"{network}, crossings a unit of length (clipped to the box): {', '.join(parts)}."


def _scaling_sentence(network: str, table: pd.DataFrame) -> str:
    rows = table[(table["network"] == network) & (table["site"] == table["site"].iloc[0])]
    parts = []
    for edit in dict.fromkeys(rows["edit"]):
        edit_rows = rows[rows["edit"] == edit]
        parts.append(
            f"{edit} " + ", ".join(f"{row['factor']:g}: {row['accuracy']:.3f}" for _, row in edit_rows.iterrows())
        )
    return f"{network}, accuracy by factor at {rows['site'].iloc[0]}: {'; '.join(parts)}."


def _regions_sentence(network: str, averages: dict[str, pd.DataFrame]) -> str:
    near, gaps = _row_where(averages["distances"], network=network), _row_where(averages["maps"], network=network)
    last = averages["clusters"][averages["clusters"]["network"] == network]
    last = last[(last["layer"] == last["layer"].iloc[-1]) & (last["algorithm"] == "k-means")]
    purity = ", ".join(f"{row['form']} {row['purity']:.3f}" for _, row in last.iterrows())
    return (
        f"{network}: the nearest boundary is {near['median']:.1e} away (median), {near['within 0.1']:.0f} hyperplanes lie within "
        f"0.1; maps of neighbouring regions are {gaps['neighbours']:.3f} apart (relative), of two images {gaps['end to end']:.2f}"
        f"; purity of ten clusters after the last gate: {purity}."
    )
