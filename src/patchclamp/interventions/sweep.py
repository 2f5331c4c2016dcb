"""Sweeps: an edit at every site, layer, position and parameter, planned together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.arguments import checked, checked_as
from patchclamp.core.errors import EditError, InputError
from patchclamp.core.kinds import Folder
from patchclamp.core.progress import Listener
from patchclamp.interventions.actions import Action, Recorder, place
from patchclamp.interventions.axes import Axes, Point, points
from patchclamp.interventions.cost import DEFAULT_BUDGET
from patchclamp.interventions.edits import Edit, Edits, as_edits
from patchclamp.interventions.execute import Outcome, execute
from patchclamp.interventions.forward import Row, forward
from patchclamp.interventions.grid import Grid
from patchclamp.interventions.job import Cell, Job, Line
from patchclamp.interventions.parts import Parts
from patchclamp.interventions.placing import Placing
from patchclamp.interventions.plan import Plan, Schedule, forced_rung, schedule
from patchclamp.interventions.positions import At
from patchclamp.interventions.reads import BASELINE, Read, as_reads, distinct
from patchclamp.interventions.record import record_source
from patchclamp.interventions.results import evidence
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites


class Prepared:
    """A sweep whose arguments were read and checked, and which is planned but not run."""

    @checked_as(InputError, "sweep", hidden=("model", "inputs", "allowed", "recorder"))
    def __init__(
        self,
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
        checkpoint: Folder | None = None,
        budget: float | str = DEFAULT_BUDGET,
        max_tokens: int | None = None,
        rung: str | None = None,
        allowed: Sequence[set[int]] | None = None,
        recorder: Recorder = record_source,
    ) -> None:
        edits = list(as_edits(edit))
        if not edits:
            raise EditError("a sweep needs an edit, as in pc.Add(vector), or a list of edits")
        self.model, self.edits, self.base = model, edits, list(as_edits(base))
        if read is None:
            raise InputError("a sweep needs something to read, as in read=pc.Probability([' Madrid', ' Rome'])")
        self.reads = as_reads(read)
        self.prompts = model.prompts(inputs)
        self.cumulative = cumulative
        self.placing = Placing.of(model, self.prompts, edits, sites, at, over)
        here = "each" if self.placing.each else None
        self.axes = Axes.of(model, self.prompts, self.placing.sites, here, self.placing.over, self.placing.still)
        if cumulative and not self.axes.layers:
            raise InputError("cumulative=True adds layer after layer, and these sites have no layers")
        self.parts = Parts.of(checkpoint, model, edits=[*self.edits, *self.base], reads=self.reads, over=self.axes.over)
        _know_outputs(model, self.prompts[0])
        lines = make_lines(model, self.prompts, self.reads, self.base, self.axes.over)
        self.points: list[Point] = points(model, self.axes, self.placing.parts, cumulative, recorder, allowed)
        if not self.points:
            raise InputError("this sweep has no cells")
        self.job = Job(model, lines, [Cell(point.prompt, point.actions) for point in self.points])
        self.schedule: Schedule = schedule(self.job, budget, max_tokens, rung and forced_rung(self.job, rung))

    def act(
        self,
        actions: Sequence[tuple[Action, ...]],
        *,
        budget: float | str = DEFAULT_BUDGET,
        max_tokens: int | None = None,
    ) -> None:
        """Let every cell do something else, in the order of ``points``; what is read and how it is labelled stays."""
        self.points = [replace(point, actions=own) for point, own in zip(self.points, actions, strict=True)]
        self.job = Job(self.model, self.job.lines, [Cell(point.prompt, point.actions) for point in self.points])
        self.schedule = schedule(self.job, budget, max_tokens)

    @property
    def plan(self) -> Plan:
        """How it will run."""
        return self.schedule.plan

    @checked
    def run(self, *, verify: int = 0, progress: bool | Listener | None = None) -> Grid:
        """Run it."""
        if verify < 0:
            raise InputError(f"verify is the number of cells to run again, 0 or more; got {verify!r}")
        outcome, plan = execute(self.job, self.schedule, verify=verify, parts=self.parts, progress=progress)
        return self.grid(outcome, plan)

    def grid(self, outcome: Outcome, plan: Plan) -> Grid:
        """What came out, labelled."""
        return Grid(self._dataset(outcome), plan, *self._record())

    def _dataset(self, outcome: Outcome) -> Any:
        import xarray as xr

        dims, coords = self.axes.dims(), self.axes.coords()
        variables: dict[str, Any] = {}
        for number, (bound, own) in enumerate(zip(self.job.lines[0].reads, self._read_axes(), strict=True)):
            extra = tuple(len(labels) for labels in own.values())
            clean = np.full((len(self.prompts), *extra), np.nan)
            for line, values in outcome.baseline.items():
                _put(clean, (line,), values[number], own)
            cells = np.full((*dims.values(), *extra), np.nan)
            for point, run in zip(self.points, self.job.run_of, strict=True):
                _put(
                    cells,
                    point.index,
                    outcome.baseline[point.prompt][number] if run is None else outcome.values[run][number],
                    own,
                )
            variables[bound.name] = ((*dims, *own), cells)
            variables[f"{BASELINE}{bound.name}"] = (("prompt", *own), clean)
            coords |= {name: _labels(labels) for name, labels in own.items()}
        return xr.Dataset(variables, coords=coords)

    def _read_axes(self) -> list[dict[str, tuple[Any, ...]]]:
        """For each read its own dimensions, with the labels of the prompt that has most of them.

        Two reads share a dimension only if they share its labels; otherwise each gets one of its own.
        """
        found: list[dict[str, tuple[Any, ...]]] = []
        for number, read in enumerate(self.job.lines[0].reads):
            most = max((line.reads[number].axes for line in self.job.lines), key=len)
            axes: dict[str, tuple[Any, ...]] = {axis.name: () for axis in most}
            for line in self.job.lines:
                for axis in line.reads[number].axes:
                    counted = axis.name == "read_at" and len(self.job.lines) > 1
                    labels = tuple(range(len(axis.labels))) if counted else axis.labels
                    axes[axis.name] = max(axes[axis.name], labels, key=len)
            shared = {name: all(other.get(name, labels) == labels for other in found) for name, labels in axes.items()}
            found.append({name if shared[name] else f"{name}:{read.name}": labels for name, labels in axes.items()})
        return found

    def _record(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return evidence(
            self.model, self.prompts, edit=self.edits, base=self.base, read=self.reads, over=self.axes.over, at=self.placing.at,
            sites=list(self.placing.sites) or None, cumulative=self.cumulative,
        )  # fmt: skip


def make_lines(
    model: OpenModel,
    prompts: Sequence[Prompt],
    reads: Sequence[Read],
    base: Sequence[Edit],
    dims: Iterable[str] = (),
) -> list[Line]:
    """Each prompt with what is read of it and the edits that all its cells share.

    Args:
        model: The model.
        prompts: Its prompts.
        reads: What is read; each gets a name of its own.
        base: The shared edits.
        dims: Dimensions of the result that no read may be called like.
    """
    count = len(prompts)
    shared = place(model, base, prompts, record_source)
    bound = [[b for read in reads for b in read.bind(model, prompt, i, count)] for i, prompt in enumerate(prompts)]
    names = distinct((read.name for read in bound[0]), dims)
    return [
        Line(prompt, actions, tuple(replace(b, name=name) for b, name in zip(own, names, strict=True)))
        for prompt, actions, own in zip(prompts, shared, bound, strict=True)
    ]


def _know_outputs(model: OpenModel, prompt: Prompt) -> None:
    """Reads name columns of the logits, so their number must be known: it takes one run of a model never run before."""
    if model.capabilities.width_of_logits is None:
        forward(model, [Row(prompt)])


def _put(array: Any, index: tuple[int, ...], value: Tensor, axes: Mapping[str, Any]) -> None:
    """Fill one prompt's part; where others are read at several positions and it at one, that is the first of them."""
    plain = value.to(torch.float64).numpy()
    plain = plain if plain.ndim == len(axes) else plain[None]
    array[(*index, *(slice(0, n) for n in plain.shape))] = plain


