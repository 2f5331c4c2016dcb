"""Partitions of rows by k-means, Ward and HDBSCAN, and partitions of equal number and coverage made of them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Algorithm = Literal["k-means", "ward", "hdbscan"]

MANY = 15_000
"""Rows above which k-means works on batches, and Ward on the centres of k-means (its memory grows with the square)."""
CENTRES = 2000
"""The number of centres of k-means, for Ward of many rows."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Which cluster each row is in."""

    cluster: Any
    """``[row]`` numbers from 0 without gaps, or -1 where a row is in none."""
    strength: Any
    """``[row]`` how surely, larger for surer: HDBSCAN's probability, else minus the distance to the centre."""
    distance: Any
    """``[row]`` to the mean of its cluster; NaN where it is in none."""
    points: Any
    """``[row, d]`` what was clustered."""

    @property
    def count(self) -> int:
        """How many clusters."""
        return int(self.cluster.max(initial=-1)) + 1


def reduce(values: Any, components: int | None, seed: int) -> Any:
    """Rows in their first principal components, or as they are; ``[row, d]``."""
    if components is None or components >= min(values.shape):
        return values
    from sklearn.decomposition import PCA

    return PCA(components, random_state=seed).fit_transform(values)


def partition(points: Any, algorithm: Algorithm, k: int, least: int, seed: int) -> Partition:
    """Cluster rows.

    Args:
        points: ``[row, d]``.
        algorithm: The algorithm; HDBSCAN finds its own number of clusters.
        k: The number of clusters of the other two.
        least: Smaller clusters are dissolved: their rows are in none.
        seed: The seed of k-means.
    """
    strength = None
    if algorithm == "hdbscan":
        from sklearn.cluster import HDBSCAN

        clustering = HDBSCAN(min_cluster_size=max(2, least), min_samples=2, copy=True).fit(points)
        cluster, strength = clustering.labels_, clustering.probabilities_
    elif algorithm == "ward":
        cluster = _ward(points, k, seed)
    else:
        cluster = _kmeans(points, k, seed).labels_
    numbers, sizes = np.unique(cluster[cluster >= 0], return_counts=True)
    return _number(points, cluster, numbers[sizes >= least], strength)


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


def _number(points: Any, cluster: Any, numbers: Any, strength: Any) -> Partition:
    """Number the clusters that are kept from 0, and measure how far rows lie from their centres."""
    number = np.full(max(int(cluster.max(initial=-1)) + 2, 1), -1)
    number[numbers] = np.arange(len(numbers))
    renumbered = number[cluster]  # -1 is the last place, which stays -1
    distance = _distances(points, renumbered)
    return Partition(renumbered, -distance if strength is None else strength, distance, points)


def _distances(points: Any, cluster: Any) -> Any:
    distance = np.full(len(points), np.nan)
    for number in np.unique(cluster[cluster >= 0]):
        members = cluster == number
        distance[members] = np.linalg.norm(points[members] - points[members].mean(0), axis=1)
    return distance


def match(partitions: Mapping[str, Partition], forms: Collection[str]) -> dict[str, Partition]:
    """Partitions of as many clusters and as many rows each: what the poorest of some forms reaches.

    Clusters are merged, the nearest first, until there are as many as in the partition with the fewest. (To keep the largest ones
    would favour forms with few clusters: large clusters are the least pure.) Then the surest rows are kept, as many as the one
    that covers the fewest has; the surest row of every cluster is among them. A partition without clusters stays as it is, and
    one that is not among ``forms`` keeps fewer clusters or rows if it has no more.

    Args:
        partitions: The partition of each form.
        forms: The forms that decide the number of clusters and rows.
    """
    decisive = {form: part for form, part in partitions.items() if part.count and form in forms}
    count = min((part.count for part in decisive.values()), default=0)
    rows = min((int((part.cluster >= 0).sum()) for part in decisive.values()), default=0)
    return {
        form: _keep_surest(_merge(part, max(count, 1)), rows) if part.count and rows else part
        for form, part in partitions.items()
    }


def _merge(part: Partition, count: int) -> Partition:
    """Clusters joined, always the two whose union adds the least squared distance to the means (Ward 1963)."""
    number = np.arange(part.count)
    sizes = np.bincount(part.cluster[part.cluster >= 0], minlength=part.count).astype(float)
    centres = np.stack([part.points[part.cluster == index].mean(0) for index in number]).astype(np.float64)
    squares = (centres**2).sum(1)
    costs = np.maximum(squares[:, None] + squares - 2 * centres @ centres.T, 0)
    active = np.ones(part.count, dtype=bool)
    for _ in range(part.count - count):
        cost = costs * sizes[:, None] * sizes / (sizes[:, None] + sizes)
        cost[~active] = cost[:, ~active] = np.inf
        np.fill_diagonal(cost, np.inf)
        survivor, absorbed = sorted(divmod(int(cost.argmin()), part.count))
        centres[survivor] = (sizes[survivor] * centres[survivor] + sizes[absorbed] * centres[absorbed]) / (
            sizes[survivor] + sizes[absorbed]
        )
        sizes[survivor] += sizes[absorbed]
        active[absorbed], number[number == absorbed] = False, survivor
        costs[survivor] = costs[:, survivor] = ((centres - centres[survivor]) ** 2).sum(1)
    cluster = np.append(np.unique(number, return_inverse=True)[1], -1)[part.cluster]
    return Partition(cluster, part.strength, _distances(part.points, cluster), part.points)


def _keep_surest(part: Partition, rows: int) -> Partition:
    rows_in_clusters = np.flatnonzero(part.cluster >= 0)
    order = rows_in_clusters[np.argsort(-part.strength[rows_in_clusters], kind="stable")]
    _, first = np.unique(part.cluster[order], return_index=True)
    representatives = order[first]
    rest = order[~np.isin(order, representatives)]
    cluster = np.full_like(part.cluster, -1)
    members = np.concatenate([representatives, rest[: rows - len(representatives)]])
    cluster[members] = part.cluster[members]
    return Partition(cluster, part.strength, np.where(cluster >= 0, part.distance, np.nan), part.points)
