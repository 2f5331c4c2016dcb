"""Adversarial examples of a classifier: one step along the gradient's sign, or many projected ones."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, ModelError, check_choice
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Labels, Points, Repeats, Seed
from patchclamp.core.readers import UnfitError, shown, tensor
from patchclamp.interventions import logits_of
from patchclamp.models.guard import check_ready
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.points import as_points

Method = Literal["fgsm", "pgd"]
Norm = Literal["linf", "l2"]
BATCH = 250


@checked
def attack(
    model: OpenModel,
    points: Points,
    labels: Labels,
    *,
    eps: float,
    method: Method = "pgd",
    norm: Norm = "linf",
    steps: Repeats = 20,
    rate: float | None = None,
    box: tuple[float, float] | None = None,
    seed: Seed | None = None,
    lower: bool = False,
) -> Tensor:
    """Points within ``eps`` of given ones at which the loss of their labels is larger.

    Args:
        model: A classifier of tensors: ``[row, *shape] -> [row, class]``.
        points: ``[point, *shape]``.
        labels: The class of each point, ``[point]``.
        eps: Radius of the ball.
        method: ``"fgsm"``: one step of length ``eps`` along the gradient (its sign for ``"linf"``; Goodfellow et al. 2015).
            ``"pgd"``: many, each projected back into the ball; of the points on the way the one of largest loss is kept
            (Madry et al. 2018).
        norm: The norm of the ball: the largest coordinate, or Euclidean.
        steps: The number of steps of PGD.
        rate: Length of a step of PGD; ``2.5 eps / steps`` by default.
        box: Smallest and largest coordinate of the results, as ``(0, 1)`` for images.
        seed: The seed of a random start inside the ball for PGD; None starts at the point.
        lower: Make the loss smaller instead: a control as sensitive as an attack, which attacks nothing.

    Returns:
        ``[point, *shape]`` on the points' device, in the weights' precision.

    Raises:
        InputError: ``eps``, ``rate`` or ``steps`` is not positive, labels are missing or no classes, or a point is outside the box.
        ModelError: The network is no classifier.
    """
    x, truth = classifier_inputs(model, points, labels, box)
    check_attack(eps, method, norm, steps, rate)
    if method == "fgsm":
        batches = [
            _clip(rows + _steepest_direction(_log_odds_gradient(model, rows, row_labels, lower)[1], norm) * eps, box)
            for rows, row_labels in zip(x.split(BATCH), truth.split(BATCH), strict=True)
        ]
        return torch.cat(batches)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    step_length = 2.5 * eps / steps if rate is None else rate
    batches = []
    for rows, row_labels in zip(x.split(BATCH), truth.split(BATCH), strict=True):
        starts = rows if generator is None else _clip(rows + _random_in_ball(rows, eps, norm, generator), box)
        batches.append(_ascend(model, rows, starts, row_labels, eps, norm, steps, step_length, box, lower))
    return torch.cat(batches)


def check_attack(eps: float, method: str, norm: str, steps: int, rate: float | None) -> None:
    """Refuse an attack that is none.

    Raises:
        InputError: With the value.
    """
    check_choice("attack", method, ("fgsm", "pgd"))
    check_choice("norm", norm, ("linf", "l2"))
    if not 0 < eps < float("inf"):
        raise InputError(f"eps = {eps}: the radius of the ball must be a positive number")
    if steps < 1 or (rate is not None and not 0 < rate < float("inf")):
        raise InputError(f"an attack takes one step or more, of positive length; got steps={steps}, rate={rate}")


def whole_labels(labels: Any) -> Tensor:
    """Labels of a classifier as a tensor.

    Raises:
        InputError: They are no numbers.
    """
    try:
        label_tensor: Tensor = tensor(labels)
    except UnfitError as unfit:
        raise InputError(
            f"labels={shown(labels)} cannot be used; valid: whole numbers of outputs, from 0{unfit.reason}"
        ) from None
    return label_tensor


def classifier_inputs(
    model: OpenModel, points: Any, labels: Any, box: tuple[float, float] | None = None
) -> tuple[Tensor, Tensor]:
    """Points and labels of a classifier, checked.

    Raises:
        InputError: Labels are missing, too few, or no classes; a point does not fit.
        ModelError: The network gives no row of two or more logits a point.
    """
    if labels is None:
        raise InputError("labels are missing: an attack raises the loss of a label, so each point needs one")
    if not len(points):
        raise InputError("no points were given")
    check_ready(model.module)
    x = as_points(model, list(points), box=box)
    truth = whole_labels(labels).to(x.device)
    if truth.shape != (len(x),) or truth.is_floating_point():
        raise InputError(
            f"{len(x)} points need as many whole numbers as labels; got shape {tuple(truth.shape)}, {truth.dtype}"
        )
    try:
        with guarded(torch.no_grad()):
            logits = logits_of(model.module(x[:1]))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the network takes no points of shape {tuple(x.shape[1:])}: {reason}") from None
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ModelError(
            f"the network is no classifier: for one point it gives the shape {tuple(logits.shape)}, not [1, classes]"
        )
    invalid = (truth < 0) | (truth >= logits.shape[1])
    if bool(invalid.any()):
        raise InputError(f"label {int(truth[invalid][0])} is outside the classes 0..{logits.shape[1] - 1}")
    return x, truth.long()


def _log_odds_gradient(model: OpenModel, x: Tensor, truth: Tensor, lower: bool) -> tuple[Tensor, Tensor]:
    """The objective that the attack raises, ``[point]``, and its gradient: the log-odds against the label, or minus that.

    The cross-entropy is their softplus: it grows with them, but its gradient vanishes where the network is sure.
    """
    with guarded(torch.enable_grad()):
        rows = x.detach().requires_grad_()
        logits = logits_of(model.module(rows))
        label_mask = F.one_hot(truth, logits.shape[1]).bool()
        odds = logits.masked_fill(label_mask, -torch.inf).logsumexp(1) - logits[label_mask]
        odds = -odds if lower else odds
        (gradient,) = torch.autograd.grad(odds.sum(), rows)
    return odds.detach(), gradient


def _steepest_direction(gradient: Tensor, norm: str) -> Tensor:
    """The step of length 1 along which the loss rises the most."""
    if norm == "linf":
        return gradient.sign()
    return gradient / _lengths(gradient).clamp(min=1e-12)


def _ascend(
    model: OpenModel, centre: Tensor, start: Tensor, truth: Tensor, eps: float, norm: str, steps: int, rate: float, box: Any,
    lower: bool,
) -> Tensor:  # fmt: skip
    x, best = start, start
    best_odds = torch.full_like(truth, -torch.inf, dtype=centre.dtype)
    for step in range(steps + 1):
        odds, gradient = _log_odds_gradient(model, x, truth, lower)
        better = (odds > best_odds).reshape(-1, *[1] * (x.dim() - 1))
        best, best_odds = torch.where(better, x, best), torch.maximum(odds, best_odds)
        if step < steps:
            candidate = x + rate * _steepest_direction(gradient, norm)
            x = _clip(centre + _project(candidate - centre, eps, norm), box)
    return best


def _project(offset: Tensor, eps: float, norm: str) -> Tensor:
    if norm == "linf":
        return offset.clamp(-eps, eps)
    return offset * (eps / _lengths(offset).clamp(min=eps))


def _random_in_ball(x: Tensor, eps: float, norm: str, generator: torch.Generator) -> Tensor:
    """Draw offsets that are uniform in the ball."""
    if norm == "linf":
        return (2 * torch.rand(x.shape, generator=generator).to(x) - 1) * eps
    direction = torch.randn(x.shape, generator=generator).to(x)
    radius = torch.rand(len(x), *[1] * (x.dim() - 1), generator=generator).to(x) ** (1 / x[0].numel())
    return direction / _lengths(direction) * radius * eps


def _lengths(x: Tensor) -> Tensor:
    lengths: Tensor = x.flatten(1).norm(dim=1)
    return lengths.reshape(-1, *[1] * (x.dim() - 1))


def _clip(x: Tensor, box: tuple[float, float] | None) -> Tensor:
    return x if box is None else x.clamp(*box)
