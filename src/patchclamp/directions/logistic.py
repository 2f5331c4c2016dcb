"""The weight of a linear classifier, as a direction."""

from patchclamp.core.errors import InputError
from patchclamp.directions.base import ConceptSubspace, DirectionEstimator, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.moments import span
from patchclamp.directions.rows import Rows
from patchclamp.directions.solver import Logistic


@estimator
class LogisticDirection(DirectionEstimator):
    """The weight of an L2-regularised logistic classifier, or the span of the weights of several classes.

    It tells the classes apart best, and erases badly: a classifier's weight is near ``S^-1 (mean_1 - mean_0)``, ``S``
    being the covariance within classes, and without it the class means stay apart.

    Source: Haghighatkhah et al. 2022, "Better hit the nail on the head than beat around the bush", arXiv 2212.04273.

    Args:
        C: The inverse strength of the penalty, as in scikit-learn, on features that are scaled by one number to a mean
            variance of 1: the direction does not hang on the units of the activations.
        tol: The share of its minimum to which the objective is solved; the report bounds the excess.
        max_iter: The largest number of iterations; not to have converged is a warning.
        concept: The kind of the labels.
    """

    second = True

    C: float = 1.0
    tol: float = 1e-10
    max_iter: int = 500
    concept: Kind = "auto"

    def _find(self, rows: Rows) -> ConceptSubspace:
        check_classes(rows, self)
        problem = Logistic(rows, self.C)
        solution = problem.solve(tol=self.tol, max_iter=self.max_iter)
        self.n_iter_ = solution.iterations
        report = {**solution.report(), "scale": problem.scale, "warnings": []}
        if not solution.converged:
            report["warnings"] = [
                f"the classifier has not converged after {self.max_iter} iterations: its objective may be "
                f"{solution.excess:.2g} above the minimum; raise max_iter or tol, or lower C"
            ]
        return ConceptSubspace(span(solution.weights), problem.moments, report=report)


def check_classes(rows: Rows, method: DirectionEstimator) -> None:
    """Refuse a continuous concept.

    Raises:
        InputError: The concept is continuous; the message says what to use.
    """
    if rows.concept.classes is None:
        raise InputError(
            f"{type(method).__name__} tells classes apart, and the concept is continuous; use MeanDifference or LEACE, or say "
            "concept='classes'"
        )
