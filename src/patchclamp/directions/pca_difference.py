"""Principal components of differences between two classes."""

from typing import Any

import torch
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.directions.base import ConceptSubspace, DirectionEstimator, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.mean_difference import pair_differences
from patchclamp.directions.moments import Moments
from patchclamp.directions.random import check_rank
from patchclamp.directions.rows import Rows


@estimator
class PCADifference(DirectionEstimator):
    """Principal components of the differences (second class minus first), not centred unless asked for.

    Uncentred, the mean difference is part of what is decomposed. Centred, it is subtracted first: a concept that moves
    every row by the same vector then leaves no trace at all in the components, which are those of whatever else varies.
    That is a known fault of peers (RepE-style control vectors); ``centred=True`` is here to show it.

    With ``groups`` there is one difference a group, between the means of its classes. Without, every row of one class
    is matched with every row of the other, in closed form: the second moment of all these differences is ``S_0 + S_1 +
    g g^T``, ``S`` being the covariances of the classes and ``g`` the difference of their means.

    Signs are such that the mean of the first class lies below that of the second along each direction.

    Source: Zou et al. 2023, "Representation engineering", arXiv 2310.01405 (there on randomly matched
    differences).

    Args:
        rank: The number of components.
        centred: Whether to subtract the mean difference first.
        concept: The kind of the labels.
    """

    rank: int = 1
    centred: bool = False
    concept: Kind = "auto"

    def _find(self, rows: Rows) -> ConceptSubspace:
        if rows.concept.classes is None or rows.concept.columns != 2:
            raise InputError(
                f"differences are of two classes; got {list(rows.concept.names) or 'a continuous concept'}"
            )
        check_rank(self.rank, rows.x.shape[1])
        moments = rows.moments()
        if rows.groups is None:
            means, second = _difference_moments(rows)
        else:
            differences = pair_differences(rows)
            means = differences.mean(0)
            second = (differences - means).T @ (differences - means) / len(differences)
        if not self.centred:
            second = second + torch.outer(means, means)
        values, vectors = torch.linalg.eigh(second)
        basis = vectors.T.flip(0)[: self.rank].contiguous()
        means = moments.class_means() @ basis.T
        basis = basis * torch.where(means[1] < means[0], -1.0, 1.0).unsqueeze(1)
        share = values.flip(0)[: self.rank].clamp(min=0) / values.clamp(min=0).sum().clamp(min=1e-300)
        return ConceptSubspace(basis, moments, report={"explained": share.tolist()})

    def __sklearn_tags__(self) -> Any:
        """The tags of scikit-learn: two classes."""
        return two_classes(super().__sklearn_tags__())


def _difference_moments(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the differences between every row of one class and every row of the other."""
    d, columns = rows.x.shape[1], rows.z.shape[1]
    class_moments = [Moments.empty(d, columns, True, rows.x.device) for _ in range(2)]
    for label, moments in enumerate(class_moments):
        in_class = rows.labels == label
        moments.update(rows.x[in_class], rows.z[in_class], None if rows.weights is None else rows.weights[in_class])
    return class_moments[1].mean - class_moments[0].mean, class_moments[0].covariance + class_moments[1].covariance


def two_classes(tags: Any) -> Any:
    """Tags of an estimator that needs exactly two classes."""
    from sklearn.utils import ClassifierTags

    tags.classifier_tags = ClassifierTags(multi_class=False)
    return tags
