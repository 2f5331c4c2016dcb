"""First-order estimates of a sweep: every cell from one backward pass, and the error that this makes.

An edit that turns a state ``x`` into ``x'`` changes the metric by about ``(x' - x) . grad``, with the gradient of the run
that is edited (Nanda 2023, "Attribution patching"). One pass gives all of them; how wrong they are has to be measured.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.interrupts import guarded, under
from patchclamp.interventions import (
    Action,
    Operation,
    Outcome,
    PromptRun,
    Row,
    SweepTask,
    edited_sites,
    forward,
    outputs_at,
    run_cells,
)
from patchclamp.models.opened import OpenModel
from patchclamp.models.sitemap import columns_of
from patchclamp.models.sites import Site

MOST_NUMBERS = 64
"""Backward passes that one read may take."""


@dataclass(frozen=True, eq=False)
class Probe(Operation):
    """Adds a zero to the state, by which the metric can be differentiated, and keeps what it saw."""

    states: list[Tensor] = field(default_factory=list)
    zeros: list[Tensor] = field(default_factory=list)

    @override
    def __call__(self, x: Tensor) -> Tensor:
        zero = torch.zeros_like(x, requires_grad=True)
        self.states.append(x.detach())
        self.zeros.append(zero)
        return x + zero

    @override
    @cached_property
    def key(self) -> str:
        return digest("Probe", id(self))


@dataclass(frozen=True, eq=False)
class Slopes:
    """States of some runs, and the gradients of each read there."""

    values: list[list[Tensor]]
    """The value of each read in each row."""
    states: dict[Site, Tensor]
    """The state at each site, ``[row, position, d]``."""
    gradients: list[list[dict[Site, Tensor]]]
    """The gradient of each number of each read, in the same shapes."""
    logits: list[Tensor]
    """The logits of each row at the positions of its reads, ``[position, vocabulary]``."""


@under(torch.enable_grad)
def slopes(
    model: OpenModel,
    lines: Sequence[PromptRun],
    sites: Sequence[Site],
    baseline_logits: "Sequence[Tensor] | bool" = False,
) -> Slopes:
    """One forward and one backward pass (a number of a read) over lines of one length.

    Args:
        model: The model.
        lines: The prompts under their own edits; each is measured by its own reads.
        sites: The sites, whole and writable.
        baseline_logits: The logits of other runs, which reads that compare are to compare these with; True where only their values
            are wanted.

    Raises:
        InputError: A read has no gradient, or compares with the run itself.
    """
    for bound in lines[0].reads:
        if bound.site is not None:
            raise InputError(
                f"{bound.name} has no gradient to estimate with: it is no number of the logits; read a logit difference"
            )
        if bound.needs_baseline and baseline_logits is False:
            raise InputError(
                f"{bound.name} has no gradient to estimate with: it compares with the run itself, where its slope is 0; average "
                "gradients on the way between two runs (integrate=8), or read a probability or a logit difference"
            )
    if len(lines) > 1 and not model.capabilities.together:
        line_logits = [
            baseline_logits if isinstance(baseline_logits, bool) else baseline_logits[i : i + 1]
            for i in range(len(lines))
        ]
        return _concatenate(
            [slopes(model, [line], sites, row_logits) for line, row_logits in zip(lines, line_logits, strict=True)]
        )
    length = lines[0].prompt.length
    probes = {site: Probe() for site in sites}
    all_positions = None if length is None else tuple(range(length))
    first_edit = max((action.edit for line in lines for action in line.base), default=-1) + 1
    probe_actions = tuple(
        Action(site, all_positions, probe, edit=first_edit + i) for i, (site, probe) in enumerate(probes.items())
    )
    rows = _logits(model, [Row(line.prompt, (*line.base, *probe_actions)) for line in lines], lines, sites)
    reference_logits = rows if isinstance(baseline_logits, bool) else baseline_logits
    measurements = [
        line.measure(row.unsqueeze(0), row_logits.detach(), {})
        for line, row, row_logits in zip(lines, rows, reference_logits, strict=True)
    ]
    values = [[value[0] for value in read_values] for read_values in zip(*measurements, strict=True)]
    zeros = [probe.zeros[0] for probe in probes.values()]
    gradients: list[list[dict[Site, Tensor]]] = []
    for bound, read_values in zip(lines[0].reads, values, strict=True) if sites else ():  # else no cell reaches a read
        if not all(value.requires_grad for value in read_values):
            raise InputError(f"the read {bound.name!r} has no gradient; read a probability or a logit difference")
        count = max(value.numel() for value in read_values)
        if count > MOST_NUMBERS:
            raise InputError(f"{bound.name} reads {count} numbers, and each takes a backward pass; read fewer")
        numbers = [sum(v.flatten()[n] for v in read_values if n < v.numel()) for n in range(count)]
        number_gradients = [torch.autograd.grad(n, zeros, retain_graph=True, materialize_grads=True) for n in numbers]
        gradients.append([dict(zip(probes, gradient, strict=True)) for gradient in number_gradients])
    states = {site: probe.states[0] for site, probe in probes.items()}
    return Slopes(
        [[value.detach() for value in read_values] for read_values in values],
        states,
        gradients,
        [row.detach() for row in rows],
    )


def _logits(model: OpenModel, rows: Sequence[Row], lines: Sequence[PromptRun], sites: Sequence[Site]) -> list[Tensor]:
    """The logits of each row where its own reads look, ``[position, vocabulary]``, with their graph."""
    positions = [list(line.positions) for line in lines]
    width = max(len(row_positions) for row_positions in positions)
    narrow = model.capabilities.narrows and not _in_head(lines, sites)
    padded_positions = [
        [*row_positions, *row_positions[-1:] * (width - len(row_positions))] for row_positions in positions
    ]
    keep = torch.tensor(padded_positions, device=model.device) if narrow else None
    logits = forward(model, rows, keep=keep, grad=True).logits
    assert logits is not None
    if narrow:
        return [row[: len(row_positions)] for row, row_positions in zip(logits, positions, strict=True)]
    length = lines[0].prompt.length
    return [outputs_at(logits, row, row_positions, length) for row, row_positions in enumerate(positions)]


def _concatenate(parts: Sequence[Slopes]) -> Slopes:
    """The slopes of several lines, one after the other."""
    first_part = parts[0]
    gradients = [
        [
            {site: torch.cat([part.gradients[n][k][site] for part in parts]) for site in number_gradients}
            for k, number_gradients in enumerate(read_gradients)
        ]
        for n, read_gradients in enumerate(first_part.gradients)
    ]
    values = [[value for part in parts for value in part.values[n]] for n in range(len(first_part.values))]
    states = {site: torch.cat([part.states[site] for part in parts]) for site in first_part.states}
    return Slopes(values, states, gradients, [row for part in parts for row in part.logits])


def _in_head(lines: Sequence[PromptRun], sites: Sequence[Site]) -> bool:
    edited = (*sites, *(action.site for line in lines for action in line.base))
    return any(site.component in ("final_norm", "logits") for site in edited)


def midpoints(points: int) -> list[float]:
    """Where integrated gradients look between the corrupted run (1) and the clean one (0); nowhere for 0 points.

    Raises:
        InputError: It is no number of points.
    """
    if points < 0:
        raise InputError(f"integrate is a number of points between the two runs, 0 or more; got {points!r}")
    return [1 - (i + 0.5) / points for i in range(points)]


def estimate(job: SweepTask, path: Sequence[Sequence[PromptRun]] = ()) -> Outcome:
    """Estimate every run of a job to first order.

    Args:
        job: A job whose lines have one length.
        path: For integrated gradients: the lines at points on the way from the base run to the clean one, over which
            the gradient is averaged (Hanna et al. 2024, arXiv 2403.17806).
    """
    sites = [site.whole for site in edited_sites(run.actions for run in job.unique_cells)]
    sites = list(dict.fromkeys(sites))
    base_slopes = slopes(job.model, job.lines, sites, baseline_logits=bool(path))
    gradients = base_slopes.gradients
    if path:
        path_gradients = [slopes(job.model, lines, sites, base_slopes.logits).gradients for lines in path]
        gradients = [
            [
                {site: torch.stack([point[n][k][site] for point in path_gradients]).mean(0) for site in sites}
                for k in range(len(read_gradients))
            ]
            for n, read_gradients in enumerate(gradients)
        ]
    outcome = Outcome(job=job)
    for line in range(len(job.lines)):
        outcome.baseline[line] = [value[line].cpu() for value in base_slopes.values]
    with guarded(torch.no_grad()):
        for number, run in enumerate(job.unique_cells):
            changes = [_state_change(job.model, action, base_slopes.states, run.line) for action in run.actions]
            outcome.values[number] = [
                base
                + torch.stack(
                    [_metric_change(changes, gradient, run.line) for gradient in read_gradients[: base.numel()]]
                ).reshape(base.shape)
                for base, read_gradients in zip(outcome.baseline[run.line], gradients, strict=True)
            ]
    return outcome


def _state_change(model: OpenModel, action: Action, states: dict[Site, Tensor], row: int) -> tuple[Any, ...]:
    """The site, its positions and columns that an edit changes, and by how much."""
    whole = action.site.whole
    access = model.sites.access(action.site)
    columns = columns_of(access, action.site.unit, model.sites.width(whole) or 0) if action.site.unit else slice(None)
    positions = slice(None) if action.positions is None else list(action.positions)
    state = states[whole][row, positions][..., columns]
    new_state = action.operation(state)
    if action.gate is not None:
        raise InputError("an edit with a gate has no first-order estimate")
    return whole, positions, columns, new_state - state


def _metric_change(changes: Sequence[tuple[Any, ...]], gradient: dict[Site, Tensor], row: int) -> Tensor:
    terms = [
        (gradient[site][row, positions][..., columns] * difference).sum()
        for site, positions, columns, difference in changes
    ]
    return torch.stack(terms).sum().cpu()


def measured_error(job: SweepTask, estimated: Outcome, check: int, seed: int = 0) -> dict[str, Any] | None:
    """Measure how far an estimate is from the truth, on random cells that are run exactly.

    Args:
        job: The sweep.
        estimated: The estimate of the sweep.
        check: The number of cells to run exactly; 0 for none.
        seed: The seed that chooses them.

    Returns:
        ``cells``, the ``pearson`` correlation and the ``relative_error`` (root of summed squares) of the first read's
        changes, and both lists; or None.
    """
    if check < 0:
        raise InputError(f"check is a number of cells to run exactly, 0 or more; got {check!r}")
    sample = sorted(random.Random(seed).sample(range(len(job.unique_cells)), min(check, len(job.unique_cells))))
    if not sample:
        return None
    small_job = SweepTask(job.model, job.lines, [job.unique_cells[run] for run in sample])
    exact, _ = run_cells(small_job)
    truth, estimates = (
        np.array([_first_change(outcome, run, job.unique_cells[r].line) for r, run in zip(sample, runs, strict=True)])
        for outcome, runs in ((exact, range(len(sample))), (estimated, sample))
    )
    return compare(job.lines[0].reads[0].name, truth, estimates, "random cells")


def _first_change(outcome: Outcome, run: int, line: int) -> float:
    """The change that a run makes to the first number of the first read."""
    return float((outcome.values[run][0] - outcome.baseline[line][0]).flatten()[0])


def compare(read: str, truth: Any, estimates: Any, what: str) -> dict[str, Any]:
    """Compute correlation and relative error (root of summed squares) of estimates, with a line that says them."""
    norm = float(np.linalg.norm(truth))
    varies = len(truth) > 1 and float(truth.std()) > 0 and float(estimates.std()) > 0
    pearson = float(np.corrcoef(truth, estimates)[0, 1]) if varies else None
    relative = float(np.linalg.norm(estimates - truth)) / norm if norm else None
    numbers = ["not defined" if value is None else f"{value:.2g}" for value in (pearson, relative)]
    return {
        "read": read, "cells": len(truth), "pearson": pearson, "relative_error": relative,
        "exact": truth.tolist(), "estimated": estimates.tolist(),
        "said": f"by gradient; on {len(truth)} {what} run exactly: correlation {numbers[0]}, relative error {numbers[1]}",
    }  # fmt: skip
