"""How well clusters agree with labels: purity, entropy, adjusted mutual information, and how far they would vary."""

from typing import Any

import numpy as np

SCORES = ("purity", "entropy", "ami")


def scores(cluster: Any, labels: Any) -> tuple[float, float, float]:
    """Purity, entropy in bits and adjusted mutual information of the rows that are in a cluster.

    Purity is the share of rows that have the commonest label of their cluster. Entropy is that of the label within a row's cluster,
    averaged over rows: 0 where every cluster has one label. Adjusted mutual information is 1 for equal partitions and 0 on average
    for partitions by chance (Vinh, Epps and Bailey 2010).

    Args:
        cluster: ``[row]`` integers, -1 for none.
        labels: ``[row]``.
    """
    in_cluster = np.asarray(cluster) >= 0
    if not in_cluster.any():
        return (np.nan, np.nan, np.nan)
    _, clusters = np.unique(np.asarray(cluster)[in_cluster], return_inverse=True)
    _, classes = np.unique(np.asarray(labels)[in_cluster], return_inverse=True)
    table = np.zeros((clusters.max() + 1, classes.max() + 1))
    np.add.at(table, (clusters, classes), 1)
    rows, count = table.sum(1), table.sum()
    purity = float(table.max(1).sum() / count)
    conditional = _entropy(table, rows[:, None]) / count
    return purity, float(conditional / np.log(2)), _adjusted_information(table, conditional)


def _entropy(counts: Any, totals: Any) -> float:
    """``sum counts log(whole / counts)``, in nats."""
    return float((counts * np.log(np.where(counts > 0, totals / np.maximum(counts, 1), 1))).sum())


def _adjusted_information(table: Any, conditional: float) -> float:
    """Adjusted mutual information of a table of counts, over the mean of both entropies."""
    cluster_sizes, label_sizes, count = table.sum(1), table.sum(0), table.sum()
    entropies = _entropy(cluster_sizes, count) / count, _entropy(label_sizes, count) / count
    if max(entropies) == 0:
        return 1.0
    mutual, chance = entropies[1] - conditional, chance_information(cluster_sizes, label_sizes)
    scale = (entropies[0] + entropies[1]) / 2 - chance
    return float((mutual - chance) / scale) if abs(scale) > 1e-12 else 1.0


def chance_information(sizes_a: Any, sizes_b: Any) -> float:
    """Mutual information in nats that two partitions with parts of these sizes have by chance.

    It depends on sizes alone, and many parts are of one size, so each pair of sizes is worked out once.

    Source: Vinh, Epps and Bailey 2010, equation 24a.

    Args:
        sizes_a: Sizes of the parts of one partition.
        sizes_b: Sizes of the parts of the other.
    """
    from scipy.special import gammaln

    count = int(sizes_a.sum())
    logs = gammaln(np.arange(count + 1) + 1.0)
    sizes, multiplicities = np.unique(sizes_b.astype(int), return_counts=True)
    total = 0.0
    for size, repeats in zip(*np.unique(sizes_a.astype(int), return_counts=True), strict=True):
        overlaps = np.arange(1, size + 1)[:, None]
        possible = (overlaps <= sizes) & (overlaps >= size + sizes - count)
        left, right, rest = (
            size - overlaps,
            np.maximum(sizes - overlaps, 0),
            np.maximum(count - size - sizes + overlaps, 0),
        )
        chance = logs[size] + logs[sizes] + logs[count - size] + logs[count - sizes] - logs[count]
        chance = chance - logs[overlaps] - logs[left] - logs[right] - logs[rest]
        terms = (
            overlaps / count * np.log(count * overlaps / (size * sizes)) * np.exp(np.where(possible, chance, -np.inf))
        )
        total += float(repeats * (terms * multiplicities).sum())
    return total


def halves(cluster: Any, labels: Any, groups: Any, draws: int, generator: np.random.Generator) -> Any:
    """The scores of random halves of the groups, ``[draw, score]``.

    A half without replacement varies about the whole as the whole varies about the population (the half-sample bootstrap), and
    repeats no row, which would make clusters look purer.

    Args:
        cluster: ``[row]``.
        labels: ``[row]``.
        groups: ``[row]`` rows that belong together.
        draws: The number of halves.
        generator: The source of randomness for the halves.
    """
    names, member = np.unique(groups, return_inverse=True)
    half_scores = []
    for _ in range(draws):
        in_half = np.zeros(len(names), dtype=bool)
        in_half[generator.permutation(len(names))[: max(1, len(names) // 2)]] = True
        rows_in_half = in_half[member]
        half_scores.append(scores(np.where(rows_in_half, cluster, -1), labels))
    return np.array(half_scores)
