"""K-SVD: codes by orthogonal matching pursuit, then each atom with its codes by a singular vector of what the others leave."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Repeats, Seed
from patchclamp.core.progress import task
from patchclamp.dictionaries.decompositions import HeldRowsFit
from patchclamp.dictionaries.dictionary import Dictionary
from patchclamp.dictionaries.pursuit import OMP, check_rank
from patchclamp.dictionaries.scaling import RowScaling


class KSVD(HeldRowsFit):
    """Dictionary learning by K-SVD, with codes of both signs.

    Each iteration codes all rows by :class:`OMP`; then, atom by atom, the residual that the other atoms leave on the rows that
    use it is replaced by its best approximation of rank 1, which is the new atom and its new codes. An atom that no row uses
    becomes the row that is explained worst. Rows are held in memory.

    Source: Aharon, Elad and Bruckstein 2006, "K-SVD: an algorithm for designing overcomplete dictionaries for sparse
    representation", figure 2.

    Args:
        width: The number of atoms.
        k: The largest number of active atoms of a row.
        iterations: The number of times that codes and atoms are updated.
        rows: The largest number of rows that are read.
        centre: Whether the mean of the rows is subtracted.
        random_state: What the order of an array's rows and the first atoms are drawn from.
    """

    def __init__(
        self, *, width: int = 64, k: int = 4, iterations: Repeats = 20, rows: int = 65_536, centre: bool = True,
        random_state: Seed = 0,
    ) -> None:  # fmt: skip
        self.width = width
        self.k = k
        self.iterations = iterations
        self.rows = rows
        self.centre = centre
        self.random_state = random_state

    def _decompose(self, x: Tensor) -> Dictionary:
        encoder = OMP(self.k, nonnegative=False)
        encoder.check(self.width)
        check_rank(self, self.k, x.shape[1])
        if self.iterations < 1:
            raise InputError(f"iterations is 1 or more; got {self.iterations}")
        scaling = RowScaling.of(x, centre=self.centre, scale=False)
        rows = scaling(x)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.random_state)).to(rows.device)
        nonzero = order[rows[order].norm(dim=1) > 0]
        if not len(nonzero):
            raise InputError(
                f"the squares of these rows are below what {rows.dtype} holds: multiply them by a number before"
            )
        atoms = normalize(rows[nonzero[torch.arange(self.width, device=rows.device) % len(nonzero)]])
        with torch.no_grad(), task("dictionary", self.iterations, "iterations") as bar:
            for _ in range(self.iterations):
                atoms, _ = update_atoms(rows, atoms, encoder.codes(rows, atoms, {}).dense())
                bar.advance()
        return Dictionary(atoms, encoder, scaling=scaling)


def update_atoms(
    x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], codes: Float[Tensor, "row width"]
) -> tuple[Float[Tensor, "width d"], Float[Tensor, "row width"]]:
    """One round of atom updates; codes keep their zeros.

    Args:
        x: The rows.
        atoms: The atoms before.
        codes: Their codes of the rows.

    Returns:
        The new atoms, of length 1, and the new codes.
    """
    atoms, codes = atoms.clone(), codes.clone()
    residual = x - codes @ atoms
    for j in range(len(atoms)):
        users = codes[:, j].nonzero().squeeze(1)
        if not len(users):
            worst = residual.square().sum(1).argmax()
            if float(residual[worst].norm()) > 0 and float(x[worst].norm()) > 0:
                atoms[j] = normalize(x[worst], dim=0)
            continue
        restricted = residual[users] + codes[users, j : j + 1] * atoms[j]
        left, size, right = torch.linalg.svd(restricted, full_matrices=False)
        sign = torch.where(left[:, 0] @ codes[users, j] < 0, -1.0, 1.0)
        atoms[j], codes[users, j] = sign * right[0], sign * size[0] * left[:, 0]
        residual[users] = restricted - codes[users, j : j + 1] * atoms[j]
    return atoms, codes
