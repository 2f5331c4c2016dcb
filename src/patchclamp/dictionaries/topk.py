"""TopK and BatchTopK: so many latents are active, in each row or in a batch on the average."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.plain import savable
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.encoder import Encoder
from patchclamp.dictionaries.jumprelu import JumpReLU
from patchclamp.dictionaries.linear import LinearEncoder, TrainingBatch, TrainingStep, sparse_step
from patchclamp.dictionaries.sparse import Entries, top_entries, top_latents


@savable
@checked
@dataclass(frozen=True)
class TopKEncoder(LinearEncoder):
    """The ``k`` highest pre-activations of a row, where they are above zero.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv 2406.04093, section 2.3.

    Args:
        k: The number of active latents of a row.

    Raises:
        InputError: ``k`` is below 1.
    """

    k: int = 32
    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_k(self, self.k)

    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows; see :meth:`Encoder.codes`."""
        scores = self.scores(x, atoms, weights)
        latents = top_latents(scores.detach(), self.k)
        return Codes.of_top(latents, scores.gather(1, latents).relu(), len(atoms))

    def step(self, batch: TrainingBatch) -> TrainingStep:
        """The squared error and its gradients."""
        latents = top_latents(batch.scores, self.k)
        return sparse_step(batch, Entries.of_top(latents, len(batch.parameters["atoms"])))


@savable
@checked
@dataclass(frozen=True)
class BatchTopK(LinearEncoder):
    """The ``k * rows`` highest pre-activations of a batch, so that rows that need more latents have more.

    Training keeps a running mean of the smallest value kept. The dictionary that comes out has this as the one threshold of a
    :class:`JumpReLU`, so that the codes of a row do not hang on the rows beside it. Without such a threshold, on a dictionary
    from elsewhere, the rows of one call are the batch.

    Source: Bussmann, Leask & Nanda 2024, "BatchTopK sparse autoencoders", arXiv 2412.06410, section 3.

    Args:
        k: The mean number of active latents of a row.

    Raises:
        InputError: ``k`` is below 1.
    """

    k: int = 32
    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_k(self, self.k)

    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows; see :meth:`Encoder.codes`."""
        scores = self.scores(x, atoms, weights)
        if "threshold" in weights:
            return Codes.of_dense(scores * (scores > weights["threshold"]))
        entries = Entries.of_flat(top_entries(scores.detach(), self.k * len(x)), len(x), len(atoms))
        starts = torch.cat([entries.starts, entries.starts.new_full((1,), len(entries.latents))])
        return Codes(entries.latents, entries.values(scores).relu(), starts, len(atoms))

    def step(self, batch: TrainingBatch) -> TrainingStep:
        """The squared error and its gradients."""
        return sparse_step(batch, batch_entries(batch, self.k), threshold=True)

    def for_inference(
        self, parameters: Mapping[str, Tensor], threshold: Float[Tensor, ""]
    ) -> tuple[Encoder, dict[str, Tensor]]:
        """A JumpReLU with one threshold."""
        return JumpReLU(target_l0=float(self.k)), with_threshold(parameters, threshold)


def batch_entries(batch: TrainingBatch, k: int) -> Entries:
    """The ``k * rows`` highest pre-activations of a batch, sorted by row and latent."""
    rows, width = batch.scores.shape
    return Entries.of_flat(top_entries(batch.scores, k * rows), rows, width)


def with_threshold(parameters: Mapping[str, Tensor], threshold: Float[Tensor, ""]) -> dict[str, Tensor]:
    """The weights of a JumpReLU with one threshold."""
    return {"weight": parameters["weight"], "offset": parameters["offset"], "threshold": threshold}


def check_k(encoder: Encoder, k: int) -> None:
    """Refuse a number of latents below 1.

    Raises:
        InputError: It is.
    """
    if k < 1:
        raise InputError(f"{type(encoder).__name__}(k={k!r}): k is 1 or more")
