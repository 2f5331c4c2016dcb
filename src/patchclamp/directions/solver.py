"""Logistic regression with an L2 penalty, solved in float64 with a bound on how far the result is from the optimum."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.directions.moments import Moments
from patchclamp.directions.rows import Rows

MEMORY = 12
"""The number of steps that the curvature is learned from."""
STEPS = 30
"""The number of steps of Newton's method in one dimension."""
CENTRED = 1e-10
"""The largest derivative in the bias, as a share of all weights."""
FLAT = 0.05
"""The slope at the end of a step, as a share of that at its beginning."""


@dataclass(frozen=True, eq=False)
class Solution:
    """A minimum of the objective, and how sure it is."""

    weights: Float[Tensor, "column d"]
    """The weights of the scaled features: one column for two classes (towards the second), else one for each class."""
    bias: Float[Tensor, " column"]
    objective: float
    """``sum of losses + |weights|^2 / 2C``."""
    loss: float
    """The mean cross-entropy in nats."""
    accuracy: float
    gradient: float
    """The norm of the gradient of the objective, the bias being at its optimum."""
    excess: float
    """The objective is above its minimum by no more than this: ``C |gradient|^2 / 2``, since it is 1/C-strongly convex."""
    iterations: int
    converged: bool
    pull: Float[Tensor, "column d"]
    """The gradient of the sum of losses alone."""

    def report(self) -> dict[str, Any]:
        """The numbers that a report has of it."""
        names = ("loss", "accuracy", "gradient", "excess", "iterations", "converged")
        return {name: getattr(self, name) for name in names}


