"""The strongest directions of the covariance of activations and concept."""

from torch import Tensor

from patchclamp.directions.base import ConceptSubspace, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.moments import Moments, span
from patchclamp.directions.random import check_whole_rank
from patchclamp.directions.rows import Rows
from patchclamp.directions.streaming import StreamingEstimator


@estimator
class SAL(StreamingEstimator):
    """Left singular vectors of ``Cov(x, z)``, the strongest first.

    At full rank (classes - 1) this is the span of the class means, and no linear predictor is left. Below it, it is the
    subspace of its rank without which the covariance with the concept is least in norm; the rest of the concept stays.

    Source: Shao, Ziser and Cohen 2023, "Gold doesn't always glitter: spectral removal of linear and nonlinear guarded
    attribute information", arXiv 2203.07893.

    Args:
        rank: The number of directions; all by default, and never more than ``Cov(x, z)`` has.
        concept: The kind of the labels.
    """

    rank: int | None = None
    concept: Kind = "auto"

    def _find(self, rows: Rows) -> ConceptSubspace:
        if self.rank is not None:
            check_whole_rank(self.rank)
        moments = rows.moments()
        basis = top_directions(moments, self.rank)
        return ConceptSubspace(basis, moments, report=rank_note(self.rank, basis))


def top_directions(moments: Moments, rank: int | None) -> Tensor:
    """Orthonormal rows ``[rank, d]``: the left singular vectors of ``Cov(x, z)``."""
    return span(moments.cross.T / moments.weight, rank)


def rank_note(rank: int | None, basis: Tensor) -> dict[str, str]:
    """A note for the report if fewer directions move with the concept than were asked for."""
    if rank is None or rank <= len(basis):
        return {}
    return {
        "note": f"rank {rank} was asked for; the concept moves {len(basis)} dimensions, and more would gain nothing"
    }
