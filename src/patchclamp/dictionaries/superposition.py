"""The encoder of "Toy models of superposition": more features than dimensions, arranged by training."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Repeats, Seed, between
from patchclamp.core.result import DatasetResult, record_of_arrays

_MOST_NUMBERS = 2**28
_REPRESENTED, _ANTIPODAL = 0.5, -0.9
"""The squared length from which on a feature is represented, and the cosine below which two are an antipodal pair."""
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
    trained: Tensor = weight.detach()
    return trained


def _rows(probabilities: Tensor, count: int, generators: Sequence[Generator]) -> Float[Tensor, "model count G"]:
    """Fresh rows for each model; one draw says both whether a feature is on and how much."""
    shape, device = (count, probabilities.shape[1]), probabilities.device
    drawn = torch.stack([torch.rand(shape, generator=generator, device=device) for generator in generators])
    p = probabilities[:, None]
    return torch.where(drawn < p, drawn / p.clamp_min(torch.finfo(p.dtype).tiny), 0.0)


@dataclass(eq=False)
class Superposition(DatasetResult):
    """How encoders arrange their features while they train.

    ``data`` has dims ``active, seed, step, feature``: ``square``, the squared length of a feature's direction, and
    ``dimensionality``, the share of a dimension that it has for itself, ``|w|^2 / sum_j (w/|w| . w_j)^2``: 1 alone, 1/2 in an
    antipodal pair, d/G where all share evenly. ``loss`` (``active, seed, step``) is that of one batch, ``antipodal`` the share of
    features in antipodal pairs, and ``rms`` the root mean squared cosine of two features; features whose squared length is
    below 1/2 are in neither.
    """

    kind: ClassVar[str] = "superposition"

    def __repr__(self) -> str:
        last = self.dataset.isel(step=-1)
        means = last[["loss", "antipodal", "rms"]].mean("seed").to_dataframe()
        means["represented"] = (last["square"] > _REPRESENTED).mean(["seed", "feature"]).to_series()
        return means.to_string(float_format=lambda value: f"{value:.3f}")


@checked
def superposition(
    G: int,
    d: int,
    *,
    active: Sequence[float],
    seeds: Sequence[Seed] = (0, 1, 2, 3, 4),
    steps: Repeats = 2000,
    points: Repeats = 25,
    batch_size: Annotated[int, between(1, 10**6, "rows a step")] = 256,
    lr: float = 1e-3,
) -> Superposition:
    """Train encoders of different sparsities and seeds, and follow how they put features into superposition.

    Source: Elhage et al. 2022, "Toy models of superposition", arXiv 2209.10652: features and their dimensionality as there.

    Args:
        G: The number of features.
        d: The number of hidden dimensions.
        active: Mean numbers of features that are on in a row; each is an axis of its own.
        seeds: Of weights and batches.
        steps: Of Adam.
        points: How many steps are looked at, evenly on a logarithmic scale, and the beginning.
        batch_size: Rows of a step.
        lr: The learning rate, which stays.

    Raises:
        InputError: A feature would be always on, or a number below 1.
    """
    for name, number in {"d": d, "steps": steps, "points": points, "batch_size": batch_size}.items():
        if number < 1:
            raise InputError(f"{name} is 1 or more; got {number}")
    if not 0 < lr < float("inf"):
        raise InputError(f"lr is a number above 0; got {lr}")
    numbers = len(active) * len(seeds) * G * max(G, batch_size, points)
    if numbers > _MOST_NUMBERS:
        raise InputError(
            f"G={G}, d={d}, {len(active)} sparsities and {len(seeds)} seeds are {numbers:,} numbers at once: too many"
        )
    if G < 2 or not active or not seeds or not all(0 < count < G for count in active):
        raise InputError(
            f"of G={G} features (2 or more) between 0 and G are active; got active={list(active)}, seeds={list(seeds)}"
        )
    at = sorted({0, *(round(steps ** (point / points)) for point in range(1, points + 1))})
    seen: list[dict[str, Any]] = []
    shape = (len(active), len(seeds))

    def watch(_: int, weights: Tensor, losses: Tensor) -> None:
        seen.append(
            {
                name: value.reshape(*shape, *value.shape[1:]).cpu().numpy()
                for name, value in _geometry(weights, losses).items()
            }
        )

    probabilities = torch.tensor([count / G for count in active]).repeat_interleave(len(seeds))[:, None].expand(-1, G)
    train_encoders(
        probabilities.contiguous(), d, seeds=list(seeds) * len(active), steps=steps, batch_size=batch_size, lr=lr, decay=False,
        watch=watch, at=set(at),
    )  # fmt: skip
    if not np.isfinite(seen[-1]["loss"]).all():
        raise InputError(f"lr={lr}: the training left the numbers that a float can hold; take a smaller rate")
    import xarray as xr

    dims = ("active", "seed", "step", "feature")
    arrays = {name: np.stack([numbers[name] for numbers in seen], 2) for name in seen[0]}
    coords = {"active": list(active), "seed": list(seeds), "step": at}
    dataset = xr.Dataset({name: (dims[: array.ndim], array) for name, array in arrays.items()}, coords)
    parameters = {
        "G": G, "d": d, "active": list(active), "seeds": list(seeds), "steps": steps, "batch_size": batch_size, "lr": lr,
    }  # fmt: skip
    return Superposition(dataset, record_of_arrays(parameters))


def _geometry(weights: Float[Tensor, "model G d"], losses: Float[Tensor, " model"]) -> dict[str, Tensor]:
    squares = weights.square().sum(2)
    unit = torch.nn.functional.normalize(weights, dim=2)
    shared = (unit @ weights.transpose(1, 2)).square().sum(2)
    cosines = unit @ unit.transpose(1, 2)
    features = cosines.shape[1]
    both = (
        (squares > _REPRESENTED)[:, :, None]
        & (squares > _REPRESENTED)[:, None]
        & ~torch.eye(features, dtype=torch.bool, device=weights.device)
    )
    pairs = both.sum((1, 2)).clamp_min(1)
    antipodal = ((cosines < _ANTIPODAL) & both).any(2).float().mean(1)
    return {
        "square": squares, "dimensionality": squares / shared.clamp_min(torch.finfo(shared.dtype).tiny), "loss": losses,
        "antipodal": antipodal, "rms": (torch.where(both, cosines.square(), 0.0).sum((1, 2)) / pairs).sqrt(),
    }  # fmt: skip
