"""Attribution patching: activation patching of a pair of prompts to first order, with its measured error."""

from collections.abc import Sequence
from typing import Any, ClassVar

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Repeats
from patchclamp.interventions import (
    Action,
    Align,
    At,
    Edits,
    Grid,
    Pair,
    PromptRun,
    Put,
    RunOptions,
    Source,
    record_source,
    schedule,
)
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.tracing.estimate import estimate, measured_error, midpoints
from patchclamp.tracing.setting import EMBED


class Attribution(Grid):
    """An estimated grid of patching: the same labels as :class:`Grid`, and how far the estimate is from the truth."""

    kind: ClassVar[str] = "attribution"
    drawn_by: ClassVar[str] = "grid"

    @property
    def agreement(self) -> dict[str, Any] | None:
        """``pearson`` correlation and ``relative_error`` on random cells run exactly; None if none were."""
        agreement: dict[str, Any] | None = self.record.get("agreement")
        return agreement

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim} {size}" for dim, size in self.dataset[self.reads[0]].sizes.items())
        summary = "by gradient; not checked" if self.agreement is None else self.agreement["said"]
        return f"Attribution of {', '.join(self.reads)}: {sizes}\nestimate   {summary}"


@recorded
def attribution_patch(
    model: OpenModel,
    source: Any,
    into: Any,
    *,
    sites: Sites = "resid_post",
    at: At = "each",
    read: Any = None,
    align: Align = "equal",
    source_edits: Edits = (),
    base: Edits = (),
    integrate: Repeats = 0,
    check: int = 20,
) -> Attribution:
    """Estimate :meth:`patchclamp.Model.patch` from one backward pass, and measure how wrong the estimate is.

    A cell is estimated by ``(source's state - target's state) . gradient``, with the gradient of the read in the
    target's run: two forward passes and one backward pass for each number that is read, for all cells.

    Source: Nanda 2023, "Attribution patching"; with points, Hanna et al. 2024, arXiv 2403.17806.

    Args:
        model: The model.
        source: The prompt whose activations are taken.
        into: The prompt that receives them.
        sites: The sites to patch; ``"z.*.h*"`` estimates head by head.
        at: ``"each"`` for a cell a position, or positions that are patched together.
        read: What to measure; it needs a gradient.
        align: As for :meth:`patchclamp.Model.patch`.
        source_edits: The source runs under these.
        base: The target runs under these.
        integrate: Average the gradient over so many points between the two prompts' embeddings (they must be equally
            long).
        check: Random cells that are run exactly, for ``agreement``.

    Raises:
        InputError: The read has no gradient, or the prompts cannot be aligned.
    """
    shares = midpoints(integrate)
    pair = Pair.of(
        model, source, into, sites=sites, at=at, read=read, align=align, source_edits=source_edits, base=base
    )
    job, reference = pair.run_source()
    outcome = estimate(job, _path(pair, job.lines[0], shares))
    grid = pair.grid(outcome, schedule(job, RunOptions()).plan, reference)
    error = measured_error(job, outcome, check)
    return Attribution(grid.dataset, grid.plan, grid.record | ({"agreement": error} if error else {}), grid.tensors)


def _path(pair: Pair, line: PromptRun, shares: Sequence[float]) -> list[list[PromptRun]]:
    """The target's line with its embeddings on the way to the source's, once for each share."""
    if not shares:
        return []
    model, source, base_edits = pair.sweep.model, pair.source.inputs, pair.sweep.base
    if line.prompt.length is None or len(source.ids) != len(line.prompt.ids):
        raise InputError(
            f"integrated gradients go from one prompt's embeddings to the other's, which must be equally long; "
            f"got {len(source.ids)} and {len(line.prompt.ids)} tokens: {list(source.tokens)} and {list(line.prompt.tokens)}"
        )
    source_embeddings = record_source(model, pair.source, [EMBED])[EMBED][0]
    target_embeddings = record_source(model, Source(line.prompt, base_edits), [EMBED])[EMBED][0]
    all_positions = tuple(range(line.prompt.length))
    lines = []
    for share in shares:
        mixture = Put(share * target_embeddings + (1 - share) * source_embeddings)
        action = Action(EMBED, all_positions, mixture, edit=len(base_edits))
        lines.append([PromptRun(line.prompt, (*line.base, action), line.reads)])
    return lines
