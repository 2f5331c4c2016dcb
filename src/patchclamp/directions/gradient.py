"""The dumb gradient: the direction in which a read of the logits grows fastest, on average."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Self

import torch
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Array, Groups, Labels, Numbers
from patchclamp.directions.base import ConceptSubspace, DirectionEstimator, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.random import check_rank
from patchclamp.directions.rows import Rows
from patchclamp.interventions import BATCH_TOKENS, Edit, Read, as_edits, batches, make_lines
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.tracing.estimate import slopes


@estimator
class GradientDirection(DirectionEstimator):
    """The gradient of a read, such as a logit difference, with respect to the activations.

    Rank 1 is the mean of the gradients; more are their leading right singular vectors, uncentred. It is what an edit of the
    smallest size would follow: a local statement, without any guarantee (Nanda's question in the discussion of Roger 2022).

    Args:
        read: The read that grows: a :class:`patchclamp.LogitDifference` by first and second answer. The direction points from the
            second answer to the first.
        rank: The number of dimensions.
        concept: The kind of the labels; they only give the length of ``add(1)`` and the class means.
    """

    read: Any = None
    rank: int = 1
    concept: Kind = "auto"

    _slopes: Tensor = field(init=False)

    def fit(
        self,
        X: Array,
        y: Labels | None,
        sample_weight: Numbers = None,
        groups: Groups = None,
        gradients: Tensor | None = None,
    ) -> Self:
        """Fit as the base does, with the gradient of the read at each row, ``[row, d]``.

        Raises:
            InputError: No gradients are given (``model.fit_direction`` takes them of the model), or they are all 0.
        """
        if gradients is None:
            raise InputError(
                "GradientDirection needs the model's gradients: use model.fit_direction(GradientDirection(read=...), ...), or "
                "pass gradients=[row, d]"
            )
        if not gradients.is_floating_point() or not bool(torch.isfinite(gradients).all()):
            raise InputError(
                f"gradients are finite numbers of a floating dtype; got {gradients.dtype}, NaN or infinity"
            )
        self._slopes = gradients
        try:
            return super().fit(X, y, sample_weight, groups)
        finally:
            del self._slopes

    def _find(self, rows: Rows) -> ConceptSubspace:
        if self._slopes.shape != rows.x.shape:
            raise InputError(f"gradients are [row, d], {tuple(rows.x.shape)}; got {tuple(self._slopes.shape)}")
        check_rank(self.rank, min(rows.x.shape))
        slopes = self._slopes.to(torch.float64)
        weights = rows.x.new_ones(len(slopes), dtype=torch.float64) if rows.weights is None else rows.weights
        mean = weights @ slopes / weights.sum()
        if not bool(mean.norm() > 0):
            raise InputError("the gradients are 0 on average: the read does not hang on these activations")
        basis = (mean / mean.norm()).unsqueeze(0)
        if self.rank > 1:
            basis = torch.linalg.svd(slopes * weights.sqrt().unsqueeze(1), full_matrices=False)[2][: self.rank]
            basis[0] *= torch.sign(basis[0] @ mean)
        return ConceptSubspace(basis, rows.moments(), report={"gradient_norm": float(mean.norm())})


def gradients(
    model: OpenModel, prompts: Sequence[Prompt], read: Any, sites: Sequence[Site], edits: Sequence[Edit] = ()
) -> list[dict[Site, Tensor]]:
    """The gradient of a read at every position of each prompt: for each prompt ``[position, d]`` a site.

    Raises:
        InputError: The read has no gradient, or gives several numbers a prompt.
    """
    if not isinstance(read, Read):
        raise InputError(
            "a gradient needs a read, as GradientDirection(read=pc.LogitDifference(' she', ' he')); got "
            f"{'None' if read is None else type(read).__name__}"
        )
    lines = make_lines(model, prompts, [read], list(as_edits(edits)))
    gradients_by_prompt: dict[int, dict[Site, Tensor]] = {}
    for members in batches(prompts, BATCH_TOKENS, causal=False):
        prompt_slopes = slopes(model, [lines[i] for i in members], sites)
        read_gradients = prompt_slopes.gradients[0]
        if len(read_gradients) != 1:
            raise InputError(
                f"{type(read).__name__} gives {len(read_gradients)} numbers a prompt; a direction needs one"
            )
        for row, index in enumerate(members):
            gradients_by_prompt[index] = {site: read_gradients[0][site][row].detach() for site in sites}
    return [gradients_by_prompt[i] for i in range(len(prompts))]
