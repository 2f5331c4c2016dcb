"""Activation patching: a run's activations put into another run, at every layer, position and head.

``Model.patch`` comes here, and path and attribution patching begin with the same :class:`Pair`: arguments are read by
:meth:`Pair.of`, one pass over the source gives its activations and its own value of each read (:meth:`Pair.run_source`), and
the cells made from them run as those of any sweep.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.kinds import Folder
from patchclamp.core.progress import Listener
from patchclamp.interventions.cost import DEFAULT_BUDGET
from patchclamp.interventions.edit import Edits, as_edits
from patchclamp.interventions.edits import Patch
from patchclamp.interventions.execute import Outcome, run_cells
from patchclamp.interventions.grid import Grid
from patchclamp.interventions.options import RunOptions
from patchclamp.interventions.part_runner import measure_lines
from patchclamp.interventions.planning import Plan
from patchclamp.interventions.positions import At
from patchclamp.interventions.prefix import record_base
from patchclamp.interventions.reads import BASELINE, REFERENCE, Read
from patchclamp.interventions.recording import record_sources
from patchclamp.interventions.sources import Source
from patchclamp.interventions.sweep_task import SweepTask
from patchclamp.interventions.sweeping import Sweep, make_lines
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.models.sites import Site

Align = Literal["equal", "left", "right", "ends"]
_RULES = {
    "equal": "prompts of equal length only",
    "left": "position by position from the first token",
    "right": "position by position from the last token",
    "ends": "the tokens that both share at the beginning, and those that both share at the end",
}


def counterparts(source: Prompt, into: Prompt, align: Align) -> dict[int, int]:
    """Which source position each target position takes its value from; a position without one is not patched.

    Args:
        source: Where values come from.
        into: Where they go.
        align: ``equal``, ``left``, ``right``, or ``ends`` (common beginning and common end; the middle is left out).

    Raises:
        InputError: The lengths differ under ``equal``.
    """
    n, m = len(source.ids), len(into.ids)
    check_choice("alignment", align, _RULES)
    if align == "equal" and n != m:
        raise InputError(
            f"the source has {n} tokens and the target {m}: {list(source.tokens)} and {list(into.tokens)}; choose how they "
            f"correspond with align='left', 'right' or 'ends' ({_RULES['ends']})"
        )
    if align in ("equal", "left"):
        return {i: i for i in range(min(n, m))}
    if align == "right":
        return {m - i: n - i for i in range(1, min(n, m) + 1)}
    head = next((i for i in range(min(n, m)) if source.ids[i] != into.ids[i]), min(n, m))
    tail = next((i for i in range(min(n, m) - head) if source.ids[n - 1 - i] != into.ids[m - 1 - i]), min(n, m) - head)
    return {**{i: i for i in range(head)}, **{m - i: n - i for i in range(1, tail + 1)}}


@dataclass(frozen=True, eq=False)
class Pair:
    """A source and a target prompt, aligned, with the sweep that puts one into the other; nothing was run."""

    sweep: Sweep
    source: Source
    align: Align

    @classmethod
    def of(
        cls,
        model: OpenModel,
        source: Any,
        into: Any,
        *,
        read: Any,
        align: Align = "equal",
        source_edits: Edits = (),
        sites: Sites = "resid_post",
        at: At = "each",
        base: Edits = (),
        cumulative: bool = False,
    ) -> "Pair":
        """Read and check the arguments of a patch; see :func:`patch`."""
        sources, targets = model.prompts(source), model.prompts(into)
        if len(sources) != 1 or len(targets) != 1:
            raise InputError(
                f"model.patch takes one source and one target prompt, got {len(sources)} and {len(targets)}"
            )
        partner = counterparts(sources[0], targets[0], align) if sources[0].ids and targets[0].ids else None
        run = Source(sources[0], as_edits(source_edits), counterpart=partner)
        sweep = Sweep.of(
            model, targets, Patch(run), sites=sites, at=at, read=read, base=base, cumulative=cumulative,
            editable=None if partner is None else [partner],
        )  # fmt: skip
        return cls(sweep, run, align)

    def run_source(self) -> tuple[SweepTask, list[Tensor]]:
        """Run the source once: a cell a patch, and the source's own value of each read."""
        model, sweep = self.sweep.model, self.sweep
        lines = sweep.lines(record_sources(model, sweep.shared.sources))
        ((key, run),) = sweep.variants[0].placer.sources.items()
        reference, values = read_source(model, run.source, sweep.reads, run.sites)
        for bound, value in zip(lines[0].reads, reference, strict=True):
            sizes = tuple(len(axis.labels) for axis in bound.axes)
            if tuple(value.shape) != sizes:
                raise InputError(
                    f"{bound.name} reads an array of shape {list(value.shape)} in the source and of {list(sizes)} in the target, "
                    "which cannot be compared; read as many positions in both, as at='last'"
                )
        return SweepTask(model, lines, sweep.cells({key: values})), reference

    def grid(self, outcome: Outcome, plan: Plan, reference: Sequence[Tensor], **instead: Any) -> Grid:
        """What came out, labelled, with the source's numbers; ``instead`` as for :meth:`Sweep.grid`."""
        grid = self.sweep.grid(
            outcome,
            plan,
            source=self.source.inputs,
            into=self.sweep.prompts[0],
            source_edits=self.source.edits,
            **instead,
        )
        for name, value in zip(grid.reads, reference, strict=True):
            baseline = grid.dataset[f"{BASELINE}{name}"]
            numbers = value.to(torch.float64).reshape(baseline.shape).numpy()
            grid.dataset[f"{REFERENCE}{name}"] = (baseline.dims, numbers)
        return grid


