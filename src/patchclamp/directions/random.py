"""The control: a random subspace of the same rank, and a step of the same length."""

from numbers import Integral
from typing import Any

import torch
from sklearn.utils import check_random_state

from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Seed
from patchclamp.directions.base import ConceptSubspace, DirectionEstimator, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.moments import span
from patchclamp.directions.rows import Rows


@estimator
class RandomDirection(DirectionEstimator):
    """Directions drawn uniformly, whatever the concept: what any other method has to beat.

    ``add(1)`` adds a step as long as the distance between the class means; of more than two, as their mean distance from the
    mean of all; for a continuous concept, as what one standard deviation of it moves.

    Source: Elazar et al. 2021, "Amnesic probing", arXiv 2006.00995, section 3.2 (the control of equal rank).

    Args:
        rank: The number of dimensions; as many as the class means span by default.
        random_state: The seed.
        concept: The kind of the labels.
    """

    rank: int | None = None
    random_state: Seed | None = 0
    concept: Kind = "auto"

    def _find(self, rows: Rows) -> ConceptSubspace:
        moments = rows.moments()
        effects = moments.effects()
        rank = len(span(effects)) if self.rank is None else self.rank
        d = rows.x.shape[1]
        check_rank(rank, d)
        gaussian = torch.from_numpy(check_random_state(self.random_state).standard_normal((d, rank)))
        basis = torch.linalg.qr(gaussian)[0].T.to(rows.x.device)
        means = moments.class_means() - moments.mean if rows.concept.classes is not None else effects
        has_two_classes = len(rows.concept.names) == 2
        length = (means[1] - means[0]).norm() if has_two_classes else means.norm(dim=1).mean()
        return ConceptSubspace(basis, moments, gap=basis[0] * length)


def check_rank(rank: Any, d: int) -> None:
    """Refuse a rank that no subspace has.

    Raises:
        InputError: The rank is larger than the width, which the message says.
    """
    check_whole_rank(rank)
    if rank > d:
        raise InputError(f"rank={rank!r} is outside 1..{d}, the width of the activations")


def check_whole_rank(rank: Any) -> None:
    """Refuse a rank that is no whole number from 1.

    Raises:
        InputError: The rank is no such number.
    """
    if not isinstance(rank, Integral) or rank < 1:
        raise InputError(f"rank is a whole number from 1; got {rank!r}")
