"""Methods that need means and covariances alone, so that rows can come in parts."""

from dataclasses import replace
from typing import Any, Self

from patchclamp.core.kinds import Array, Labels, Numbers
from patchclamp.directions.base import ConceptSubspace, DirectionEstimator
from patchclamp.directions.moments import Moments
from patchclamp.directions.rows import Rows


class StreamingEstimator(DirectionEstimator):
    """A method whose :meth:`_find` reads the moments of its rows; :meth:`partial_fit` adds the rows to those seen before."""

    moments_: Moments
    """The moments of all rows so far."""

    def partial_fit(self, X: Array, y: Labels, classes: Any = None, sample_weight: Numbers = None) -> Self:
        """Take in more rows; the result is that of one fit on all of them. While one class only was seen there is none.

        Args:
            X: Activations ``[row, d]``.
            y: The concept of the rows.
            classes: All classes that will come, at the first call; those of the first rows by default.
            sample_weight: The weights of the rows, ``[row]``.

        Raises:
            InputError: As for ``fit``, or a class that was not announced.
        """
        first = not hasattr(self, "moments_")
        rows = self._read(X, y, sample_weight, None, classes, first)
        if first:
            self.moments_ = Moments.empty(rows.x.shape[1], rows.z.shape[1], self.second, rows.x.device)
        self.moments_.update(rows.x, rows.z, rows.weights)
        if bool(self.moments_.effects().any()):
            all_rows = replace(rows, known_moments=self.moments_, partial=True)
            self._keep(all_rows, self._find(all_rows))
        return self

    def _keep(self, rows: Rows, subspace: ConceptSubspace) -> None:
        self.moments_ = subspace.moments
        super()._keep(rows, subspace)
