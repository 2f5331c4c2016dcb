"""Clusters of rows by spline codes, activations, unit-norm activations and pre-activations, always side by side.

Codes forget how long an activation is, and clusters of different numbers or coverage cannot be compared: an algorithm that leaves
half of the rows as noise looks purer. So every form of the same rows is clustered by the same algorithm, and scored on as many
clusters and as many rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.kinds import Groups, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult, record_of_arrays
from patchclamp.polytopes.codes import Labels, named_labels
from patchclamp.polytopes.partitions import Algorithm, Partition, match, partition, reduce
from patchclamp.polytopes.purity import SCORES, halves, scores
from patchclamp.polytopes.soft import activation

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

FORMS = ("hard code", "soft code", "pre-activation", "activation", "unit norm")
"""Ways to write down the same rows; ``soft code`` only for smooth activations."""
RESERVED = frozenset({
    "row", "algorithm", "form", "score", "draw", "labels", "example", "value", "low", "high",
    "shuffled", "unmatched", "half", "cluster", "distance", "found", "covered", "count", "coverage",
})  # fmt: skip
"""Names of what a result holds."""
DRAWS = 24
"""The number of half-samples, for intervals."""
SHUFFLES = 8
"""The number of shuffles of the labels, for the control."""


@dataclass(eq=False)
class Clusters(DatasetResult):
    """Clusters of the same rows in several forms, scored against labels.

    ``data`` holds, by ``labels, algorithm, form, score``: ``value`` with its 95 % interval ``low, high``, ``shuffled`` (the same
    clusters, labels permuted) and ``unmatched`` (of what the algorithm found, before matching). By ``algorithm, form, row``:
    ``cluster`` (-1 where a row is not covered) and ``distance`` to the cluster's centre. By ``algorithm, form``: ``count`` of
    clusters and their ``coverage``, the same for all :data:`FORMS`; ``found`` and ``covered`` are those before matching.

    Scores are ``purity`` (share of rows with the commonest label of their cluster), ``entropy`` (of the label within a cluster, in
    bits, mean over rows) and ``ami`` (adjusted mutual information, which is 0 for clusters by chance).
    """

    kind: ClassVar[str] = "clusters"

    @property
    def algorithms(self) -> tuple[str, ...]:
        """How the rows were clustered."""
        return tuple(str(name) for name in self.dataset["algorithm"].values)

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms of the rows."""
        return tuple(str(name) for name in self.dataset["form"].values)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels that the clusters were scored against."""
        return tuple(str(name) for name in self.dataset["labels"].values)

    def matched(self, algorithm: str) -> tuple[int, float]:
        """On how many clusters and what share of the rows the forms are compared."""
        results = self.dataset.sel(algorithm=algorithm)
        form = next(
            (form for form in self.forms if form in FORMS and int(results["count"].sel(form=form))), self.forms[0]
        )
        return int(results["count"].sel(form=form)), float(results["coverage"].sel(form=form))

    def is_matched(self, algorithm: str, form: str) -> bool:
        """Whether a form has as many clusters and rows as it is compared on; some controls have fewer."""
        results = self.dataset.sel(algorithm=algorithm, form=form)
        return (int(results["count"]), float(results["coverage"])) == self.matched(algorithm)

    def _size_note(self, algorithm: str, form: str) -> str:
        results = self.dataset.sel(algorithm=algorithm, form=form)
        return f"only {int(results['count'])} clusters of {100 * float(results['coverage']):.0f} %"

    def __repr__(self) -> str:
        lines = [f"Clusters of {self.dataset.sizes['row']} rows, in {len(self.forms)} forms"]
        for algorithm in self.algorithms:
            results = self.dataset.sel(algorithm=algorithm)
            count, coverage = self.matched(algorithm)
            lines.append(f"{algorithm}: {count} clusters of {100 * coverage:.0f} % of the rows, in every form")
            for labels in self.label_names:
                for form in self.forms:
                    cell = results.sel(labels=labels, form=form)
                    parts = [f"{score} {float(cell['value'].sel(score=score)):.3f}" for score in SCORES]
                    chance = float(cell["shuffled"].sel(score="purity"))
                    note = "" if self.is_matched(algorithm, form) else f"; {self._size_note(algorithm, form)}"
                    lines.append(
                        f"  {labels}, {form}: {', '.join(parts)} (purity of shuffled labels {chance:.3f}{note})"
                    )
        return "\n".join(lines)

    def frame(self) -> "pd.DataFrame":
        """The scores: one row for each algorithm, labels, form and score."""
        names = ["value", "low", "high", "shuffled", "unmatched"]
        table = self.dataset[names].to_dataframe().reset_index()
        keys = ["algorithm", "form"]
        sizes = self.dataset[["count", "coverage", "found", "covered"]].to_dataframe().reset_index()
        counts = sizes[[*keys, "count", "coverage", "found", "covered"]]
        return table[[*keys, "labels", "score", *names]].merge(counts, on=keys)

    def differences(self, to: str = "activation") -> "pd.DataFrame":
        """What each form has over another, with 95 % intervals from the same half-samples.

        Args:
            to: The form to compare with.

        Raises:
            InputError: There is no such form.
        """
        check_choice("form", to, self.forms)
        differences = self.dataset[["value", "half"]] - self.dataset[["value", "half"]].sel(form=to)
        spread = 1.96 * differences["half"].std("draw", ddof=1)
        table = differences.drop_vars("half").assign(
            low=differences["value"] - spread, high=differences["value"] + spread
        )
        rows = table.drop_sel(form=to).to_dataframe().reset_index()
        return rows[["algorithm", "form", "labels", "score", "value", "low", "high"]]

    def cards(
        self, algorithm: str, form: str, labels: str | None = None, *, most: int = 12, examples: int = 6
    ) -> "pd.DataFrame":
        """The largest clusters: their size, purity, commonest labels, and the examples nearest the centre.

        Args:
            algorithm: How the rows were clustered.
            form: The form of the rows that was clustered.
            labels: The labels to describe clusters by; the first by default.
            most: The largest number of clusters.
            examples: The number of examples of each cluster.

        Raises:
            InputError: There is no such algorithm, form or labels.
        """
        import pandas as pd

        for kind, name, names in (("algorithm", algorithm, self.algorithms), ("form", form, self.forms)):
            check_choice(kind, name, names)
        label_name = self.label_names[0] if labels is None else labels
        check_choice("labels", label_name, self.label_names)
        results = self.dataset.sel(algorithm=algorithm, form=form)
        cluster, row_labels, distance = (
            results["cluster"].values,
            self.dataset[label_name].values,
            results["distance"].values,
        )
        texts = self.dataset["example"].values if "example" in self.dataset else row_labels
        numbers, sizes = np.unique(cluster[cluster >= 0], return_counts=True)
        rows = []
        for number, size in sorted(zip(numbers, sizes, strict=True), key=lambda pair: (-pair[1], pair[0]))[:most]:
            members = np.flatnonzero(cluster == number)
            label_values, counts = np.unique(row_labels[members], return_counts=True)
            common = np.argsort(-counts, kind="stable")[:3]
            nearest = members[np.argsort(distance[members], kind="stable")[:examples]]
            rows.append({
                "cluster": int(number), "size": int(size), "purity": float(counts.max() / size),
                "labels": ", ".join(f"{label_values[i]} ({counts[i]})" for i in common),
                "rows": nearest.tolist(), "examples": [str(texts[i]) for i in nearest],
            })  # fmt: skip
        return pd.DataFrame(rows, columns=["cluster", "size", "purity", "labels", "rows", "examples"])


@checked
def cluster(
    preactivations: Tensor,
    activations: Tensor,
    labels: Labels,
    *,
    name: str | None = "relu",
    others: Mapping[str, Tensor] | None = None,
    algorithms: Sequence[Algorithm] = ("k-means", "ward", "hdbscan"),
    k: int | None = None,
    least: int = 4,
    pca: int | None = 50,
    examples: Sequence[str] | None = None,
    groups: Groups = None,
    seed: Seed = 0,
    progress: bool | Listener | None = None,
) -> Clusters:
    """Cluster rows by their spline codes, and by everything that the codes have to be better than.

    Args:
        preactivations: What goes into the gates, ``[row, neuron]``.
        activations: What comes out, ``[row, neuron]`` (in gated MLPs times the up-projection).
        labels: One a row, or several by name: classes, or which token a row is.
        name: The activation, whose soft code is made; None for hard codes alone.
        others: More forms of the same rows, such as an untrained model's codes, each ``[row, d]``. They are matched too, but
            where one has fewer clusters or rows than the forms above, it keeps them.
        algorithms: One or more of ``"k-means"``, ``"ward"``, ``"hdbscan"``.
        k: Clusters of k-means and Ward; by default as many as the first labels, at most a tenth of the rows.
        least: Smaller clusters do not count: their rows are not covered.
        pca: Cluster in this many principal components of each form; None for the form itself.
        examples: A text for each row, for the cards.
        groups: Rows that belong together, such as those of one document; intervals are over groups.
        seed: The seed of k-means, of half-samples and of shuffles.
        progress: True for a bar, a function for events.

    Raises:
        InputError: Shapes, labels or names that do not fit, NaN, or too few rows.
    """
    forms = _forms(preactivations, activations, name, others or {})
    count = len(preactivations)
    label_columns = _read_labels(labels, count)
    if not len(algorithms):
        raise InputError(f"algorithms is empty; valid: {', '.join(get_args(Algorithm))}")
    for algorithm in algorithms:
        check_choice("algorithm", algorithm, get_args(Algorithm))
    for what, values in (("examples", examples), ("groups", groups)):
        if values is not None and len(values) != count:
            raise InputError(f"{what} are one a row: got {len(values)} for {count} rows")
    class_count = len(np.unique(next(iter(label_columns.values()))))
    n_clusters = max(2, min(class_count, count // 10)) if k is None else k
    if not 2 <= n_clusters <= count:
        raise InputError(f"k = {n_clusters} clusters of {count} rows: from 2 to the number of rows is possible")
    if not 1 <= least <= count:
        raise InputError(f"least = {least}: a cluster that counts has 1 row or more, at most all {count}")
    if pca is not None and pca < 1:
        raise InputError(f"pca = {pca}: 1 component or more, or None for the form itself")
    row_groups = np.arange(count) if groups is None else np.asarray(groups)
    partitions: dict[str, dict[str, Partition]] = {}
    with task("cluster", len(forms) * len(algorithms), "clusterings", show=progress) as bar:
        points = {form: reduce(values, pca, seed) for form, values in forms.items()}
        for algorithm in algorithms:
            partitions[algorithm] = {}
            for form, form_points in points.items():
                partitions[algorithm][form] = partition(form_points, algorithm, n_clusters, least, seed)
                bar.advance()
    dataset = _score(partitions, label_columns, row_groups, seed)
    if examples is not None:
        dataset = dataset.assign_coords(example=("row", np.array(examples, dtype=object)))
    parameters = {
        "rows": count, "k": n_clusters, "least": least, "pca": pca, "seed": seed, "activation": name, "grouped": groups is not None,
        "digest": digest(*(torch.from_numpy(values) for values in forms.values())),
    }  # fmt: skip
    return Clusters(dataset, record_of_arrays(parameters))


def _forms(z: Tensor, act: Tensor, name: str | None, others: Mapping[str, Tensor]) -> dict[str, Any]:
    """Every form, as float32 ``[row, d]``."""
    activation_code = None if name is None else activation(name)
    if z.shape != act.shape:
        raise InputError(f"pre-activations {tuple(z.shape)} and activations {tuple(act.shape)} must have one shape")
    forms = {"hard code": (z > 0).float()}
    if activation_code is not None and activation_code.soft is not None:
        forms["soft code"] = activation_code.code(z)
    forms |= {
        "pre-activation": z,
        "activation": act,
        "unit norm": act / act.norm(dim=-1, keepdim=True).clamp(min=1e-12),
    }
    for other, values in others.items():
        if other in forms:
            raise InputError(f"{other!r} is a form of its own; call yours otherwise")
        forms[other] = values
    for form, values in forms.items():
        if values.dim() != 2 or len(values) != len(z):
            raise InputError(f"{form!r} must be [row, d] with {len(z)} rows; got {tuple(values.shape)}")
        if not bool(torch.isfinite(values).all()):
            raise InputError(f"{form!r} holds NaN or infinite numbers")
    return {form: values.detach().float().cpu().numpy() for form, values in forms.items()}


def _read_labels(labels: Labels, count: int) -> dict[str, Any]:
    if labels is None or not len(labels):
        raise InputError("clusters are scored against labels; give one a row, such as classes or tokens")
    return named_labels(labels, count, RESERVED)


def _score(
    partitions: dict[str, dict[str, Partition]], label_columns: dict[str, Any], groups: Any, seed: int
) -> "xr.Dataset":
    import xarray as xr

    algorithms, forms = list(partitions), list(next(iter(partitions.values())))
    count = len(groups)
    shape = (len(label_columns), len(algorithms), len(forms), len(SCORES))
    value, shuffled, unmatched = (np.full(shape, np.nan) for _ in range(3))
    half = np.full((*shape, DRAWS), np.nan)
    clusters, distance = np.full((*shape[1:3], count), -1), np.full((*shape[1:3], count), np.nan)
    for m, algorithm in enumerate(algorithms):
        matches = match(partitions[algorithm], FORMS)
        for f, form in enumerate(forms):
            clusters[m, f], distance[m, f] = matches[form].cluster, matches[form].distance
            for number, row_labels in enumerate(label_columns.values()):
                generator = np.random.default_rng(seed)
                value[number, m, f] = scores(clusters[m, f], row_labels)
                unmatched[number, m, f] = scores(partitions[algorithm][form].cluster, row_labels)
                half[number, m, f] = halves(clusters[m, f], row_labels, groups, DRAWS, generator).T
                shuffled[number, m, f] = np.mean(
                    [scores(clusters[m, f], generator.permutation(row_labels)) for _ in range(SHUFFLES)], axis=0
                )
    spread = 1.96 * half.std(-1, ddof=1)
    dims = ("labels", "algorithm", "form", "score")
    raw = [[partitions[algorithm][form] for form in forms] for algorithm in algorithms]
    pair_dims = ("algorithm", "form")
    return xr.Dataset(
        {
            "value": (dims, value), "low": (dims, value - spread), "high": (dims, value + spread), "shuffled": (dims, shuffled),
            "unmatched": (dims, unmatched), "half": ((*dims, "draw"), half),
            "cluster": (("algorithm", "form", "row"), clusters), "distance": (("algorithm", "form", "row"), distance),
            "found": (pair_dims, np.array([[part.count for part in row] for row in raw])),
            "covered": (pair_dims, np.array([[float((part.cluster >= 0).mean()) for part in row] for row in raw])),
            "count": (pair_dims, np.array([[len(np.unique(ids[ids >= 0])) for ids in row] for row in clusters])),
            "coverage": (pair_dims, (clusters >= 0).mean(-1)),
        },
        {
            "labels": np.array(list(label_columns), dtype=object), "algorithm": np.array(algorithms, dtype=object),
            "form": np.array(forms, dtype=object), "score": np.array(SCORES, dtype=object),
            **{name: ("row", row_labels) for name, row_labels in label_columns.items()},
        },
    )  # fmt: skip
