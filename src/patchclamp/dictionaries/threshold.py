"""Codes in one pass: correlations with the atoms, of which the large ones are kept."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.plain import savable
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.encoder import Encoder


@savable
@checked
@dataclass(frozen=True)
class Threshold(Encoder):
    """The correlations of a row with the atoms that are above ``value``, or the ``k`` largest of them.

    Each code is the least squares code of its atom alone, ``x . atom / |atom|^2``; which atoms are kept is decided by what they
    explain alone, so by the correlation with the atom at unit length. It is exact where atoms are orthogonal. The codes carry no
    gradient.

    Source: hard thresholding as in Schnass 2015, "Local identification of overcomplete dictionaries", with atoms of any length.

    Args:
        value: Correlations with unit atoms at or below it are left out.
        k: The number of correlations that are kept a row, if not those above a value.
        nonnegative: Whether only positive correlations count.

    Raises:
        InputError: Both a value and k, or neither; a negative value, or k below 1.
    """

    value: float | None = None
    k: int | None = None
    nonnegative: bool = True

    def __post_init__(self) -> None:
        if (self.value is None) == (self.k is None):
            raise InputError(f"Threshold needs a value or k, one of them; got value={self.value}, k={self.k}")
        if self.value is not None and not 0 <= self.value < float("inf"):
            raise InputError(f"Threshold(value={self.value}): a correlation to exceed is 0 or more")
        if self.k is not None and self.k < 1:
            raise InputError(f"Threshold(k={self.k}): one atom or more is kept")

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows; weights of other encoders are not read."""
        del weights
        lengths = atoms.norm(dim=1).clamp_min(torch.finfo(atoms.dtype).tiny)
        correlations = x @ (atoms / lengths.unsqueeze(1)).T
        size = correlations if self.nonnegative else correlations.abs()
        if self.k is None:
            return Codes.of_dense(torch.where(size > self.value, correlations / lengths, 0))
        best, latents = size.topk(self.k, 1)
        values = torch.where(best > 0, correlations.gather(1, latents) / lengths[latents], 0)
        return Codes.of_top(latents, values, len(atoms))

    def rescaled(self, factor: float) -> Self:
        """The value is one of rows, and grows with them; see :meth:`Encoder.rescaled`."""
        return self if self.value is None else replace(self, value=self.value * factor)


@savable
@checked
@dataclass(frozen=True)
class LinearCoordinates(Encoder):
    """The least squares codes on all atoms at once, without a choice: coordinates, as of principal components.

    Where there are more atoms than numbers in a row they are the shortest such codes. The codes carry no gradient.
    """

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows; weights of other encoders are not read."""
        del weights
        return Codes.of_dense(x @ torch.linalg.pinv(atoms))


@savable
@checked
@dataclass(frozen=True)
class NearestAtom(Encoder):
    """A code of 1 for the atom nearest to the row, as for the centres of clusters. The codes carry no gradient."""

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows; weights of other encoders are not read."""
        del weights
        latents = torch.addmm(atoms.square().sum(1) / 2, x, atoms.T, alpha=-1).argmin(1, keepdim=True)
        return Codes.of_top(latents, torch.ones_like(latents, dtype=x.dtype), len(atoms))
