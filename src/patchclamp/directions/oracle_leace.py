"""Erasing with the label of each row at hand: the residual of a regression on the concept."""

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from patchclamp.core.errors import EditError
from patchclamp.core.kinds import Array, Groups, Labels, Numbers
from patchclamp.directions.base import ConceptSubspace, DirectionEstimator, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.direction import Direction
from patchclamp.directions.rows import Rows

NULL = 1e-10
"""Eigenvalues of the concept's correlation matrix below this share of the largest are taken for zero."""


class LabelledEraser(DirectionEstimator):
    """A method whose ``transform(X, y)`` needs the labels, so that it gives no direction and no edit."""

    def fit(self, X: Array, y: Labels | None, sample_weight: Numbers = None, groups: Groups = None) -> Self:
        """Learn what each label adds; arguments and errors as for the other methods."""
        rows = self._read(X, y, sample_weight, groups)
        if rows.concept.classes is not None:
            self.classes_ = rows.concept.classes
        self._fit_map(rows)
        return self

    def transform(self, X: Array, y: Labels = None) -> Any:
        """``X`` without the concept.

        Raises:
            InputError: No labels, other lengths, or a class that was not there before.
        """
        self._check_fitted()
        if y is None:
            raise self._label_error("transform(X, y)")
        state = self._torch_in
        rows = self._read(X, y, None, None, first=False)
        torch_in, self._torch_in = self._torch_in, state
        erased = self._erase(rows.x.to(torch.float64), rows).to(rows.x.dtype)
        return erased if torch_in else erased.numpy()

    def fit_transform(self, X: Array, y: Labels = None, **options: Any) -> Any:
        """Fit, and erase from the same rows."""
        return self.fit(X, y, **options).transform(X, y)

    @property
    def reference_(self) -> Any:
        """The mean of all rows ``[d]``, where every class ends up."""
        self._check_fitted()
        return self._like_input(self._mean.cpu())

    _mean: Tensor

    @abstractmethod
    def _fit_map(self, rows: Rows) -> None:
        """Learn the map from rows."""

    @abstractmethod
    def _erase(self, x: Tensor, rows: Rows) -> Tensor:
        """Erase the concept from rows in float64."""

    def _check_fitted(self) -> None:
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "_mean")

    def _find(self, _: Rows) -> ConceptSubspace:
        raise self._label_error("a direction")

    def _fitted(self) -> Direction:
        raise self._label_error("an edit")

    def _label_error(self, what: str) -> EditError:
        return EditError(
            f"{what}: {type(self).__name__} needs the label of each row, and a model at work has none; LEACE erases without labels"
        )


@estimator
class OracleLEACE(LabelledEraser):
    """``x - Cov(x, z) Cov(z)^+ (z - mean)``: the least change of all that leave no covariance, if labels may be used.

    Of classes, it moves every class by one vector so that all means are equal. It changes ``x`` less than LEACE, and
    tells nothing about rows whose label is not known.

    Source: the method of EleutherAI's concept-erasure (``oracle.py``).

    Args:
        concept: The kind of the labels.
    """

    concept: Kind = "auto"

    def _fit_map(self, rows: Rows) -> None:
        moments = rows.moments()
        z = rows.z - moments.mean_z
        weighted_z = z if rows.weights is None else z * rows.weights.unsqueeze(1)
        products = weighted_z.T @ z
        scales = products.diagonal().sqrt().clamp(min=1e-300)
        inverse = (
            torch.linalg.pinv(products / scales / scales.unsqueeze(1), rtol=NULL, hermitian=True)
            / scales
            / scales.unsqueeze(1)
        )
        self._mean, self._mean_z = moments.mean, moments.mean_z
        self._slopes: Tensor = moments.cross @ inverse

    def _erase(self, x: Tensor, rows: Rows) -> Tensor:
        return x - (rows.z - self._mean_z) @ self._slopes.T
