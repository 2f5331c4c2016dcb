"""Orthogonal matching pursuit on fixed atoms, also for codes of 0 or more, for many rows at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.plain import savable
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.encoder import Encoder
from patchclamp.dictionaries.nnls import nonnegative_least_squares

LANES = 64
"""The largest correlation is sought among this many running maxima, which vector instructions keep side by side."""
ROUNDING = 16
"""A correlation or a squared distance below this many times the type's resolution is rounding."""
GRAM_ENTRIES = 2**28
"""From this many on the products of all pairs of atoms are not stored, and those needed are computed."""
BLOCK_ENTRIES = 2**20
"""So many correlations are alive at once on a processor, so that they stay in its cache."""


@savable
@checked
@dataclass(frozen=True)
class OMP(Encoder):
    """Orthogonal matching pursuit: the atom that fits what is left best, then least squares on all atoms chosen so far.

    Each of at most ``k`` rounds adds, row by row, the atom with the largest correlation with the residual (in absolute value
    unless ``nonnegative``), atoms taken at unit length; then the codes are the least squares solution on the chosen atoms
    (subject to codes of 0 or more if ``nonnegative``). A row ends early when nothing correlates any more, when the next atom
    is a combination of those chosen, or at ``tolerance``. An atom whose code the constraint puts to 0 stays chosen, counts
    among the ``k``, and can come back in a later round. Atoms may have any length; codes are for the atoms as they are.

    All rows go side by side: correlations come from the products of all pairs of atoms, and the factor of the chosen atoms
    grows by a row a round ("batch OMP"). A round of ``nonnegative`` codes waits for the device once, to learn which rows break the
    constraint. The codes carry no gradient. Below about ten times the type's resolution a tolerance is rounding.

    Sources: Pati, Rezaiifar and Krishnaprasad 1993; Rubinstein, Zibulevsky and Elad 2008, "Efficient implementation of the
    K-SVD algorithm using batch orthogonal matching pursuit"; for codes of 0 or more, Bruckstein, Elad and Zibulevsky 2008, "On the
    uniqueness of nonnegative sparse solutions to underdetermined systems of equations", algorithm OMP with constraint.

    Args:
        k: The largest number of atoms a row.
        nonnegative: Whether codes are 0 or more.
        tolerance: A row ends when its squared residual is at most this share of its squared length.

    Raises:
        InputError: ``k`` below 1, or a tolerance outside of 0..1.
    """

    k: int
    nonnegative: bool = True
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"OMP(k={self.k}): a pursuit chooses one atom or more a row")
        if self.tolerance is not None and not 0 <= self.tolerance < 1:
            raise InputError(
                f"OMP(tolerance={self.tolerance}): a share of the squared length is at least 0 and below 1"
            )

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows; weights of other encoders are not read.

        Raises:
            InputError: More atoms a row than the rows have numbers.
        """
        del weights
        check_rank(self, self.k, atoms.shape[1])
        dtype = torch.promote_types(atoms.dtype, torch.float32)
        lengths = atoms.to(dtype).norm(dim=1)
        table = AtomTable.of(atoms.to(dtype) / lengths.clamp_min(torch.finfo(dtype).tiny).unsqueeze(1))
        choice = pursue(x.to(dtype), table, self.k, nonnegative=self.nonnegative, tolerance=self.tolerance)
        is_active = choice.values != 0
        latents = choice.latents[is_active]
        starts = torch.cat([latents.new_zeros(1), is_active.sum(1).cumsum(0)])
        return Codes(latents, (choice.values[is_active] / lengths[latents]).to(x.dtype), starts, len(atoms))


def check_rank(holder: object, k: int, d: int) -> None:
    """Refuse to solve for more codes of a row than it has numbers.

    Raises:
        InputError: ``k`` above ``d``.
    """
    if k > d:
        raise InputError(
            f"{type(holder).__name__}(k={k}): rows of width {d} are explained by {d} atoms whatever they are"
        )


@dataclass(frozen=True, eq=False)
class AtomTable:
    """Unit atoms, with what a pursuit asks of them again and again."""

    atoms: Float[Tensor, "width d"]
    padded: Float[Tensor, "padded d"]
    """The atoms, and zeros up to a multiple of the lanes."""
    gram: Float[Tensor, "padded padded"] | None
    """The products of all pairs, unless there are too many."""

    @classmethod
    def of(cls, atoms: Float[Tensor, "width d"]) -> "AtomTable":
        """Prepare unit atoms."""
        padded = pad(atoms, (0, 0, 0, -len(atoms) % LANES))
        return cls(atoms, padded, padded @ padded.T if len(padded) ** 2 <= GRAM_ENTRIES else None)

    def products(self, new: Int[Tensor, " row"], chosen: Int[Tensor, "s row"]) -> Float[Tensor, "s row"]:
        """The products of one atom a row with several others of that row."""
        if self.gram is not None:
            return self.gram.view(-1)[chosen * len(self.gram) + new]
        return (self.padded[chosen] * self.padded[new]).sum(2)


@dataclass(frozen=True, eq=False)
class Choice:
    """What a pursuit chose: equally many entries a row, those of rows that ended early with values of 0."""

    latents: Int[Tensor, "row k"]
    values: Float[Tensor, "row k"]


def pursue(
    x: Float[Tensor, "row d"], table: AtomTable, k: int, *, nonnegative: bool, tolerance: float | None = None
) -> Choice:
    """Orthogonal matching pursuit on unit atoms; see :class:`OMP`.

    Args:
        x: The rows, of the atoms' type and device.
        table: The atoms.
        k: The largest number of atoms a row, at most d.
        nonnegative: Whether codes are 0 or more.
        tolerance: The share of a row's squared length that may be left.
    """
    entries = BLOCK_ENTRIES if x.device.type == "cpu" else 64 * BLOCK_ENTRIES
    size = max(entries // len(table.padded), 64)
    if not len(x):
        return Choice(x.new_zeros(0, k, dtype=torch.int64), x.new_zeros(0, k))
    parts = [_Pursuit(block, table, k, nonnegative, tolerance).run() for block in x.split(size)]
    return Choice(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))


@dataclass(eq=False)
class _Pursuit:
    """The state of some rows. The small arrays have rows last, so that one instruction serves many rows."""

    x: Tensor
    table: AtomTable
    k: int
    nonnegative: bool
    tolerance: float | None
    first: Tensor = field(init=False)
    """The correlations of the rows themselves with all atoms."""

    def __post_init__(self) -> None:
        rows, k = len(self.x), self.k
        self.first = self.x @ self.table.padded.T
        self.squares = self.x.square().sum(1)
        self.small = (ROUNDING * torch.finfo(self.x.dtype).eps) * self.squares.sqrt()
        self.live = torch.ones_like(self.squares, dtype=torch.bool)
        self.latents = torch.zeros(k, rows, dtype=torch.int64, device=self.x.device)
        self.targets, self.fitted, self.values = (self.x.new_zeros(k, rows) for _ in range(3))
        self.inverse = self.x.new_zeros(k, k, rows)
        """The inverse of the Cholesky factor of the chosen atoms' products, which grows by a row a round."""

    def run(self) -> tuple[Tensor, Tensor]:
        """All rounds: the latents and their values, ``[row, k]``."""
        for step in range(self.k):
            new, gain = _largest(self._correlations(step))
            self._add(step, new, self.live & (gain > self.small))
            if self.tolerance is not None:
                left = self.squares - (self.targets * self.values).sum(0)
                self.live = self.live & (left > self.tolerance * self.squares)
        return self.latents.T, self.values.T

    def _correlations(self, step: int) -> Tensor:
        """The correlations of the residuals with all atoms, 0 for atoms chosen before; absolute ones if codes have signs."""
        if not step:
            return self.first if self.nonnegative else self.first.abs()
        latents, values = self.latents[:step].T.contiguous(), self.values[:step].T.contiguous()
        gram, atoms = self.table.gram, self.table.padded
        if (
            gram is not None and step * 12 < atoms.shape[1]
        ):  # a weighted sum reads 12 times slower than a product computes
            fitted = embedding_bag(latents, gram, mode="sum", per_sample_weights=values)
            correlations = torch.sub(self.first, fitted, out=fitted)
        else:
            correlations = (self.x - embedding_bag(latents, atoms, mode="sum", per_sample_weights=values)) @ atoms.T
        return (correlations if self.nonnegative else correlations.abs_()).scatter_(1, latents, 0)

    def _add(self, step: int, new: Tensor, fits: Tensor) -> None:
        """Take one more atom into the rows where it fits, and solve for their codes."""
        chosen, inverse = self.latents[:step], self.inverse[:step, :step]
        overlap = (inverse * self.table.products(new, chosen)).sum(1)
        height = 1 - overlap.square().sum(0)
        self.live = fits & (height > ROUNDING * torch.finfo(height.dtype).eps)
        root = torch.where(self.live, height, 1).rsqrt()
        latest = torch.cat([-(overlap.unsqueeze(1) * inverse).sum(0) * root, root.unsqueeze(0)]) * self.live
        self.latents[step] = torch.where(self.live, new, self.latents[0])
        self.targets[step] = torch.where(self.live, self.first.gather(1, new.unsqueeze(1)).squeeze(1), 0)
        self.inverse[step, : step + 1] = latest
        self.fitted[: step + 1] += latest * (latest * self.targets[: step + 1]).sum(0)
        self.values[: step + 1] = torch.where(self.live, self.fitted[: step + 1], self.values[: step + 1])
        if self.nonnegative:
            self._repair(step + 1)

    def _repair(self, count: int) -> None:
        """Solve under the constraint where the plain solution breaks it, from codes of 0."""
        broken = (self.live & (self.values[:count] < 0).any(0)).nonzero().squeeze(1)
        if not len(broken):
            return
        latents = self.latents[:count, broken].T
        if self.table.gram is not None:
            gram = self.table.gram[latents.unsqueeze(2), latents.unsqueeze(1)]
        else:
            atoms = self.table.padded[latents]
            gram = atoms @ atoms.transpose(1, 2)
        values = nonnegative_least_squares(gram, self.targets[:count, broken].T, self.values.new_zeros(latents.shape))
        self.values[:count, broken] = values.T


def _largest(correlations: Float[Tensor, "row padded"]) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
    """Which atom has the largest correlation, and how large it is: ``max(1)``, about five times as fast on a processor."""
    lanes = correlations.view(len(correlations), -1, LANES)
    best, lane = lanes.amax(1).max(1)
    stride = lanes.gather(2, lane.view(-1, 1, 1).expand(-1, lanes.shape[1], 1)).squeeze(2).argmax(1)
    return stride * LANES + lane, best
