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
    from sklearn.metrics import adjusted_mutual_info_score

    inside = np.asarray(cluster) >= 0
    if not inside.any():
        return (np.nan, np.nan, np.nan)
    _, own = np.unique(np.asarray(cluster)[inside], return_inverse=True)
    _, marks = np.unique(np.asarray(labels)[inside], return_inverse=True)
    table = np.zeros((own.max() + 1, marks.max() + 1))
    np.add.at(table, (own, marks), 1)
    share = table / table.sum(1, keepdims=True)
    surprise = -np.log2(np.where(share > 0, share, 1))
    count = table.sum()
    ami = float(adjusted_mutual_info_score(marks, own))
    return float(table.max(1).sum() / count), float((table * surprise).sum() / count), ami


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
