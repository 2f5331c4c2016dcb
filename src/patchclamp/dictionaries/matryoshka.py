"""Matryoshka BatchTopK: the first latents alone, more of them, and all of them each reconstruct the row."""

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
from patchclamp.dictionaries.topk import BatchTopK, batch_entries, check_k, with_threshold


@savable
@checked
@dataclass(frozen=True)
class MatryoshkaBatchTopK(LinearEncoder):
    """BatchTopK whose loss is the mean of several nested reconstructions' squared errors.

    General features come to stand in the first groups, and are less absorbed by special ones.

    Source: Bussmann, Nabeshima, Karvonen & Nanda 2025, "Learning multi-level features with Matryoshka sparse autoencoders",
    arXiv 2503.17547, section 3.

    Args:
        k: The mean number of active latents of a row.
        groups: The share of the latents that each group has, from the first; together 1.

    Raises:
        InputError: ``k`` is below 1, or the shares are no shares.
    """

    k: int = 32
    groups: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 9 / 16)
    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_k(self, self.k)
        if not self.groups or min(self.groups) <= 0 or abs(sum(self.groups) - 1) > 1e-6:
            raise InputError(f"groups={self.groups!r}: the groups' shares of the latents are above 0 and add up to 1")

    def ends(self, width: int) -> list[int]:
        """The latent before which each group ends."""
        ends, share = [], 0.0
        for group in self.groups:
            share += group
            ends.append(round(share * width))
        return ends

    def check(self, width: int) -> None:
        """Refuse a width for which a group would be empty; see :meth:`Encoder.check`."""
        super().check(width)
        ends = self.ends(width)
        if any(end <= begin for begin, end in zip([0, *ends], ends, strict=False)):
            raise InputError(
                f"groups={self.groups!r} of a dictionary of {width} latents end at {ends}: a group has no latent; "
                "take fewer groups, or a wider dictionary"
            )

    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows, as :class:`BatchTopK` has them."""
        return BatchTopK(self.k).codes(x, atoms, weights)

    def step(self, batch: TrainingBatch) -> TrainingStep:
        """The mean of the nested reconstructions' squared errors, and its gradients."""
        entries = batch_entries(batch, self.k)
        ends = torch.tensor(self.ends(entries.width), device=batch.x.device)
        weights = batch.x.new_full((len(self.groups),), 1 / len(self.groups))
        return sparse_step(batch, entries, threshold=True, ends=ends, group_weights=weights)

    def for_inference(
        self, parameters: Mapping[str, Tensor], threshold: Float[Tensor, ""]
    ) -> tuple[Encoder, dict[str, Tensor]]:
        """A JumpReLU with one threshold."""
        return JumpReLU(target_l0=float(self.k)), with_threshold(parameters, threshold)
