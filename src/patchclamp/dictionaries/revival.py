"""Latents that are never active, brought back: replaced by what is badly explained, or trained on it.

Neither waits for the device: which latents are idle is decided there, and read by the host only where it reports.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from patchclamp.dictionaries.initial import unit_rows
from patchclamp.dictionaries.linear import TrainingBatch, TrainingStep
from patchclamp.dictionaries.sparse import Entries, top_latents

Revival = Literal["resample", "auxk"]


def resample(
    parameters: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    moments: Mapping[str, tuple[Tensor, Tensor]],
    idle: Bool[Tensor, " width"],
    residual: Float[Tensor, "row d"],
    generator: Generator,
) -> None:
    """Give idle latents the directions of residuals, drawn without replacement and weighted by their squared length.

    The encoder reads along the new atom, at the mean length of the other latents' weights. What else is learned, as a threshold,
    begins at its mean over the other latents, the offset and both moments of Adam at zero. Where there are more idle latents than
    rows, the rest wait for the next time.

    Source: Bricken et al. 2023, "Towards monosemanticity", appendix "Neuron resampling" (there the direction of the row).
    """
    errors = residual.square().sum(1)
    uniform = torch.rand(len(errors), generator=generator, dtype=torch.float64).to(residual.device)
    # The largest of log p + Gumbel noise are a weighted sample without replacement.
    keys = errors.to(torch.float64).log() - (-uniform.log()).log()
    order = keys.argsort(descending=True)
    rank = idle.cumsum(0) - 1
    chosen = idle & (rank < len(errors))
    chosen &= errors.sum() > 0
    directions = unit_rows(residual[order[rank.clamp(0, len(errors) - 1)]])
    lengths = parameters["weight"].norm(dim=1)
    others = (lengths * ~idle).sum() / (~idle).sum().clamp_min(1)
    length = torch.where(others > 0, others, 1.0)
    new = {"atoms": directions, "weight": directions * length}
    for name, value in initial.items():
        mean = (parameters[name] * ~idle).sum() / (~idle).sum().clamp_min(1)
        new[name] = torch.where(idle.all(), value, mean)
    for name, value in parameters.items():
        if name == "bias":
            continue
        column = chosen.unsqueeze(1) if value.ndim == 2 else chosen
        value.copy_(torch.where(column, new.get(name, torch.zeros_like(value)), value))
        for moment in moments[name]:
            moment.mul_(~column)


def add_auxk(batch: TrainingBatch, step: TrainingStep, dead: Tensor, k: int, share: float) -> TrainingStep:
    """Add the loss of dead latents' own reconstruction of the residual, ``share * |residual - sum|^2``, and its gradients.

    The residual is held fixed; the gradients reach atoms, encoder, offset and (through the encoder) the bias.

    Source: Gao et al. 2024, arXiv 2406.04093, appendix A.2.

    Args:
        batch: What the step saw.
        step: What it gave.
        dead: The numbers of the dead latents, ``[dead]``; there is one at least.
        k: The number of dead latents that reconstruct each row.
        share: The weight of the loss.
    """
    atoms, weight = batch.parameters["atoms"][dead], batch.parameters["weight"][dead]
    centred = batch.centred
    scores = torch.addmm(batch.parameters["offset"][dead], centred, weight.T)
    entries = Entries.of_top(top_latents(scores, min(k, len(dead))), len(dead))
    chosen = entries.values(scores)
    values = chosen.relu()
    factor = share * batch.error_factor / len(batch.x)
    error = entries.decode(values, atoms) - step.residual
    to_sums = error * (2 * factor)
    to_scores = entries.products(to_sums, atoms) * (chosen > 0)
    to_offset = entries.sum_values(to_scores)
    gradients = dict(step.gradients)
    for name, added in (
        ("atoms", entries.sum_rows(values, to_sums)),
        ("weight", entries.sum_rows(to_scores, centred)),
        ("offset", to_offset),
    ):
        gradients[name] = gradients[name].index_add(0, dead, added)
    gradients["bias"] = gradients["bias"] - to_offset @ weight
    loss = step.loss + factor * error.square().sum()
    return TrainingStep(gradients, loss, step.residual, step.active, step.smallest)
