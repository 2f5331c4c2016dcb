"""One pair of activations, and their difference."""

import torch

from patchclamp.core.errors import InputError
from patchclamp.directions.base import ConceptSubspace, DirectionEstimator, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.moments import span
from patchclamp.directions.rows import Rows


@estimator
class ActivationAddition(DirectionEstimator):
    """The difference of exactly two rows, one of each class; ``add(c)`` adds it c times, as it is.

    It differs from the paper in one thing: there, the activations of two prompts, padded to one length, are subtracted
    position by position, and the differences added at the first positions of the new prompt. Here one vector (the last
    token's, say) is added at every position of the edit.

    Source: Turner et al. 2023, "Steering language models with activation engineering", arXiv 2308.10248.

    Args:
        concept: The kind of the labels.
    """

    few = True

    concept: Kind = "classes"

    def _find(self, rows: Rows) -> ConceptSubspace:
        if len(rows.x) != 2 or rows.concept.classes is None:
            raise InputError(
                f"an activation addition is the difference of two rows, one of each class; got {len(rows.x)} rows; "
                "MeanDifference takes more"
            )
        second_row = int(torch.as_tensor(rows.labels).argmax())
        gap = (rows.x[second_row].to(torch.float64) - rows.x[1 - second_row].to(torch.float64)).contiguous()
        return ConceptSubspace(span(gap.unsqueeze(0)), rows.moments(), gap=gap)
