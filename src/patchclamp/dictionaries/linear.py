"""What encoders that are trained have alike: one linear map, a rule of their own after it, and gradients written by hand."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from patchclamp.core.errors import InputError
from patchclamp.dictionaries.encoder import Encoder
from patchclamp.dictionaries.sparse import Entries


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What a training step of one dictionary sees."""

    x: Float[Tensor, "row d"]
    """Rows in the coordinates of the dictionary."""
    scores: Float[Tensor, "row width"]
    """``(x - bias) @ weight.T + offset``, perhaps in a lower precision that only serves to choose latents."""
    parameters: Mapping[str, Tensor]
    """``weight``, ``offset``, ``atoms``, ``bias``, and what else the encoder learns."""
    error_factor: float = 1.0
    """What multiplies the squared error of a row."""
    penalty_factor: float | Tensor = 1.0
    """What multiplies the penalty."""

    @property
    def centred(self) -> Float[Tensor, "row d"]:
        """Rows without the bias, as the linear map gets them."""
        return self.x - self.parameters["bias"]


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """What a training step gives."""

    gradients: dict[str, Tensor]
    """Of the loss, a mean over rows, by the name of the parameter."""
    loss: Float[Tensor, ""]
    residual: Float[Tensor, "row d"]
    """``x`` without its reconstruction."""
    active: Float[Tensor, " width"]
    """The number of rows in which each latent is active."""
    smallest: Tensor | None = None
    """The smallest value that was kept, where the encoder learns its threshold from that."""


class LinearEncoder(Encoder):
    """An encoder that begins with ``weight @ x + offset``; without weights it reads along the atoms."""

    weight_names: ClassVar[tuple[str, ...]] = ("weight", "offset")
    sparse: ClassVar[bool] = False
    """Whether its training reads few latents of each row, so that low precision may serve to choose them."""

    @abstractmethod
    def step(self, batch: TrainingBatch) -> TrainingStep:
        """The loss and its gradients, without autograd."""

    def initial(self, scores: Float[Tensor, "row width"]) -> dict[str, Tensor]:  # noqa: ARG002
        """The parameters that it learns besides ``weight`` and ``offset``, as they begin.

        Args:
            scores: The pre-activations of the first rows with the weights as they begin.
        """
        return {}

    def for_inference(
        self, parameters: Mapping[str, Tensor], threshold: Float[Tensor, ""]
    ) -> tuple[Encoder, dict[str, Tensor]]:
        """The encoder for inference and its weights.

        Args:
            parameters: What was learned.
            threshold: The running mean of the smallest value kept.
        """
        del threshold
        return self, {name: parameters[name] for name in self.weight_names}

    def scores(
        self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]
    ) -> Float[Tensor, "row width"]:
        """The linear map."""
        return linear(x, weights.get("weight", atoms), weights.get("offset"))


def check_positive(encoder: Encoder, **values: float) -> None:
    """Refuse settings that are not above 0.

    Raises:
        InputError: One is not.
    """
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{type(encoder).__name__}({name}={value!r}): {name} is a number above 0")


def sparse_step(
    batch: TrainingBatch,
    entries: Entries,
    *,
    threshold: bool = False,
    ends: Int[Tensor, " group"] | None = None,
    group_weights: Float[Tensor, " group"] | None = None,
) -> TrainingStep:
    """The squared error of ``relu`` of chosen pre-activations, and its gradients on the entries alone.

    Args:
        batch: What the step sees.
        entries: The chosen latents of each row.
        threshold: Whether to measure the smallest value kept.
        ends: With nested reconstructions, the latent before which each group ends (Matryoshka); entries sorted by latent.
        group_weights: The weight of each nested reconstruction's error.
    """
    parameters, rows = batch.parameters, len(batch.x)
    weight, atoms = parameters["weight"], parameters["atoms"]
    centred = batch.centred
    if batch.scores.dtype == batch.x.dtype:
        scores = entries.values(batch.scores)
    else:  # the choice was made in low precision; values are those of the full one
        scores = entries.products(centred, weight) + parameters["offset"][entries.latents]
    values = scores.relu()
    bags = entries if ends is None else entries.in_groups(ends)
    sums = bags.decode(values, atoms)
    if ends is None or group_weights is None:
        error = sums + parameters["bias"] - batch.x
        loss = error.square().sum() * (batch.error_factor / rows)
        to_sums = error * (2 * batch.error_factor / rows)
        to_bias = to_sums.sum(0)
    else:
        errors = sums.unflatten(0, (rows, len(ends)))
        for group in range(1, len(ends)):  # in place, which a cumulative sum is not
            errors[:, group] += errors[:, group - 1]
        errors -= centred.unsqueeze(1)
        to_groups = errors * (group_weights * (2 * batch.error_factor / rows)).unsqueeze(1)
        loss = errors.flatten().dot(to_groups.flatten()) / 2
        for group in range(len(ends) - 1, 0, -1):
            to_groups[:, group - 1] += to_groups[:, group]
        to_bias = to_groups[:, 0].sum(0)
        to_sums = to_groups.flatten(0, 1)
        error = errors[:, -1]
    to_scores = bags.products(to_sums, atoms) * (scores > 0)
    to_offset = entries.sum_values(to_scores)
    return TrainingStep(
        gradients={
            "atoms": bags.sum_rows(values, to_sums),
            "weight": entries.sum_rows(to_scores, centred),
            "offset": to_offset,
            "bias": to_bias - to_offset @ weight,
        },
        loss=loss,
        residual=-error,
        active=entries.sum_values((scores > 0).to(values.dtype)),
        smallest=torch.where(scores > 0, scores, torch.inf).min() if threshold else None,
    )


def linear_gradients(batch: TrainingBatch, to_scores: Float[Tensor, "row width"]) -> dict[str, Tensor]:
    """The gradients of the linear map, given that of its result; that of the bias through the map alone."""
    to_offset = to_scores.sum(0)
    weight = batch.parameters["weight"]
    return {"weight": to_scores.T @ batch.centred, "offset": to_offset, "bias": -(to_offset @ weight)}
