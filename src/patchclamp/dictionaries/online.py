"""Online dictionary learning: L1 codes of a batch, then block coordinate descent on the atoms."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Folder, Repeats, Seed
from patchclamp.dictionaries.alternating import AlternatingFit, Alternation
from patchclamp.dictionaries.fista import FISTA
from patchclamp.dictionaries.scaling import Whiten


@dataclass(frozen=True, eq=False)
class OnlineState(Alternation):
    """Where the method stands."""

    second: Float[Tensor, "width width"]
    """The sum of products of codes, ``A`` of the paper."""
    cross: Float[Tensor, "width d"]
    """The sum of products of codes and rows, ``B`` of the paper, transposed."""


class OnlineDictionaryLearning(AlternatingFit):
    """Minimise ``1/2 |x - c D|^2 + penalty |c|_1`` over a stream, with atoms of length 1 or less.

    Each batch gets its L1 codes by :class:`FISTA`; the sums of products of codes take them in; then every atom in turn is put
    to its optimum given the others (``sweeps`` times) and back into the unit ball. An atom that no code has used stays.

    Source: Mairal, Bach, Ponce and Sapiro 2010, "Online learning for matrix factorization and sparse coding", algorithms 1 and
    2, section 3.4.2 (forgetting).

    Args:
        width: The number of atoms.
        penalty: The weight of the sum of absolute codes, of a sample; scaled rows have a mean squared length of d.
        nonnegative: Whether codes are 0 or more.
        iterations: The largest number of steps of FISTA.
        tolerance: The share of the codes' length that a last step of FISTA may have.
        batch_size: The number of rows of a batch, where the rows are an array.
        passes: The number of times that every row of an array comes.
        rho: At batch t earlier sums are multiplied by ``(1 - 1/t) ** rho``: 0 weighs all batches alike.
        sweeps: The number of times that every atom is updated in a batch.
        centre: Whether the mean of the rows is subtracted.
        scale: Whether rows are scaled to a mean squared length of d.
        whiten: Whether and how rows are whitened.
        checkpoint: A folder in which the state is kept, and from which the same call goes on.
        random_state: What first atoms are drawn from.
    """

    def __init__(
        self, *, width: int = 512, penalty: float = 1.0, nonnegative: bool = True, iterations: Repeats = 200,
        tolerance: float = 1e-4, batch_size: int = 512, passes: Repeats = 1, rho: float = 2.0, sweeps: Repeats = 1,
        centre: bool = True, scale: bool = True, whiten: Whiten = "none", checkpoint: Folder | None = None,
        random_state: Seed = 0,
    ) -> None:  # fmt: skip
        self.width = width
        self.penalty = penalty
        self.nonnegative = nonnegative
        self.iterations = iterations
        self.tolerance = tolerance
        self.batch_size = batch_size
        self.passes = passes
        self.rho = rho
        self.sweeps = sweeps
        self.centre = centre
        self.scale = scale
        self.whiten = whiten
        self.checkpoint = checkpoint
        self.random_state = random_state

    def _check(self) -> None:
        if min(self.width, self.batch_size, self.passes, self.sweeps) < 1:
            raise InputError(
                f"width, batch_size, passes and sweeps are 1 or more; got width={self.width}, batch_size={self.batch_size}, "
                f"passes={self.passes}, sweeps={self.sweeps}"
            )
        if not 0 <= self.rho < float("inf"):
            raise InputError(f"rho is 0 or more; got {self.rho}")
        self._encoder()

    def _encoder(self) -> FISTA:
        return FISTA(self.penalty, nonnegative=self.nonnegative, iterations=self.iterations, tolerance=self.tolerance)

    def _start(self, atoms: Tensor) -> OnlineState:
        zero = atoms.new_zeros(())
        return OnlineState(atoms, 0, zero, zero, zero, atoms.new_zeros(len(atoms), len(atoms)), torch.zeros_like(atoms))

    def _step(self, state: OnlineState, x: Tensor, remaining: int | None) -> OnlineState:
        del remaining
        codes = self._encoder().codes(x, state.atoms, {}).dense()
        number = state.steps + 1
        keep = (1 - 1 / number) ** self.rho if number > 1 else 0.0
        second = torch.addmm(state.second, codes.T, codes, beta=keep)
        cross = torch.addmm(state.cross, codes.T, x, beta=keep)
        return replace(
            state, atoms=block_descent(state.atoms, second, cross, self.sweeps), steps=number, second=second, cross=cross,
            residual=(x - codes @ state.atoms).square().sum(), power=x.square().sum(),
            active=(codes != 0).sum(1).to(x.dtype).mean(),
        )  # fmt: skip


def block_descent(
    atoms: Float[Tensor, "width d"], second: Float[Tensor, "width width"], cross: Float[Tensor, "width d"], sweeps: int
) -> Float[Tensor, "width d"]:
    """Minimise ``tr(D' A D) / 2 - tr(D' B)`` over atoms of length 1 or less, one atom after the other (algorithm 2).

    Args:
        atoms: Where to begin.
        second: The products of codes, ``A``.
        cross: The products of codes and rows, ``B``.
        sweeps: How often each atom is updated.
    """
    atoms, diagonal = atoms.clone(), second.diagonal()
    scale = torch.where(diagonal > 0, diagonal, 1)
    for _ in range(sweeps):
        for j in range(len(atoms)):
            moved = atoms[j] + (cross[j] - second[j] @ atoms) / scale[j]
            atoms[j] = torch.where(diagonal[j] > 0, moved / moved.norm().clamp_min(1), atoms[j])
    return atoms