class Logistic:
    """Rows, scaled once and by one number, with the Cholesky factor of a bound on the Hessian of every problem on them.

    The Hessian of the losses is at most ``X^T X / 4`` for two classes and ``X^T X / 2`` for more (Boehning and Lindsay 1988,
    "Monotonicity of quadratic-approximation algorithms", Ann. Inst. Stat. Math. 40). With the penalty it preconditions
    L-BFGS (Nocedal 1980). The problem on rows from which a subspace has been projected is the same one with weights
    orthogonal to it, so the factor is made once for all. The bias is not penalised and is at its optimum after every step.

    Args:
        rows: Activations with classes.
        C: The inverse strength of the penalty on features of mean variance 1.
    """

    def __init__(self, rows: Rows, C: float) -> None:
        if not 0 < C < float("inf"):
            raise InputError(f"C is a number above zero; got {C!r}")
        self.moments: Moments = rows.moments(second=True)
        self.c = float(C)
        covariance = self.moments.lower
        self.scale = float(covariance.diagonal().mean().sqrt()) or 1.0
        self.x = rows.x.to(torch.float64, copy=True).sub_(self.moments.mean).div_(self.scale)
        self.z = (rows.z[:, 1:] if rows.z.shape[1] == 2 else rows.z).T.contiguous()
        self.binary = len(self.z) == 1
        self.weights = torch.ones_like(self.z[0]) if rows.weights is None else rows.weights
        self.total = float(self.moments.weight)
        bound = covariance.mul_((0.25 if self.binary else 0.5) * self.total / self.scale**2)
        bound.diagonal().add_(1 / self.c)
        self.factor: Tensor = torch.linalg.cholesky(bound)
        prior = self.moments.mean_z.clamp(min=1e-12).log()
        self.prior = (prior[1:] - prior[:1] if self.binary else prior).unsqueeze(1)

    def solve(
        self, without: Tensor | None = None, start: Tensor | None = None, tol: float = 1e-8, max_iter: int = 200
    ) -> Solution:
        """Minimise over weights orthogonal to a subspace: the classifier of rows from which that has been projected.

        Args:
            without: Orthonormal rows ``[rank, d]``.
            start: The first weights; zero by default.
            tol: Stop when the objective is surely within this share of its minimum; from zero, after a step at least, so that
                weak weights are found, too.
            max_iter: Stop unconverged after so many passes over the rows and back.
        """
        precondition, tangent = self._metric(without)
        weights = self.x.new_zeros(len(self.z), self.x.shape[1]) if start is None else tangent(start)
        margins = torch.zeros_like(self.z) if start is None else weights @ self.x.T
        pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)
        bias, errors = self._centre(margins, self.prior)
        pull, iterations = errors @ self.x, 0
        gradient = tangent(pull + weights / self.c)
        while True:
            objective = float(self._losses(margins + bias) + weights.square().sum() / (2 * self.c))
            excess = self.c / 2 * float(gradient.square().sum())
            converged = excess <= tol * objective and (iterations > 0 or start is not None)
            if converged or iterations == max_iter:
                break
            step = -_two_loops(gradient, pairs, precondition)
            step_margins = step @ self.x.T
            step_size = self._search(margins + bias, step_margins, weights, step, -float((gradient * step).sum()))
            weights, margins = weights + step_size * step, margins + step_size * step_margins
            bias, errors = self._centre(margins, bias)
            pull = errors @ self.x
            last_gradient, gradient = gradient, tangent(pull + weights / self.c)
            if float((gradient - last_gradient).flatten() @ step.flatten()) * step_size > 0:
                pairs.append((step_size * step, gradient - last_gradient))
            iterations += 1
        return self._solution(weights, bias, margins, objective, gradient, pull, iterations, converged)

    def _solution(
        self, weights: Tensor, bias: Tensor, margins: Tensor, objective: float, gradient: Tensor, pull: Tensor,
        iterations: int, converged: bool,
    ) -> Solution:  # fmt: skip
        logits = margins + bias
        correct = ((logits > 0) == (self.z > 0))[0] if self.binary else logits.argmax(0) == self.z.argmax(0)
        norm = float(gradient.norm())
        return Solution(
            weights, bias[:, 0], objective, float(self._losses(logits)) / self.total,
            float((correct * self.weights).sum()) / self.total, norm, self.c / 2 * norm**2, iterations, converged, pull,
        )  # fmt: skip

    def _metric(self, without: Tensor | None) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """The inverse of the bound, and the projection of a gradient, both on weights orthogonal to ``without``."""

        def solve(value: Tensor) -> Tensor:
            return torch.cholesky_solve(value.T, self.factor).T

        if without is None or not len(without):
            return solve, lambda value: value
        solutions = solve(without)
        gram_factor = torch.linalg.cholesky(without @ solutions.T)

        def solve_orthogonal(value: Tensor) -> Tensor:
            solution = solve(value)
            return solution - torch.cholesky_solve(without @ solution.T, gram_factor).T @ solutions

        return solve_orthogonal, lambda value: value - (value @ without.T) @ without

    def _losses(self, logits: Tensor) -> Tensor:
        """The weighted sum of the losses of logits ``[column, row]``."""
        log_normaliser = torch.logaddexp(logits[0], torch.zeros_like(logits[0])) if self.binary else logits.logsumexp(0)
        return (log_normaliser - (self.z * logits).sum(0)) @ self.weights

    def _errors(self, probabilities: Tensor) -> Tensor:
        """The weighted errors, ``[column, row]``."""
        return (probabilities - self.z) * self.weights

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.binary else logits.softmax(0)

    def _search(self, logits: Tensor, step_margins: Tensor, weights: Tensor, step: Tensor, descent: float) -> float:
        """Nearly the minimum along a step, by Newton's method within a bracket; no pass over the rows is needed."""
        linear, square = float((weights * step).sum()) / self.c, float(step.square().sum()) / self.c
        low, high, step_size = 0.0, float("inf"), 1.0
        for _ in range(STEPS):
            probabilities = self._probabilities(logits + step_size * step_margins)
            slope = float(((probabilities - self.z) * step_margins * self.weights).sum()) + linear + step_size * square
            if abs(slope) <= FLAT * descent:
                break
            low, high = (step_size, high) if slope < 0 else (low, step_size)
            if self.binary:
                curvature = (
                    float((probabilities * (1 - probabilities) * step_margins.square() * self.weights).sum()) + square
                )
            else:
                mean_margin = (probabilities * step_margins).sum(0)
                curvature = float((probabilities * (step_margins - mean_margin).square() * self.weights).sum()) + square
            newton_size = step_size - slope / curvature if curvature else step_size
            ceiling = high if high < float("inf") else 4 * step_size
            step_size = newton_size if low < newton_size < ceiling else (low + ceiling) / 2
        return step_size

    def _centre(self, margins: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The best bias, by Newton's method with steps of 1 at most, and the classifier's weighted errors."""
        probabilities = self._probabilities(margins + bias)
        for _ in range(STEPS):
            slope = self._errors(probabilities).sum(1, keepdim=True)
            if float(slope.abs().max()) <= CENTRED * self.total:
                break
            weighted = probabilities * self.weights
            if self.binary:
                step = slope / (weighted * (1 - probabilities)).sum().clamp(min=1e-300)
            else:
                curvature = weighted.sum(1).diag() - weighted @ probabilities.T + self.total / len(bias) ** 2
                step = torch.linalg.lstsq(curvature, slope).solution
            bias = bias - step.clamp(-1, 1)
            probabilities = self._probabilities(margins + bias)
        return bias, self._errors(probabilities)


def _two_loops(
    gradient: Tensor, pairs: deque[tuple[Tensor, Tensor]], precondition: Callable[[Tensor], Tensor]
) -> Tensor:
    """The inverse Hessian times the gradient, as L-BFGS knows it."""
    remainder, coefficients = gradient, []
    for step, change in reversed(pairs):
        coefficients.append((step * remainder).sum() / (step * change).sum())
        remainder = remainder - coefficients[-1] * change
    direction = precondition(remainder)
    if pairs:
        step, change = pairs[-1]
        direction = direction * ((step * change).sum() / (change * precondition(change)).sum())
    for (step, change), size in zip(pairs, reversed(coefficients), strict=True):
        direction = direction + step * (size - (change * direction).sum() / (step * change).sum())
    return direction
