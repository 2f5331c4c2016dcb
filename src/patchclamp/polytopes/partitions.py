"""Partitions of rows by k-means, Ward and HDBSCAN, and partitions of equal number and coverage made of them."""

from collections.abc import Collection, Mapping
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
    points: Any
    """``[row, d]`` what was clustered."""

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
    distance = _distances(points, own)
    return Partition(own, -distance if strength is None else strength, distance, points)


def _distances(points: Any, cluster: Any) -> Any:
    distance = np.full(len(points), np.nan)
    for one in np.unique(cluster[cluster >= 0]):
        members = cluster == one
        distance[members] = np.linalg.norm(points[members] - points[members].mean(0), axis=1)
    return distance


def matched(found: Mapping[str, Partition], forms: Collection[str]) -> dict[str, Partition]:
    """Partitions of as many clusters and as many rows each: what the poorest of some forms reaches.

    Clusters are merged, the nearest first, until there are as many as in the partition with the fewest. (To keep the largest ones
    would favour forms with few clusters: large clusters are the least pure.) Then the surest rows are kept, as many as the one
    that covers the fewest has; the surest row of every cluster is among them. A partition without clusters stays as it is, and
    one that is not among ``forms`` keeps fewer clusters or rows if it has no more.

    Args:
        found: By form.
        forms: Those that decide.
    """
    some = {form: own for form, own in found.items() if own.count and form in forms}
    count = min((own.count for own in some.values()), default=0)
    rows = min((int((own.cluster >= 0).sum()) for own in some.values()), default=0)
    return {
        form: _surest(_merged(own, max(count, 1)), rows) if own.count and rows else own for form, own in found.items()
    }


def _merged(own: Partition, count: int) -> Partition:
    """Clusters joined, always the two whose union adds the least squared distance to the means (Ward 1963)."""
    number = np.arange(own.count)
    sizes = np.bincount(own.cluster[own.cluster >= 0], minlength=own.count).astype(float)
    centres = np.stack([own.points[own.cluster == one].mean(0) for one in number]).astype(np.float64)
    squares = (centres**2).sum(1)
    apart = np.maximum(squares[:, None] + squares - 2 * centres @ centres.T, 0)
    alive = np.ones(own.count, dtype=bool)
    for _ in range(own.count - count):
        cost = apart * sizes[:, None] * sizes / (sizes[:, None] + sizes)
        cost[~alive] = cost[:, ~alive] = np.inf
        np.fill_diagonal(cost, np.inf)
        into, gone = sorted(divmod(int(cost.argmin()), own.count))
        centres[into] = (sizes[into] * centres[into] + sizes[gone] * centres[gone]) / (sizes[into] + sizes[gone])
        sizes[into] += sizes[gone]
        alive[gone], number[number == gone] = False, into
        apart[into] = apart[:, into] = ((centres - centres[into]) ** 2).sum(1)
    cluster = np.append(np.unique(number, return_inverse=True)[1], -1)[own.cluster]
    return Partition(cluster, own.strength, _distances(own.points, cluster), own.points)


def _surest(own: Partition, rows: int) -> Partition:
    inside = np.flatnonzero(own.cluster >= 0)
    order = inside[np.argsort(-own.strength[inside], kind="stable")]
    _, first = np.unique(own.cluster[order], return_index=True)
    one_each = order[first]
    rest = order[~np.isin(order, one_each)]
    cluster = np.full_like(own.cluster, -1)
    kept = np.concatenate([one_each, rest[: rows - len(one_each)]])
    cluster[kept] = own.cluster[kept]
    return Partition(cluster, own.strength, np.where(cluster >= 0, own.distance, np.nan), own.points)
