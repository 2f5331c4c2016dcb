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
    inside = np.asarray(cluster) >= 0
    if not inside.any():
        return (np.nan, np.nan, np.nan)
    _, own = np.unique(np.asarray(cluster)[inside], return_inverse=True)
    _, marks = np.unique(np.asarray(labels)[inside], return_inverse=True)
    table = np.zeros((own.max() + 1, marks.max() + 1))
    np.add.at(table, (own, marks), 1)
    rows, count = table.sum(1), table.sum()
    purity = float(table.max(1).sum() / count)
    within = _entropy(table, rows[:, None]) / count
    return purity, float(within / np.log(2)), _adjusted(table, within)


def _entropy(counts: Any, whole: Any) -> float:
    """``sum counts log(whole / counts)``, in nats."""
    return float((counts * np.log(np.where(counts > 0, whole / np.maximum(counts, 1), 1))).sum())


def _adjusted(table: Any, within: float) -> float:
    """Adjusted mutual information of a table of counts, over the mean of both entropies."""
    own, marks, count = table.sum(1), table.sum(0), table.sum()
    entropies = _entropy(own, count) / count, _entropy(marks, count) / count
    if max(entropies) == 0:
        return 1.0
    mutual, chance = entropies[1] - within, expected(own, marks)
    above = (entropies[0] + entropies[1]) / 2 - chance
    return float((mutual - chance) / above) if abs(above) > 1e-12 else 1.0


def expected(own: Any, marks: Any) -> float:
    """Mutual information in nats that two partitions with parts of these sizes have by chance.

    It depends on sizes alone, and many parts are of one size, so each pair of sizes is worked out once.

    Source: Vinh, Epps and Bailey 2010, equation 24a.

    Args:
        own: Sizes of the parts of one partition.
        marks: Of the other.
    """
    from scipy.special import gammaln

    count = int(own.sum())
    logs = gammaln(np.arange(count + 1) + 1.0)
    sizes, times = np.unique(marks.astype(int), return_counts=True)
    total = 0.0
    for size, often in zip(*np.unique(own.astype(int), return_counts=True), strict=True):
        both = np.arange(1, size + 1)[:, None]
        possible = (both <= sizes) & (both >= size + sizes - count)
        left, right, rest = size - both, np.maximum(sizes - both, 0), np.maximum(count - size - sizes + both, 0)
        chance = logs[size] + logs[sizes] + logs[count - size] + logs[count - sizes] - logs[count]
        chance = chance - logs[both] - logs[left] - logs[right] - logs[rest]
        terms = both / count * np.log(count * both / (size * sizes)) * np.exp(np.where(possible, chance, -np.inf))
        total += float(often * (terms * times).sum())
    return total


def halves(cluster: Any, labels: Any, groups: Any, draws: int, draw: np.random.Generator) -> Any:
    """The scores of random halves of the groups, ``[draw, score]``.

    A half without replacement varies about the whole as the whole varies about the population (the half-sample bootstrap), and
    repeats no row, which would make clusters look purer.

    Args:
        cluster: ``[row]``.
        labels: ``[row]``.
        groups: ``[row]`` rows that belong together.
        draws: How many.
        draw: Of the halves.
    """
    names, member = np.unique(groups, return_inverse=True)
    found = []
    for _ in range(draws):
        chosen = np.zeros(len(names), dtype=bool)
        chosen[draw.permutation(len(names))[: max(1, len(names) // 2)]] = True
        kept = chosen[member]
        found.append(scores(np.where(kept, cluster, -1), labels))
    return np.array(found)
