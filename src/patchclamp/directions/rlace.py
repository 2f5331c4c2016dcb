"""The projection after which the best linear classifier does worst: in closed form with a certificate, or by ascent."""

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.utils import check_random_state
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Repeats, Seed
from patchclamp.directions.base import ConceptSubspace, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.logistic import check_classes
from patchclamp.directions.moments import BLOCK, Moments, blocks, span
from patchclamp.directions.random import check_whole_rank
from patchclamp.directions.rows import Rows
from patchclamp.directions.sal import rank_note, top_directions
from patchclamp.directions.solver import Logistic, Solution
from patchclamp.directions.streaming import StreamingEstimator

INNER = 1e-7
"""Share of its minimum to which the classifier is solved at each step of the ascent."""
TRIAL = 4
"""Every start gets this part of the steps, and the best of them all steps."""


@estimator
class RLACE(StreamingEstimator):
    """The game ``max over projections P of rank r, min over classifiers W, of the loss of W on the rows (I - P) x``.

    The constant classifier is there whatever ``P`` is, so no value exceeds its loss, the entropy of the classes. At
    rank classes - 1 (1 for two classes) the span of the class means attains it: all class means are equal then, so the
    gradient of the loss at the constant classifier is zero, and the loss is convex. That is the optimum in closed form,
    and the report certifies it with the ``gradient`` measured on the projected rows (``gradient_before``: without
    projection). By convexity every classifier with weights of norm B has a loss of at least ``value - B * gradient``.

    At lower rank the game is played: ascent over subspaces by the gradient of Danskin's theorem, the classifier (with
    penalty ``C``) being solved to 1e-7 at every step, from several starts, truncated SAL among them. ``value`` is then
    attained, hence a lower bound of the game's value; ``trivial`` is an upper bound; ``gap`` is their difference, and
    bounds how much a better subspace could gain. The game is not concave in ``P``: the optimum found is a local one, no
    worse than SAL's.

    Source: Ravfogel et al. 2022, "Linear adversarial concept erasure", arXiv 2201.12091, for the game (there solved by
    alternating gradient steps over the Fantope). For the equality with mean projection: Belrose et al. 2023, arXiv
    2306.03819, theorem 3.1.

    Args:
        rank: The number of directions; never more than the concept moves.
        C: The inverse strength of the classifier's penalty, on features scaled by one number to a mean variance of 1.
        starts: Number of subspaces to start from, where the game is played: SAL, the same in whitened space, and random ones.
        steps: The number of steps of ascent from the best start; the others get a quarter of them.
        random_state: The seed of the random starts.
        concept: The kind of the labels.
    """

    rank: int = 1
    C: float = 1.0
    starts: Repeats = 4
    steps: Repeats = 60
    random_state: Seed | None = 0
    concept: Kind = "auto"

    def _find(self, rows: Rows) -> ConceptSubspace:
        moments = rows.moments()
        check_whole_rank(self.rank)
        basis = span(moments.effects())
        if self.rank >= len(basis):
            return self._closed_form(moments, basis, _gradient(rows, moments, basis))
        if rows.partial:
            raise InputError(
                f"rank {self.rank} of a concept that moves {len(basis)} dimensions is a game, which needs all rows at once: use fit"
            )
        return self._play(rows, moments)

    def _closed_form(self, moments: Moments, basis: Tensor, gradient: float) -> ConceptSubspace:
        trivial = (
            _entropy(moments) if self._concept.classes is not None else float((moments.square_z / moments.weight).sum())
        )
        initial_gradient = float((moments.cross / moments.weight).norm())
        game = {"closed_form": True, "value": trivial, "trivial": trivial, "gap": 0.0}
        certificate = {"gradient": gradient, "gradient_before": initial_gradient}
        return ConceptSubspace(basis, moments, report={**game, **certificate, **rank_note(self.rank, basis)})

    def _play(self, rows: Rows, moments: Moments) -> ConceptSubspace:
        check_classes(rows, self)
        game = Game(Logistic(rows, self.C), self.rank)
        starts = game.starts(self.starts, self.random_state)
        tries = [game.ascend(start, self.steps // TRIAL) for start in starts]
        values = [value for value, _ in tries]
        basis = game.ascend(game.whiten(tries[int(np.argmax(values))][1]), self.steps)[1]
        solution = game.classifier(basis)
        trivial, value = _entropy(moments), (solution.objective - solution.excess) / game.problem.total
        report: dict[str, Any] = {
            "closed_form": False, "value": value, "trivial": trivial, "gap": trivial - value, "starts": values,
            "loss": solution.loss, "accuracy": solution.accuracy, "gradient": float(game.slope(basis, solution).norm()),
        }  # fmt: skip
        return ConceptSubspace(basis, moments, report=report)


class Game:
    """The value of a subspace, and ascent on it in coordinates in which the Hessian is about the identity."""

    def __init__(self, problem: Logistic, rank: int) -> None:
        self.problem = problem
        self.rank = rank
        self.last: Tensor | None = None

    def classifier(self, basis: Tensor) -> Solution:
        """Solve for the best classifier on rows without the subspace, starting from the last one."""
        solution = self.problem.solve(basis, start=self.last, tol=INNER)
        self.last = solution.weights
        return solution

    def slope(self, basis: Tensor, solution: Solution) -> Tensor:
        """The gradient ``[rank, d]`` of the value in the subspace: ``-(U G^T) W`` for the pull G on the weights W (Danskin)."""
        return -(basis @ solution.pull.T) @ solution.weights / self.problem.total

    def whiten(self, basis: Tensor) -> Tensor:
        """Write a basis in coordinates in which the classifier's Hessian is about the identity."""
        solved: Tensor = torch.linalg.solve_triangular(self.problem.factor, basis.T, upper=False)
        return solved.T

    def starts(self, count: int, seed: int | None) -> list[Tensor]:
        """The starts ``[rank, d]`` in whitened coordinates: truncated SAL, the strongest class means, and mixtures of these."""
        factor, moments = self.problem.factor, self.problem.moments
        sal = self.whiten(top_directions(moments, self.rank))
        means = span(torch.linalg.solve_triangular(factor, moments.effects().T, upper=False).T)
        random_state = check_random_state(seed)
        mixtures = [
            torch.from_numpy(random_state.standard_normal((self.rank, len(means)))).to(means.device)
            for _ in range(max(0, count - 2))
        ]
        return [sal, means[: self.rank], *(mixture @ means for mixture in mixtures)]

    def ascend(self, start: Tensor, steps: int) -> tuple[float, Tensor]:
        """Climb from a start: the best value, and its orthonormal rows."""
        best: tuple[float, Tensor] | None = None
        unit = torch.linalg.qr(start.T)[0].T

        def negative(flat: Any) -> tuple[float, Any]:
            nonlocal best
            rows = torch.from_numpy(flat.reshape(unit.shape)).to(unit.device) @ self.problem.factor.T
            columns, triangle = torch.linalg.qr(rows.T)
            basis = columns.T
            solution = self.classifier(basis)
            value = (solution.objective - solution.excess) / self.problem.total
            if best is None or value > best[0]:
                best = value, basis
            slope = torch.linalg.solve_triangular(triangle, self.slope(basis, solution), upper=True)
            return -value, -(slope @ self.problem.factor).cpu().numpy().ravel()

        minimize(negative, unit.cpu().numpy().ravel(), jac=True, method="L-BFGS-B", options={"maxiter": steps})
        assert best is not None
        return best


def _entropy(moments: Moments) -> float:
    """The entropy of the classes, in nats: the loss of the best constant classifier."""
    return float(torch.special.entr(moments.mean_z.clamp(0, 1)).sum())


def _gradient(rows: Rows, moments: Moments, basis: Tensor) -> float:
    """The norm of the gradient of the mean loss at the constant classifier, on the projected rows themselves.

    Of a stream, whose rows are gone, it comes from the moments.
    """
    if rows.partial:
        remainder = moments.cross.T - moments.cross.T @ basis.T @ basis
        return float((remainder / moments.weight).norm())
    total = torch.zeros_like(moments.cross.T)
    errors = moments.mean_z - rows.z
    if rows.weights is not None:
        errors = errors * rows.weights.unsqueeze(1)
    for block, error in zip(blocks(rows.x), errors.split(BLOCK), strict=True):
        centred = block - moments.mean
        total += error.T @ (centred - (centred @ basis.T) @ basis)
    return float((total / moments.weight).norm())
