"""The value that a rewrite stores: found by gradient, at the output of one layer's MLP."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from patchclamp.core.arguments import checked_as
from patchclamp.core.errors import InputError, ModelError
from patchclamp.core.interrupts import guarded, under
from patchclamp.core.kinds import Repeats
from patchclamp.interventions import Apply, Tail, widen

TERMS = ("loss", "nll", "kl", "decay", "target_probability", "norm")


@checked_as(InputError, "rewrite_fact")
@dataclass(frozen=True)
class Search:
    """The settings of the search for a value, as :meth:`patchclamp.Model.rewrite_fact` says.

    With the defaults all validation facts of SmolLM2-135M were learnt (docs/editing.md).
    """

    steps: Repeats = 25
    lr: float = 0.5
    kl: float = 0.0625
    decay: float = 0.05
    clamp: float = 4.0
    enough: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is 1 or more; got {self.steps!r}")
        for name in ("lr", "clamp"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a finite number above 0; got {getattr(self, name)!r}")
        for name in ("kl", "decay", "enough"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a finite number, 0 or more; got {getattr(self, name)!r}")


class ValueShift(nn.Module):
    """The map ``x + change``, of which the change is trained."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros_like(like))

    def forward(self, x: Tensor) -> Tensor:
        """The shifted vectors."""
        return x + self.change.to(x.dtype)


@under(torch.enable_grad)
def search(
    tail: Tail, contexts: int, target: int, value: Tensor, settings: Search, report_step: Callable[[], None]
) -> tuple[Tensor, dict[str, list[float]]]:
    """Search for the change of a value that makes the target likely.

    ``nll + kl * D(edited || unedited) + decay * |change|^2 / |value|^2`` is minimised by Adam, the change being held within
    a ball. ``nll`` is the mean surprisal of the target over the contexts, ``D`` that of the prompts after them.

    Source: Meng et al. 2022, arXiv 2202.05262, section 3.1, step 2.

    Args:
        tail: The contexts, and after them the essence prompts, edited at the subject's last token.
        contexts: The number of the prompts that are contexts.
        target: The token of the target.
        value: The value that the projection gives now, ``[d_model]`` float64: the scale of everything.
        settings: The weights, steps and bounds.
        report_step: A function that is called after each step.

    Returns:
        The change ``[d_model]`` in float64, and each step's terms, the last entry being that of the change returned.

    Raises:
        ModelError: The loss is not a number.
    """
    length = float(value.norm())
    scale = length / value.numel() ** 0.5
    shift = ValueShift(value.to(tail.model.device, torch.promote_types(tail.model.dtype, torch.float32)))
    optimizer = torch.optim.Adam([shift.change], lr=settings.lr * scale)
    curve: dict[str, list[float]] = {name: [] for name in TERMS}
    unedited: Tensor | None = None
    for step in range(settings.steps + 1):
        logits = widen(tail.logits(Apply(shift))).log_softmax(-1)
        unedited = logits[contexts:].detach() if unedited is None else unedited
        nll = -logits[:contexts, target].mean()
        edited = logits[contexts:]
        divergence = (edited.exp() * (edited - unedited)).sum(-1).mean() if len(edited) else nll.new_zeros(())
        decay = shift.change.square().sum() / length**2
        loss = nll + settings.kl * divergence + settings.decay * decay
        if not bool(torch.isfinite(loss)):
            raise ModelError(
                f"the search for a value met a loss of {loss.item()} at step {step}; is the model in half precision?"
            )
        terms: tuple[Any, ...] = (
            loss,
            nll,
            divergence,
            decay,
            logits[:contexts, target].exp().mean(),
            shift.change.norm(),
        )
        for name, item in zip(TERMS, terms, strict=True):
            curve[name].append(float(item.detach()))
        if step == settings.steps or float(nll.detach()) < settings.enough:
            break
        (shift.change.grad,) = torch.autograd.grad(loss, [shift.change])
        optimizer.step()
        with guarded(torch.no_grad()):
            shift.change.mul_(min(1.0, settings.clamp * length / max(float(shift.change.norm()), 1e-30)))
        report_step()
    return shift.change.detach().to("cpu", torch.float64), curve
