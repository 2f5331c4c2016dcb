"""The encoder of "Toy models of superposition": more features than dimensions, arranged by training."""

from collections.abc import Callable, Collection, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

Watch = Callable[[int, Float[Tensor, "model G d"], Float[Tensor, " model"]], None]
"""Gets the number of steps done, the weights, and the loss of each model on the last batch."""


def train_encoders(
    probabilities: Float[Tensor, "model G"],
    d: int,
    *,
    seeds: Sequence[int],
    importance: Float[Tensor, " G"] | None = None,
    steps: int = 2000,
    batch_size: int = 512,
    lr: float = 1e-2,
    decay: bool = True,
    watch: Watch | None = None,
    at: Collection[int] = (),
) -> Float[Tensor, "model G d"]:
    """Train many encoders at once: ``x' = ReLU(x W W^T + b)`` is to be ``x``, whose features are U[0, 1] where they are on.

    A model's numbers do not hang on those beside it: each has a generator of its own.

    Source: Elhage et al. 2022, "Toy models of superposition", arXiv 2209.10652, section 2: Adam on
    ``sum_i importance_i (x_i - x'_i)^2``.

    Args:
        probabilities: How often each feature is on.
        d: The number of hidden dimensions.
        seeds: One a model: of its weights and its batches.
        importance: What an error in each feature costs; 1 by default.
        steps: Of Adam.
        batch_size: Rows of a step.
        lr: The learning rate.
        decay: Whether the learning rate falls linearly to 0 in the second half.
        watch: Called at the steps of ``at``.
        at: Numbers of steps done, 0 for the beginning.

    Returns:
        The direction of each feature, not normalised.
    """
    models, features = probabilities.shape
    device = probabilities.device
    generators = [Generator(device).manual_seed(seed) for seed in seeds]
    deviation = (2 / (features + d)) ** 0.5  # Xavier's
    start = [torch.randn(features, d, generator=generator, device=device) for generator in generators]
    weight = (deviation * torch.stack(start)).requires_grad_()
    bias = torch.zeros(models, 1, features, device=device, requires_grad=True)
    costs = torch.ones(features, device=device) if importance is None else importance
    optimiser = torch.optim.Adam([weight, bias], lr=lr, fused=True)
    for step in range(steps + 1):
        x = _rows(probabilities, batch_size, generators)
        output = torch.relu(torch.baddbmm(bias, x @ weight, weight.transpose(1, 2)))
        losses = ((output - x).square() * costs).sum(2).mean(1)
        if watch is not None and step in at:
            watch(step, weight.detach(), losses.detach())
        if step == steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - step / steps)) if decay else lr
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
    return weight.detach()


def _rows(probabilities: Tensor, count: int, generators: Sequence[Generator]) -> Float[Tensor, "model count G"]:
    """Fresh rows for each model; one draw says both whether a feature is on and how much."""
    shape, device = (count, probabilities.shape[1]), probabilities.device
    drawn = torch.stack([torch.rand(shape, generator=generator, device=device) for generator in generators])
    p = probabilities[:, None]
    return torch.where(drawn < p, drawn / p.clamp_min(torch.finfo(p.dtype).tiny), 0.0)
