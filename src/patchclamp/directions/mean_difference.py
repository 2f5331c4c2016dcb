"""The difference of class means, and the projection that makes them equal."""

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Array, Labels, Numbers
from patchclamp.directions.base import ConceptSubspace, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.moments import Moments, span
from patchclamp.directions.rows import Rows
from patchclamp.directions.streaming import StreamingEstimator


@estimator
class MeanDifference(StreamingEstimator):
    """The difference of two class means, or the span of several: CAA, DiffMean, ITI's mass-mean shift.

    Erased, no linear predictor of the classes beats a constant one on these rows (SAL; rank 1 of two classes is the optimum of
    R-LACE, too); with ``paired`` only where every group has equally many rows. For a continuous concept the direction is
    ``Cov(x, z)``.

    Source: Rimsky et al. 2024, arXiv 2312.06681 (CAA); Shao et al. 2023, arXiv 2203.07893 (SAL).

    Args:
        balanced: Whether to measure edits from the midpoint of the class means rather than from the mean of all rows.
        paired: Whether to average the differences within ``groups`` (pairs of prompts), each of the same weight; two classes only.
        concept: The kind of the labels.
    """

    balanced: bool = False
    paired: bool = False
    concept: Kind = "auto"

    def _find(self, rows: Rows) -> ConceptSubspace:
        moments = rows.moments()
        if not self.paired:
            return ConceptSubspace(span(moments.effects()), moments, mean=self._midpoint(moments))
        gap = pair_differences(rows).mean(0)
        return ConceptSubspace(span(gap.unsqueeze(0)), moments, gap=gap, mean=self._midpoint(moments))

    def partial_fit(self, X: Array, y: Labels, classes: Any = None, sample_weight: Numbers = None) -> Self:
        """Take in more rows, as in the base; pairs do not stream."""
        if self.paired:
            raise InputError("paired differences need all rows of a pair at once: use fit")
        return super().partial_fit(X, y, classes, sample_weight)

    def _midpoint(self, moments: Moments) -> Tensor | None:
        if not self.balanced:
            return None
        if self._concept.classes is None:
            raise InputError("balanced=True measures from the midpoint of class means, and the concept is continuous")
        return moments.class_means()[moments.mean_z > 0].mean(0)


def pair_differences(rows: Rows) -> Tensor:
    """The difference between the means of the two classes in each group, ``[group, d]``.

    Raises:
        InputError: Not two classes, no groups, or a group without one of the classes.
    """
    if rows.concept.columns != 2 or rows.concept.classes is None:
        raise InputError(
            f"paired differences are of two classes; got {list(rows.concept.names) or 'a continuous concept'}"
        )
    if rows.groups is None:
        raise InputError("a paired difference needs groups: which rows belong to one pair")
    names, index = np.unique(rows.groups, return_inverse=True)
    group_index = torch.from_numpy(index).to(rows.x.device)
    weights = (
        torch.ones(len(group_index), dtype=torch.float64, device=rows.x.device)
        if rows.weights is None
        else rows.weights
    )
    total = torch.zeros(len(names), rows.x.shape[1], dtype=torch.float64, device=rows.x.device)
    for label, sign in ((0, -1.0), (1, 1.0)):
        in_class = (rows.labels == label) & (weights > 0)
        count = torch.zeros(len(names), dtype=torch.float64, device=group_index.device)
        count.index_add_(0, group_index[in_class], weights[in_class])
        if not bool((count > 0).all()):
            unpaired = names.tolist()[int((count == 0).nonzero()[0])]
            raise InputError(f"group {unpaired!r} has no row of class {rows.concept.names[label]!r}, so it is no pair")
        scaled = rows.x[in_class].to(torch.float64) * (
            sign * weights[in_class] / count[group_index[in_class]]
        ).unsqueeze(1)
        total.index_add_(0, group_index[in_class], scaled)
    return total
