"""The method of optimal directions, on batches: sparse codes by pursuit, then the atoms in closed form."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn.functional import embedding_bag, normalize

from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Folder, Repeats, Seed
from patchclamp.dictionaries.alternating import AlternatingFit, Alternation
from patchclamp.dictionaries.moments import CodeMoments
from patchclamp.dictionaries.pursuit import OMP, AtomTable, check_rank, pursue
from patchclamp.dictionaries.scaling import Whiten


@dataclass(frozen=True, eq=False)
class MODState(Alternation):
    """Where the method stands."""

    second: Float[Tensor, "width width"]
    cross: Float[Tensor, "width d"]
    idle: Float[Tensor, " width"]
    """The number of rows since each atom was last active."""

    @property
    def moments(self) -> CodeMoments:
        """The sums from which the atoms follow."""
        return CodeMoments(self.second, self.cross)


class MOD(AlternatingFit):
    """Atoms that are the least squares solution for codes found by orthogonal matching pursuit, batch after batch.

    Each batch is coded by :class:`OMP`. Its products of codes are added to those of earlier batches, which are weighed down by
    ``forgetting`` each time, and the atoms are solved for from the sums, then brought to length 1 (the sums with them). Then
    atoms that are of no use are replaced by rows of the batch, drawn in proportion to their squared residuals: those that are
    the less used one of a pair with a cosine above ``duplicate``, and those that were active in none of the last ``idle`` rows.
    In the last part of a stream whose length is known (``settle``) none is replaced any more, so that all are trained.

    A width of 1.25 to 1.5 times the number of features, and ``k`` a little above the number that are active, recover the most;
    what is too many then is left out by :func:`prune`. Rows that are sums of features whose coefficients are 0 or more, as in toy
    data, are to be fitted with ``centre=False``.

    Source: Engan, Aase and Husøy 1999, "Method of optimal directions for frame design"; averaging over batches as in Mairal, Bach,
    Ponce and Sapiro 2010, "Online learning for matrix factorization and sparse coding", section 3.4.

    Args:
        width: The number of atoms.
        k: The largest number of active atoms of a row.
        nonnegative: Whether codes are 0 or more.
        tolerance: The share of a row's squared length at which its pursuit ends.
        batch_size: The number of rows of a batch, where the rows are an array.
        passes: The number of times that every row of an array comes.
        forgetting: What the sums of earlier batches are multiplied by at each batch, 0..1; ``1 - forgetting`` is the weight of one
            batch in the mean. 1 weighs all alike, 0 keeps the latest only.
        damping: The weight of the distance to the atoms before, in units of the mean squared code.
        duplicate: The cosine from which two atoms are one.
        idle: The number of rows in which an atom is active at least once.
        settle: The share of the rows, at the end, in which no atom is replaced.
        centre: Whether the mean of the rows is subtracted.
        scale: Whether rows are scaled to a mean squared length of d.
        whiten: Whether and how rows are whitened.
        checkpoint: A folder in which the state is kept, and from which the same call goes on.
        random_state: What first atoms and replacements are drawn from.
    """

    def __init__(
        self, *, width: int = 512, k: int = 8, nonnegative: bool = True, tolerance: float | None = None,
        batch_size: int = 1024, passes: Repeats = 1, forgetting: float = 0.9, damping: float = 1e-3, duplicate: float = 0.95,
        idle: int = 16_384, settle: float = 0.15, centre: bool = True, scale: bool = True, whiten: Whiten = "none",
        checkpoint: Folder | None = None, random_state: Seed = 0,
    ) -> None:  # fmt: skip
        self.width = width
        self.k = k
        self.nonnegative = nonnegative
        self.tolerance = tolerance
        self.batch_size = batch_size
        self.passes = passes
        self.forgetting = forgetting
        self.damping = damping
        self.duplicate = duplicate
        self.idle = idle
        self.settle = settle
        self.centre = centre
        self.scale = scale
        self.whiten = whiten
        self.checkpoint = checkpoint
        self.random_state = random_state

    def _check(self) -> None:
        if self.width < 1 or self.batch_size < 1 or self.passes < 1 or self.idle < 1:
            raise InputError(
                f"width, batch_size, passes and idle are 1 or more; got width={self.width}, batch_size={self.batch_size}, "
                f"passes={self.passes}, idle={self.idle}"
            )
        if not 0 <= self.settle <= 1:
            raise InputError(f"settle is a share of the rows, 0..1; got {self.settle}")
        if not 0 <= self.forgetting <= 1 or not 0 < self.damping < float("inf") or not 0 < self.duplicate <= 1:
            raise InputError(
                "forgetting is in 0..1, damping above 0, duplicate above 0 and up to 1; got "
                f"forgetting={self.forgetting}, damping={self.damping}, duplicate={self.duplicate}"
            )
        self._encoder().check(self.width)

    def _encoder(self) -> OMP:
        return OMP(self.k, nonnegative=self.nonnegative, tolerance=self.tolerance)

    def _start(self, atoms: Tensor) -> MODState:
        check_rank(self, self.k, atoms.shape[1])
        zero, sums = atoms.new_zeros(()), CodeMoments.zeros(atoms)
        return MODState(atoms, 0, zero, zero, zero, sums.second, sums.cross, atoms.new_zeros(self.width))

    def _step(self, state: MODState, x: Tensor, remaining: int | None) -> MODState:
        table = AtomTable.of(state.atoms)
        choice = pursue(x, table, self.k, nonnegative=self.nonnegative, tolerance=self.tolerance)
        sums = state.moments.updated(x, choice.latents, choice.values, self.forgetting)
        atoms = sums.least_squares(state.atoms, self.damping)
        lengths = atoms.norm(dim=1)
        is_live = lengths > torch.finfo(atoms.dtype).eps
        sums = sums.rescaled(torch.where(is_live, lengths, 0))
        atoms = torch.where(is_live.unsqueeze(1), normalize(atoms), state.atoms)
        is_active = (choice.values != 0).to(x.dtype)
        firings = torch.zeros_like(state.idle).index_add(0, choice.latents.flatten(), is_active.flatten())
        residual = x - embedding_bag(choice.latents, state.atoms, mode="sum", per_sample_weights=choice.values)
        squares = residual.square().sum(1)
        new = replace(
            state, atoms=atoms, second=sums.second, cross=sums.cross, steps=state.steps + 1, residual=squares.sum(),
            idle=torch.where(firings > 0, 0, state.idle + len(x)), power=x.square().sum(), active=is_active.sum(1).mean(),
        )  # fmt: skip
        seen = (state.steps + 1) * len(x)
        if remaining is not None and remaining < self.settle * (seen + remaining):
            return new
        return self._replaced(new, x, squares, table)

    def _replaced(self, state: MODState, x: Tensor, squares: Tensor, table: AtomTable) -> MODState:
        """The state with atoms of no use replaced; every operation has a fixed size, so that a device need not wait."""
        use = state.second.diagonal()
        bad = duplicates(table, use, self.duplicate) | (state.idle >= self.idle)
        seed = (self.random_state * 1_000_003 + state.steps) % 2**63
        generator = Generator(x.device).manual_seed(seed)
        # exponential races draw without repetition, each row in proportion to its squared residual
        race = torch.empty_like(squares).exponential_(generator=generator) / squares.clamp_min(1e-30)
        count = min(len(x), len(use))
        rows = race.topk(count, largest=False)[1]
        rank = bad.cumsum(0) - 1
        bad = bad & (rank < count) & (squares[rows].amax() > 0)
        atoms = torch.where(bad.unsqueeze(1), normalize(x[rows[rank.clamp(0, count - 1)]]), state.atoms)
        sums = state.moments.rescaled((~bad).to(use.dtype))
        idle = torch.where(bad, 0, state.idle)
        return replace(state, atoms=atoms, second=sums.second, cross=sums.cross, idle=idle)


def duplicates(table: AtomTable, use: Float[Tensor, " width"], cosine: float) -> Bool[Tensor, " width"]:
    """Which atoms are nearly equal to one that is used more (of equally used ones, to one before it).

    Args:
        table: Unit atoms.
        use: How much each is used.
        cosine: From which cosine on two atoms are one.
    """
    width, parts = len(table.atoms), []
    places = torch.arange(width, device=use.device)
    for block in places.split(2048):
        cosines = table.atoms @ table.atoms[block].T if table.gram is None else table.gram[:width, block]
        better = (use.unsqueeze(1) > use[block]) | ((use.unsqueeze(1) == use[block]) & (places.unsqueeze(1) < block))
        parts.append(((cosines > cosine) & better).any(0))
    return torch.cat(parts)
