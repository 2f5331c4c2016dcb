"""Activation patching: a run's activations put into another run, at every layer, position and head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.progress import Listener
from patchclamp.interventions.base import record_base
from patchclamp.interventions.edits import Edits, Patch, as_edits
from patchclamp.interventions.grid import Grid
from patchclamp.interventions.reads import BASELINE, REFERENCE, Read, as_reads
from patchclamp.interventions.run_part import measure_lines
from patchclamp.interventions.sources import Source
from patchclamp.interventions.sweep import Prepared, make_lines
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
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
    if align not in _RULES:
        raise InputError(unknown("alignment", align, _RULES))
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
class PreparedPatch:
    """A pair of prompts, aligned, with the sweep that puts one into the other."""

    sweep: Prepared
    source: Prompt
    reference: list[Tensor]
    """The source's own value of each read."""
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
        **options: Any,
    ) -> "PreparedPatch":
        """Read and check the arguments of a patch, and run its source."""
        sources, targets = model.prompts(source), model.prompts(into)
        if len(sources) != 1 or len(targets) != 1:
            raise InputError(
                f"model.patch takes one source and one target prompt, got {len(sources)} and {len(targets)}"
            )
        partner = counterparts(sources[0], targets[0], align) if sources[0].ids and targets[0].ids else None
        edit = Patch(Source(sources[0], as_edits(source_edits), counterpart=partner))
        allowed = [set(partner)] if partner is not None else None
        reference: list[Tensor] = []

        def record_and_read(model: OpenModel, source: Source, wanted: Sequence[Site]) -> dict[Site, list[Tensor]]:
            reference[:], recorded = read_source(model, sources[0], source, as_reads(read), wanted)
            return recorded

        prepared = Prepared(model, targets, edit, read=read, allowed=allowed, recorder=record_and_read, **options)
        for bound, values in zip(prepared.job.lines[0].reads, reference, strict=True):
            sizes = tuple(len(axis.labels) for axis in bound.axes)
            if tuple(values.shape) != sizes:
                raise InputError(
                    f"{bound.name} reads an array of shape {list(values.shape)} in the source and of {list(sizes)} in the target, "
                    "which cannot be compared; read as many positions in both, as at='last'"
                )
        return cls(prepared, sources[0], reference, align)

    def finish(self, grid: Grid) -> Grid:
        """A grid with the source's numbers, and what it was made of."""
        for (name, values), measured in zip(_baselines(grid), self.reference, strict=True):
            grid.dataset[f"{REFERENCE}{name}"] = (
                values.dims,
                measured.to(torch.float64).reshape(values.shape).numpy(),
            )
        said = {"source": {"text": self.source.text, "ids": list(self.source.ids)}, "align": self.align}
        grid.record["parameters"] |= said
        return grid


@checked
def patch(
    model: OpenModel,
    source: Any,
    into: Any,
    *,
    verify: int = 0,
    progress: bool | Listener | None = None,
    **options: Any,
) -> Grid:
    """Patch one run into another; see :meth:`patchclamp.Model.patch`."""
    prepared = PreparedPatch.of(model, source, into, **options)
    return prepared.finish(prepared.sweep.run(verify=verify, progress=progress))


def _baselines(grid: Grid) -> list[tuple[str, Any]]:
    return [(name, grid.dataset[f"{BASELINE}{name}"]) for name in grid.reads]


def read_source(
    model: OpenModel, prompt: Prompt, source: Source, reads: Sequence[Read], sites: Sequence[Site]
) -> tuple[list[Tensor], dict[Site, list[Tensor]]]:
    """One pass over the source: its own value of each read, and its activations."""
    lines = dict(enumerate(make_lines(model, [prompt], reads, source.edits)))
    base = record_base(model, lines, sites=sites)
    return measure_lines(lines, base)[0], {site: [base.activations[site][0]] for site in sites}
