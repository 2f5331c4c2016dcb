"""Sweeps: an edit at every site, layer, position and parameter, planned together.

``Model.sweep`` and ``Model.plan`` come here. Four steps follow each other: :meth:`Sweep.of` reads and checks the arguments
and runs nothing; ``record_sources`` runs what edits take their values from (a plan has :func:`placeholders` instead);
:meth:`Sweep.job` makes the cells; ``run_cells`` plans and runs them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.call import current_call, recorded
from patchclamp.core.errors import EditError, InputError
from patchclamp.core.kinds import Folder
from patchclamp.core.progress import Listener
from patchclamp.interventions.actions import Action, Placer, Recordings, SourceRuns, merge_runs
from patchclamp.interventions.axes import Axes, EditVariant, Point, points
from patchclamp.interventions.cost import DEFAULT_BUDGET
from patchclamp.interventions.edit import Edit, Edits, as_edits
from patchclamp.interventions.execute import Outcome, run_cells
from patchclamp.interventions.grid import Grid
from patchclamp.interventions.options import RunOptions
from patchclamp.interventions.part_files import PartFiles
from patchclamp.interventions.passes import Row, forward
from patchclamp.interventions.placing import Placing
from patchclamp.interventions.planning import Plan, schedule
from patchclamp.interventions.positions import At
from patchclamp.interventions.reads import BASELINE, Activation, Read, as_reads, distinct
from patchclamp.interventions.recording import place, placeholders, record_sources
from patchclamp.interventions.result_record import provenance
from patchclamp.interventions.sweep_task import Cell, PromptRun, SweepTask
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep whose arguments were read and checked; nothing was run."""

    model: OpenModel
    prompts: tuple[Prompt, ...]
    reads: tuple[Read, ...]
    edits: tuple[Edit, ...]
    base: tuple[Edit, ...]
    placing: Placing
    axes: Axes
    cumulative: bool
    points: tuple[Point, ...]
    """Where each cell stands in the result, and what it edits."""
    variants: tuple[EditVariant, ...]
    """The edits under each choice of the swept parameters."""
    shared: Placer
    """The edits that every cell shares."""

    @classmethod
    def of(
        cls,
        model: OpenModel,
        inputs: Any,
        edit: Edits,
        *,
        sites: Sites = None,
        at: At = None,
        cumulative: bool = False,
        over: Mapping[str, Iterable[Any]] | None = None,
        read: Any = None,
        base: Edits = (),
        editable: Sequence[Collection[int]] | None = None,
    ) -> "Sweep":
        """Read a sweep's arguments; see :func:`sweep`.

        Args:
            model: The model.
            inputs: Its prompts.
            edit: What is swept.
            sites: Where.
            at: At which positions.
            cumulative: Whether a cell edits the layers below its own, too.
            over: Swept parameters.
            read: What is measured.
            base: Edits that every cell shares.
            editable: For each prompt the positions that can be edited; cells at others stay empty.
        """
        edits, shared = as_edits(edit), as_edits(base)
        if not edits:
            raise EditError("a sweep needs an edit, as in pc.Add(vector), or a list of edits")
        if read is None:
            raise InputError("a sweep needs something to read, as in read=pc.Probability([' Madrid', ' Rome'])")
        reads, prompts = as_reads(read), tuple(model.prompts(inputs))
        placing = Placing.of(model, prompts, edits, sites, at, over)
        axes = Axes.of(model, prompts, placing.sites, "each" if placing.each else None, placing.over, placing.still)
        if cumulative and not axes.layers:
            raise InputError("cumulative=True adds layer after layer, and these sites have no layers")
        every = tuple(points(axes, cumulative, editable))
        if not every:
            raise InputError("this sweep has no cells")
        placer, variants = Placer(model, shared, prompts), tuple(EditVariant.every(model, axes, placing.edits))
        return cls(model, prompts, reads, edits, shared, placing, axes, cumulative, every, variants, placer)

    def files(self, folder: Folder | None) -> PartFiles | None:
        """Where its finished parts are kept; None without a folder."""
        return PartFiles.of(folder, self.model, edits=[*self.edits, *self.base], reads=self.reads, over=self.axes.over)

    @property
    def sources(self) -> SourceRuns:
        """What its edits take their values from."""
        return merge_runs([self.shared.sources, *(variant.placer.sources for variant in self.variants)])

    def job(self, recordings: Recordings) -> SweepTask:
        """Its cells, with the values of the sources."""
        return SweepTask(self.model, self.lines(recordings), self.cells(recordings))

    def lines(self, recordings: Recordings) -> list[PromptRun]:
        """Each prompt with what is read of it and the edits that its cells share."""
        if self.model.capabilities.width_of_logits is None and not all(
            isinstance(read, Activation) for read in self.reads
        ):
            forward(
                self.model, [Row(self.prompts[0])]
            )  # reads name columns of the logits: a run shows how many there are
        self.shared.recordings = recordings
        return _bind(self.model, self.prompts, self.reads, self.shared.rows(), self.axes.over)

    def cells(self, recordings: Recordings) -> list[Cell]:
        """A cell a point, in the order of the points."""
        for variant in self.variants:
            variant.placer.recordings = recordings
        return [Cell(point.prompt, self.variants[point.variant].actions(point)) for point in self.points]

    def grid(self, outcome: Outcome, plan: Plan, **instead: Any) -> Grid:
        """What came out, labelled; for ``instead`` see :func:`patchclamp.interventions.result_record.provenance`."""
        return Grid(self._dataset(outcome), plan, *self._record(instead))

    def _dataset(self, outcome: Outcome) -> Any:
        import xarray as xr

        lines, dims, coords = outcome.job.lines, self.axes.dims(), self.axes.coords()
        variables: dict[str, Any] = {}
        for number, (bound, own) in enumerate(zip(lines[0].reads, _read_axes(lines), strict=True)):
            extra = tuple(len(labels) for labels in own.values())
            clean = np.full((len(self.prompts), *extra), np.nan)
            for line, values in outcome.baseline.items():
                _put(clean, (line,), values[number], own)
            cells = np.full((*dims.values(), *extra), np.nan)
            for cell, point in enumerate(self.points):
                _put(cells, point.index, outcome.of_cell(cell)[number], own)
            variables[bound.name] = ((*dims, *own), cells)
            variables[f"{BASELINE}{bound.name}"] = (("prompt", *own), clean)
            coords |= {name: _labels(labels) for name, labels in own.items()}
        return xr.Dataset(variables, coords=coords)

    def _record(self, instead: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        arguments = {
            "edit": self.edits, "base": self.base, "read": self.reads, "over": self.axes.over, "at": self.placing.at,
            "sites": list(self.placing.sites) or None,
        }  # fmt: skip
        parameters = current_call().parameters
        swept = {name: value for name, value in arguments.items() if name in parameters}
        return provenance(self.model, self.prompts, **swept, **instead)


def _read_axes(lines: Sequence[PromptRun]) -> list[dict[str, tuple[Any, ...]]]:
    """For each read its own dimensions, with the labels of the prompt that has most of them.

    Two reads share a dimension only if they share its labels; otherwise each gets one of its own.
    """
    every: list[dict[str, tuple[Any, ...]]] = []
    for number, read in enumerate(lines[0].reads):
        most = max((line.reads[number].axes for line in lines), key=len)
        axes: dict[str, tuple[Any, ...]] = {axis.name: () for axis in most}
        for line in lines:
            for axis in line.reads[number].axes:
                counted = axis.name == "read_at" and len(lines) > 1
                labels = tuple(range(len(axis.labels))) if counted else axis.labels
                axes[axis.name] = max(axes[axis.name], labels, key=len)
        shared = {name: all(other.get(name, labels) == labels for other in every) for name, labels in axes.items()}
        every.append({name if shared[name] else f"{name}:{read.name}": labels for name, labels in axes.items()})
    return every


def make_lines(
    model: OpenModel, prompts: Sequence[Prompt], reads: Sequence[Read], base: Sequence[Edit] = ()
) -> list[PromptRun]:
    """Each prompt with what is read of it and the edits that all its cells share, whose sources are run.

    Args:
        model: The model.
        prompts: Its prompts.
        reads: What is read; each gets a name of its own.
        base: The shared edits.
    """
    return _bind(model, prompts, reads, place(model, base, prompts))


def _bind(
    model: OpenModel,
    prompts: Sequence[Prompt],
    reads: Sequence[Read],
    shared: Sequence[tuple[Action, ...]],
    dims: Iterable[str] = (),
) -> list[PromptRun]:
    """Lines under shared actions; no read may be called like one of ``dims``, dimensions of the result."""
    count = len(prompts)
    bound = [[b for read in reads for b in read.bind(model, prompt, i, count)] for i, prompt in enumerate(prompts)]
    names = distinct((read.name for read in bound[0]), dims)
    return [
        PromptRun(prompt, actions, tuple(replace(b, name=name) for b, name in zip(own, names, strict=True)))
        for prompt, actions, own in zip(prompts, shared, bound, strict=True)
    ]


def _put(array: Any, index: tuple[int, ...], value: Tensor, axes: Mapping[str, Any]) -> None:
    """Fill one prompt's part; where others are read at several positions and it at one, that is the first of them."""
    plain = value.to(torch.float64).numpy()
    plain = plain if plain.ndim == len(axes) else plain[None]
    array[(*index, *(slice(0, n) for n in plain.shape))] = plain


def _labels(labels: tuple[Any, ...]) -> Any:
    return np.array(labels, dtype=object) if labels and isinstance(labels[0], str) else np.array(labels)


@recorded
def sweep(
    model: OpenModel,
    prompts: Any,
    edit: Edits,
    *,
    sites: Sites = None,
    at: At = None,
    cumulative: bool = False,
    over: Mapping[str, Iterable[Any]] | None = None,
    read: Any = None,
    base: Edits = (),
    budget: float | str = DEFAULT_BUDGET,
    max_tokens: int | None = None,
    verify: int = 0,
    checkpoint: Folder | None = None,
    progress: bool | Listener | None = None,
    strategy: str | None = None,
) -> Grid:
    """Apply an edit at every site, layer and position, one cell each, sharing all the work that can be shared.

    Every number equals that of one hooked forward pass a cell.

    Args:
        model: The model.
        prompts: As for :meth:`patchclamp.Model.run`.
        edit: An unplaced edit, or a list of edits that act together in each cell, in this order. Those that name sites or
            positions of their own stay there; a list of edits that all name the same sites is swept over these.
        sites: Names; ``"mlp_out"`` is every layer, ``"z.*.h*"`` every head.
        at: ``"each"`` for a cell a position; any other position is edited in every cell. For the edits that say none.
        cumulative: The cell at layer i edits every swept layer up to i.
        over: Values for parameters of the edits that have them, as ``{"scale": [1, 2, 4]}``; each makes an axis.
        read: What to measure: :class:`Probability`, :class:`LogitDifference`, ..., a function of the logits, or several.
            The second of one name is called ``probability:2``.
        base: Edits that every cell shares; the baseline is the run under them.
        budget: Memory beyond the model, as ``"1GB"``.
        max_tokens: Rows times positions alive at once, instead of what follows from the budget.
        verify: Run this many random cells again the slow way, and raise if they differ beyond the tolerance.
        checkpoint: A folder: a killed sweep goes on from there. Functions are refused, unless you vouch for them with
            :func:`known_as`: what they do cannot be told.
        progress: True for a bar, a function for events.
        strategy: Ask for a strategy (wavefront, layers, rows, cell) that shares less than the one that would be chosen.

    Raises:
        InputError: Something does not fit, or the strategy would not be exact; raised before any work.
        EditError: ``sites``, ``at`` or ``over`` contradict what every edit says itself.
        BudgetError: One cell needs more memory than the budget.
        ExactnessError: A verified cell differs.
    """
    request = Sweep.of(model, prompts, edit, sites=sites, at=at, cumulative=cumulative, over=over, read=read, base=base)
    options = RunOptions(
        budget=budget,
        max_tokens=max_tokens,
        strategy=strategy,
        verify=verify,
        files=request.files(checkpoint),
        progress=progress,
    )
    job = request.job(record_sources(model, request.sources))
    return request.grid(*run_cells(job, options))


@checked
def plan(
    model: OpenModel,
    prompts: Any,
    edit: Edits,
    *,
    sites: Sites = None,
    at: At = None,
    cumulative: bool = False,
    over: Mapping[str, Iterable[Any]] | None = None,
    read: Any = None,
    base: Edits = (),
    budget: float | str = DEFAULT_BUDGET,
    max_tokens: int | None = None,
    checkpoint: Folder | None = None,
    strategy: str | None = None,
) -> Plan:
    """What :meth:`patchclamp.Model.sweep` with the same arguments would do and cost.

    The model is not run. In place of what edits take from other runs stand numbers of the same shape, all of them different,
    so cells that will turn out equal only because two such runs agree count as different here. Where a shape is only seen in
    a run, one is made: of a plain module whose outputs are read, once; of a source at a module path, or without tokens.
    """
    request = Sweep.of(model, prompts, edit, sites=sites, at=at, cumulative=cumulative, over=over, read=read, base=base)
    options = RunOptions(budget=budget, max_tokens=max_tokens, strategy=strategy, files=request.files(checkpoint))
    return schedule(request.job(placeholders(model, request.sources)), options).plan
