"""Iterative nullspace projection: fit a classifier, project its weights out, fit again."""

import torch
from torch import Tensor

from patchclamp.directions.base import ConceptSubspace, DirectionEstimator, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.logistic import check_classes
from patchclamp.directions.moments import span
from patchclamp.directions.random import check_whole_rank
from patchclamp.directions.rows import Rows
from patchclamp.directions.solver import Logistic, Solution

NOTHING = 1e-8
"""Weights of a classifier below this share of the first one's say nothing."""


@estimator
class INLP(DirectionEstimator):
    """Directions of classifiers, each fitted on the rows from which all earlier ones have been projected.

    With an L2 penalty a classifier of projected rows has its weights in the null space of the earlier ones, so every
    round is the first problem under one more linear constraint: all share one Cholesky factor, and no row is copied.
    The directions are orthonormal. Each round blinds the current classifier only: nothing is guaranteed at any rank but
    the width.

    The report holds a line for each round: the accuracy, loss and iterations of the classifier fitted in it.

    Source: Ravfogel et al. 2020, "Null it out: guarding protected attributes by iterative nullspace projection", arXiv
    2004.07667.

    Args:
        rank: The number of directions in all. A round adds one of two classes, else the span of its weights.
        stop: Whether to end when a classifier is no better on its own rows than the most frequent class.
        C: The inverse strength of the penalty, on features scaled by one number to a mean variance of 1.
        tol: The share of its minimum to which each classifier is solved.
        max_iter: The largest number of iterations in a round.
        concept: The kind of the labels.
    """

    second = True

    rank: int = 8
    stop: bool = False
    C: float = 1.0
    tol: float = 1e-4
    max_iter: int = 200
    concept: Kind = "auto"

    def _find(self, rows: Rows) -> ConceptSubspace:
        check_classes(rows, self)
        check_whole_rank(self.rank)
        problem = Logistic(rows, self.C)
        basis, rounds = self._rounds(problem)
        self.n_iter_ = sum(solution.iterations for solution in rounds)
        unconverged = [number for number, solution in enumerate(rounds) if not solution.converged]
        texts = (
            [f"the classifier of round {unconverged[0]} has not converged; raise max_iter or tol"]
            if unconverged
            else []
        )
        if len(basis) < self.rank and not self.stop:
            texts.append(f"rank {self.rank} was asked for, but nothing is left to find after {len(basis)}")
        majority = float(problem.moments.mean_z.max())
        report = {
            "rounds": [s.report() for s in rounds],
            "majority": majority,
            "scale": problem.scale,
            "warnings": texts,
        }
        return ConceptSubspace(basis, problem.moments, report=report)

    def _rounds(self, problem: Logistic) -> tuple[Tensor, list[Solution]]:
        majority = float(problem.moments.mean_z.max())
        basis, rounds = problem.x.new_zeros(0, problem.x.shape[1]), list[Solution]()
        while len(basis) < min(self.rank, basis.shape[1]):
            solution = problem.solve(basis, tol=self.tol, max_iter=self.max_iter)
            if rounds and float(solution.weights.norm()) <= NOTHING * float(rounds[0].weights.norm()):
                break
            rounds.append(solution)
            if self.stop and len(basis) and solution.accuracy <= majority:
                break
            directions = span(solution.weights, self.rank - len(basis))
            basis = torch.cat([basis, _orthonormalise(directions, basis)])
        return basis, rounds


def _orthonormalise(rows: Tensor, basis: Tensor) -> Tensor:
    """Clear rows of what rounding has left along a basis, twice."""
    for _ in range(2):
        rows = rows - (rows @ basis.T) @ basis
        rows = rows / rows.norm(dim=1, keepdim=True)
    return rows
