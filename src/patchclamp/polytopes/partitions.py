"""Partitions of rows by k-means, Ward and HDBSCAN, and partitions of equal number and coverage made of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Algorithm = Literal["k-means", "ward", "hdbscan"]

MANY = 15_000
"""Rows above which k-means works on batches, and Ward on the centres of k-means (its memory grows with the square)."""
CENTRES = 2000
"""Of k-means, for Ward of many rows."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Which cluster each row is in."""

    cluster: Any
    """``[row]`` numbers from 0 without gaps, or -1 where a row is in none."""
    strength: Any
    """``[row]`` how surely, larger for surer: HDBSCAN's probability, else minus the distance to the centre."""
    distance: Any
    """``[row]`` to the mean of its cluster; NaN where it is in none."""

    @property
    def count(self) -> int:
        """How many clusters."""
        return int(self.cluster.max(initial=-1)) + 1


def reduced(values: Any, components: int | None, seed: int) -> Any:
    """Rows in their first principal components, or as they are; ``[row, d]``."""
    if components is None or components >= min(values.shape):
        return values
    from sklearn.decomposition import PCA

    return PCA(components, random_state=seed).fit_transform(values)


def partition(points: Any, algorithm: Algorithm, k: int, least: int, seed: int) -> Partition:
    """Cluster rows.

    Args:
        points: ``[row, d]``.
        algorithm: Which; HDBSCAN finds its own number.
        k: Clusters of the other two.
        least: Smaller clusters are dissolved: their rows are in none.
        seed: Of k-means.
    """
    strength = None
    if algorithm == "hdbscan":
        from sklearn.cluster import HDBSCAN

        fitted = HDBSCAN(min_cluster_size=max(2, least), min_samples=2, copy=True).fit(points)
        cluster, strength = fitted.labels_, fitted.probabilities_
    elif algorithm == "ward":
        cluster = _ward(points, k, seed)
    else:
        cluster = _kmeans(points, k, seed).labels_
    numbers, sizes = np.unique(cluster[cluster >= 0], return_counts=True)
    return _placed(points, cluster, numbers[sizes >= least], strength)


def _kmeans(points: Any, k: int, seed: int) -> Any:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(points) > MANY:
        return MiniBatchKMeans(k, random_state=seed, n_init=3, batch_size=4096).fit(points)
    return KMeans(k, random_state=seed, n_init=4).fit(points)


def _ward(points: Any, k: int, seed: int) -> Any:
    from sklearn.cluster import AgglomerativeClustering

    if len(points) <= MANY:
        return AgglomerativeClustering(k, linkage="ward").fit(points).labels_
    first = _kmeans(points, max(k, min(CENTRES, len(points))), seed)
    return AgglomerativeClustering(k, linkage="ward").fit(first.cluster_centers_).labels_[first.labels_]


def _placed(points: Any, cluster: Any, kept: Any, strength: Any) -> Partition:
    """Number the clusters that are kept from 0, and measure how far rows lie from their centres."""
    number = np.full(max(int(cluster.max(initial=-1)) + 2, 1), -1)
    number[kept] = np.arange(len(kept))
    own = number[cluster]  # -1 is the last place, which stays -1
    distance = np.full(len(points), np.nan)
    for one in range(len(kept)):
        members = own == one
        distance[members] = np.linalg.norm(points[members] - points[members].mean(0), axis=1)
    return Partition(own, -distance if strength is None else strength, distance)


def matched(found: Mapping[str, Partition]) -> dict[str, Partition]:
    """Partitions of as many clusters and as many rows each: what the poorest form reaches.

    Of each partition the largest clusters are kept, as many as the partition with the fewest has; then its surest rows, as many as
    the one that covers the fewest. The surest row of every cluster is always among them.
    A partition without clusters stays as it is.
    """
    some = {form: own for form, own in found.items() if own.count}
    count = min((own.count for own in some.values()), default=0)
    largest = {form: _largest(own, count) for form, own in some.items()}
    rows = min((int((own.cluster >= 0).sum()) for own in largest.values()), default=0)
    return {**found, **{form: _surest(own, rows) for form, own in largest.items()}}


def _largest(own: Partition, count: int) -> Partition:
    sizes = np.bincount(own.cluster[own.cluster >= 0], minlength=own.count)
    kept = np.argsort(-sizes, kind="stable")[:count]
    number = np.full(own.count + 1, -1)
    number[kept] = np.arange(count)
    return _without(own, number[own.cluster])


def _surest(own: Partition, rows: int) -> Partition:
    inside = np.flatnonzero(own.cluster >= 0)
    order = inside[np.argsort(-own.strength[inside], kind="stable")]
    _, first = np.unique(own.cluster[order], return_index=True)
    one_each = order[first]
    rest = order[~np.isin(order, one_each)]
    cluster = np.full_like(own.cluster, -1)
    kept = np.concatenate([one_each, rest[: rows - len(one_each)]])
    cluster[kept] = own.cluster[kept]
    return _without(own, cluster)


def _without(own: Partition, cluster: Any) -> Partition:
    return Partition(cluster, own.strength, np.where(cluster >= 0, own.distance, np.nan))