def _labels(labels: tuple[Any, ...]) -> Any:
    return np.array(labels, dtype=object) if labels and isinstance(labels[0], str) else np.array(labels)


@checked
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
    rung: str | None = None,
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
        rung: Ask for a lower rung of the ladder (wavefront, layers, rows, cell) than the one that would be chosen.

    Raises:
        InputError: Something does not fit, or the rung would not be exact; raised before any work.
        EditError: ``sites``, ``at`` or ``over`` contradict what every edit says itself.
        BudgetError: One cell needs more memory than the budget.
        ExactnessError: A verified cell differs.
    """
    prepared = Prepared(
        model, prompts, edit, sites=sites, at=at, cumulative=cumulative, over=over, read=read, base=base, budget=budget,
        max_tokens=max_tokens, checkpoint=checkpoint, rung=rung,
    )  # fmt: skip
    return prepared.run(verify=verify, progress=progress)


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
    rung: str | None = None,
) -> Plan:
    """What :meth:`patchclamp.Model.sweep` with the same arguments would do and cost."""
    prepared = Prepared(
        model, prompts, edit, sites=sites, at=at, cumulative=cumulative, over=over, read=read, base=base, budget=budget,
        max_tokens=max_tokens, checkpoint=checkpoint, rung=rung,
    )  # fmt: skip
    return prepared.plan