@recorded
def patch(
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
    cumulative: bool = False,
    budget: float | str = DEFAULT_BUDGET,
    max_tokens: int | None = None,
    verify: int = 0,
    checkpoint: Folder | None = None,
    progress: bool | Listener | None = None,
    strategy: str | None = None,
) -> Grid:
    """Activation patching: one run's activations put into another, a cell a site and position.

    Args:
        model: The model.
        source: The prompt whose activations are taken.
        into: The prompt that receives them.
        sites: Where; ``"z.*.h*"`` patches head by head.
        at: ``"each"`` for a cell a position, or positions that are patched together.
        read: What to measure.
        align: Rule for prompts of unequal length: ``"equal"`` refuses them; ``"left"`` and ``"right"`` count from the
            first and the last token; ``"ends"`` matches the common beginning and the common end.
        source_edits: The source runs under these.
        base: The target runs under these.
        cumulative: As for :meth:`patchclamp.Model.sweep`, as are all that follow.
        budget: Memory beyond the model.
        max_tokens: Rows times positions alive at once.
        verify: Run this many random cells again the slow way.
        checkpoint: A folder: a killed patch goes on from there.
        progress: True for a bar, a function for events.
        strategy: Ask for a strategy that shares less work.
    """
    pair = Pair.of(
        model, source, into, sites=sites, at=at, read=read, align=align, source_edits=source_edits, base=base,
        cumulative=cumulative,
    )  # fmt: skip
    options = RunOptions(
        budget=budget,
        max_tokens=max_tokens,
        strategy=strategy,
        verify=verify,
        files=pair.sweep.files(checkpoint),
        progress=progress,
    )
    job, reference = pair.run_source()
    return pair.grid(*run_cells(job, options), reference)


def read_source(
    model: OpenModel, source: Source, reads: Sequence[Read], sites: Sequence[Site]
) -> tuple[list[Tensor], dict[Site, list[Tensor]]]:
    """One pass over a source of one prompt: its own value of each read, and its activations."""
    lines = dict(enumerate(make_lines(model, model.prompts(source.inputs), reads, source.edits)))
    base = record_base(model, lines, sites=sites)
    return measure_lines(lines, base)[0], {site: [base.activations[site][0]] for site in sites}
