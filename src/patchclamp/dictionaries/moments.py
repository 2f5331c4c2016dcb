"""What batches of sparse codes leave behind: the sums from which atoms follow in closed form."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True, eq=False)
class CodeMoments:
    """Sums over rows, in which later rows may weigh more: all that least squares for the atoms asks of the rows."""

    second: Float[Tensor, "width width"]
    """The products of codes, ``sum_row c c'``."""
    cross: Float[Tensor, "width d"]
    """The products of codes and rows, ``sum_row c x'``."""

    @classmethod
    def zeros(cls, atoms: Float[Tensor, "width d"]) -> "CodeMoments":
        """The sums of no rows."""
        return cls(atoms.new_zeros(len(atoms), len(atoms)), torch.zeros_like(atoms))

    def updated(
        self,
        x: Float[Tensor, "row d"],
        latents: Int[Tensor, "row k"],
        values: Float[Tensor, "row k"],
        forgetting: float = 1.0,
    ) -> "CodeMoments":
        """With more rows; what was there before is multiplied by ``forgetting``.

        Args:
            x: The rows.
            latents: The latents of each row's codes; where a value is 0, any.
            values: The codes.
            forgetting: Between 0 (only the new rows count) and 1 (all rows count alike).
        """
        width = len(self.cross)
        pairs = (latents.unsqueeze(2) * width + latents.unsqueeze(1)).flatten()
        products = (values.unsqueeze(2) * values.unsqueeze(1)).flatten()
        second = (forgetting * self.second).view(-1).index_add(0, pairs, products).view(width, width)
        order = torch.argsort(latents.flatten(), stable=True)  # so that each atom's rows are one sum, in a fixed order
        counts = torch.bincount(latents.flatten(), minlength=width)
        rows, weights = order // latents.shape[1], values.flatten()[order]
        added = embedding_bag(rows, x, counts.cumsum(0) - counts, mode="sum", per_sample_weights=weights)
        return CodeMoments(second, torch.add(added, self.cross, alpha=forgetting))

    def least_squares(self, atoms: Float[Tensor, "width d"], damping: float) -> Float[Tensor, "width d"]:
        """The atoms with the least sum of squared residuals.

        Args:
            atoms: The atoms until now, from which damping measures; what no code uses stays as it is.
            damping: The weight of the squared distance from them, in units of the mean of an atom's squared codes.
        """
        diagonal = self.second.diagonal()
        ridge = torch.where(diagonal > 0, damping * diagonal.mean(), 1)
        factor = torch.linalg.cholesky_ex(self.second + torch.diag(ridge))[0]
        return torch.cholesky_solve(torch.addcmul(self.cross, ridge.unsqueeze(1), atoms), factor)

    def rescaled(self, factors: Float[Tensor, " width"]) -> "CodeMoments":
        """The sums for codes that are multiplied by ``factors``: by 0 where an atom is another one from now on."""
        return CodeMoments(factors.unsqueeze(1) * self.second * factors, factors.unsqueeze(1) * self.cross)
