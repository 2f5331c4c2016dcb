"""Codes of rows: which latents of a dictionary are active in each row, and how much, without the zeros."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from patchclamp.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Codes:
    """The active latents of some rows, row after row: what scipy calls a compressed sparse row matrix.

    A row may have any number of active latents, so that every encoder writes the same form. Values that require gradients stay
    in the computation that made them.
    """

    latents: Int[Tensor, " active"]
    """The latent of each entry, ordered by row."""
    values: Float[Tensor, " active"]
    """How much that latent is active in its row."""
    starts: Int[Tensor, " row_and_end"]
    """Where the entries of each row begin, and at last where all entries end."""
    width: int
    """The number of latents that the dictionary has."""

    @classmethod
    def of_dense(cls, dense: Float[Tensor, "row width"]) -> Self:
        """Keep the entries that are not zero."""
        active = dense != 0
        counts = active.sum(1)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(active.nonzero()[:, 1], dense[active], starts, dense.shape[1])

    @classmethod
    def of_top(cls, latents: Int[Tensor, "row k"], values: Float[Tensor, "row k"], width: int) -> Self:
        """Make codes of equally many entries a row; zeros among the values stay as entries."""
        rows, k = latents.shape
        starts = torch.arange(0, rows * k + 1, k, device=latents.device) if k else latents.new_zeros(rows + 1)
        return cls(latents.reshape(-1), values.reshape(-1), starts, width)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.starts) - 1

    @cached_property
    def rows(self) -> Int[Tensor, " active"]:
        """The row of each entry."""
        counts = self.starts.diff()
        return torch.repeat_interleave(torch.arange(len(self), device=counts.device), counts)

    def dense(self) -> Float[Tensor, "row width"]:
        """The codes with their zeros."""
        dense = self.values.new_zeros(len(self), self.width)
        return dense.index_put((self.rows, self.latents), self.values)

    def counts(self) -> Int[Tensor, " row"]:
        """The number of latents of each row that are not zero (its L0)."""
        counts = torch.zeros(len(self), dtype=torch.int64, device=self.values.device)
        return counts.index_add(0, self.rows, (self.values != 0).to(torch.int64))

    def firings(self) -> Int[Tensor, " width"]:
        """The number of rows in which each latent is not zero."""
        return torch.bincount(self.latents[self.values != 0], minlength=self.width)

    def decode(self, atoms: Float[Tensor, "width d"]) -> Float[Tensor, "row d"]:
        """The weighted sum of each row's atoms; only active atoms are read.

        Raises:
            InputError: The dictionary has another number of atoms.
        """
        if len(atoms) != self.width:
            raise InputError(f"these codes are of a dictionary of {self.width} latents; this one has {len(atoms)}")
        if not len(self.latents):
            return atoms.new_zeros(len(self), atoms.shape[1]) + 0 * self.values.sum()
        values = self.values.to(atoms.dtype)
        return embedding_bag(self.latents, atoms, self.starts[:-1], mode="sum", per_sample_weights=values)
