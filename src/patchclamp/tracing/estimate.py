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
from patchclamp.interventions.actions import Action, edited_sites
from patchclamp.interventions.execute import Outcome, run_cells
from patchclamp.interventions.forward import Row, forward, outputs_at
from patchclamp.interventions.job import Job, Line
from patchclamp.interventions.operations import Operation
from patchclamp.models.opened import OpenModel
from patchclamp.models.sitemap import columns_of
from patchclamp.models.sites import Site

MOST_NUMBERS = 64
"""Backward passes that one read may take."""


@dataclass(frozen=True, eq=False)
class Probe(Operation):
    """Adds a zero to the state, by which the metric can be differentiated, and keeps what it saw."""

    seen: list[Tensor] = field(default_factory=list)
    zeros: list[Tensor] = field(default_factory=list)

    @override
    def __call__(self, x: Tensor) -> Tensor:
        zero = torch.zeros_like(x, requires_grad=True)
        self.seen.append(x.detach())
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
    """For each read what it gives of each row."""
    states: dict[Site, Tensor]
    """``[row, position, d]``."""
    gradients: list[list[dict[Site, Tensor]]]
    """The same shapes, for each number of each read."""
    logits: list[Tensor]
    """``[position, vocabulary]`` of each row, where its reads look."""


@under(torch.enable_grad)
def slopes(
    model: OpenModel, lines: Sequence[Line], sites: Sequence[Site], compared: "Sequence[Tensor] | bool" = False
) -> Slopes:
    """One forward and one backward pass (a number of a read) over lines of one length.

    Args:
        model: The model.
        lines: Prompts under their own edits; each is measured by its own reads.
        sites: Whole sites, writable.
        compared: The logits of other runs, which reads that compare are to compare these with; True where only their values
            are wanted.

    Raises:
        InputError: A read has no gradient, or compares with the run itself.
    """
    for bound in lines[0].reads:
        if bound.site is not None:
            raise InputError(
                f"{bound.name} has no gradient to estimate with: it is no number of the logits; read a logit difference"
            )
        if bound.needs_baseline and compared is False:
            raise InputError(
                f"{bound.name} has no gradient to estimate with: it compares with the run itself, where its slope is 0; average "
                "gradients on the way between two runs (integrate=8), or read a probability or a logit difference"
            )
    if len(lines) > 1 and not model.together:
        others = [compared if isinstance(compared, bool) else compared[i : i + 1] for i in range(len(lines))]
        return _joined([slopes(model, [line], sites, other) for line, other in zip(lines, others, strict=True)])
    length = lines[0].prompt.length
    probes = {site: Probe() for site in sites}
    everywhere = None if length is None else tuple(range(length))
    first = max((action.edit for line in lines for action in line.base), default=-1) + 1
    own = tuple(Action(site, everywhere, probe, edit=first + i) for i, (site, probe) in enumerate(probes.items()))
    rows = _logits(model, [Row(line.prompt, (*line.base, *own)) for line in lines], lines, sites)
    against = rows if isinstance(compared, bool) else compared
    measured = [
        line.measure(row.unsqueeze(0), other.detach(), {})
        for line, row, other in zip(lines, rows, against, strict=True)
    ]
    values = [[value[0] for value in each] for each in zip(*measured, strict=True)]
    zeros = [probe.zeros[0] for probe in probes.values()]
    found: list[list[dict[Site, Tensor]]] = []
    for bound, each in zip(lines[0].reads, values, strict=True) if sites else ():  # else no cell reaches a read
        if not all(value.requires_grad for value in each):
            raise InputError(f"the read {bound.name!r} has no gradient; read a probability or a logit difference")
        count = max(value.numel() for value in each)
        if count > MOST_NUMBERS:
            raise InputError(f"{bound.name} reads {count} numbers, and each takes a backward pass; read fewer")
        numbers = [sum(v.flatten()[n] for v in each if n < v.numel()) for n in range(count)]
        got = [torch.autograd.grad(n, zeros, retain_graph=True, materialize_grads=True) for n in numbers]
        found.append([dict(zip(probes, gradient, strict=True)) for gradient in got])
    states = {site: probe.seen[0] for site, probe in probes.items()}
    return Slopes(
        [[value.detach() for value in each] for each in values], states, found, [row.detach() for row in rows]
    )


def _logits(model: OpenModel, rows: Sequence[Row], lines: Sequence[Line], sites: Sequence[Site]) -> list[Tensor]:
    """The logits of each row where its own reads look, ``[position, vocabulary]``, with their graph."""
    wanted = [list(line.positions) for line in lines]
    width = max(len(where) for where in wanted)
    narrow = model.narrows and not _in_head(lines, sites)
    table = [[*where, *where[-1:] * (width - len(where))] for where in wanted]
    keep = torch.tensor(table, device=model.device) if narrow else None
    logits = forward(model, rows, keep=keep, grad=True).logits
    assert logits is not None
    if narrow:
        return [row[: len(where)] for row, where in zip(logits, wanted, strict=True)]
    length = lines[0].prompt.length
    return [outputs_at(logits, row, where, length) for row, where in enumerate(wanted)]


def _joined(parts: Sequence[Slopes]) -> Slopes:
    """The slopes of several lines, one after the other."""
    first = parts[0]
    gradients = [
        [
            {site: torch.cat([part.gradients[n][k][site] for part in parts]) for site in each}
            for k, each in enumerate(own)
        ]
        for n, own in enumerate(first.gradients)
    ]
    values = [[value for part in parts for value in part.values[n]] for n in range(len(first.values))]
    states = {site: torch.cat([part.states[site] for part in parts]) for site in first.states}
    return Slopes(values, states, gradients, [row for part in parts for row in part.logits])


def _in_head(lines: Sequence[Line], sites: Sequence[Site]) -> bool:
    written = (*sites, *(action.site for line in lines for action in line.base))
    return any(site.component in ("final_norm", "logits") for site in written)


def midpoints(points: int) -> list[float]:
    """Where integrated gradients look between the corrupted run (1) and the clean one (0); nowhere for 0 points.

    Raises:
        InputError: It is no number of points.
    """
    if points < 0:
        raise InputError(f"integrate is a number of points between the two runs, 0 or more; got {points!r}")
    return [1 - (i + 0.5) / points for i in range(points)]


def estimate(job: Job, path: Sequence[Sequence[Line]] = ()) -> Outcome:
    """Every run of a job to first order.

    Args:
        job: Lines of one length.
        path: For integrated gradients: the lines at points on the way from the base run to the clean one, over which
            the gradient is averaged (Hanna et al. 2024, arXiv 2403.17806).
    """
    sites = [site.whole for site in edited_sites(run.actions for run in job.runs)]
    sites = list(dict.fromkeys(sites))
    here = slopes(job.model, job.lines, sites, compared=bool(path))
    gradients = here.gradients
    if path:
        several = [slopes(job.model, lines, sites, here.logits).gradients for lines in path]
        gradients = [
            [
                {site: torch.stack([one[n][k][site] for one in several]).mean(0) for site in sites}
                for k in range(len(own))
            ]
            for n, own in enumerate(gradients)
        ]
    outcome = Outcome(job=job)
    for line in range(len(job.lines)):
        outcome.baseline[line] = [value[line].cpu() for value in here.values]
    with guarded(torch.no_grad()):
        for number, run in enumerate(job.runs):
            moved = [_moved(job.model, action, here.states, run.line) for action in run.actions]
            outcome.values[number] = [
                base + torch.stack([_change(moved, each, run.line) for each in own[: base.numel()]]).reshape(base.shape)
                for base, own in zip(outcome.baseline[run.line], gradients, strict=True)
            ]
    return outcome


def _moved(model: OpenModel, action: Action, states: dict[Site, Tensor], row: int) -> tuple[Any, ...]:
    """The site, its positions and columns that an edit changes, and by how much."""
    whole = action.site.whole
    access = model.sites.access(action.site)
    part = columns_of(access, action.site.unit, model.sites.width(whole) or 0) if action.site.unit else slice(None)
    places = slice(None) if action.positions is None else list(action.positions)
    before = states[whole][row, places][..., part]
    after = action.operation(before)
    if action.gate is not None:
        raise InputError("an edit with a gate has no first-order estimate")
    return whole, places, part, after - before


def _change(moved: Sequence[tuple[Any, ...]], gradient: dict[Site, Tensor], row: int) -> Tensor:
    parts = [(gradient[site][row, places][..., part] * by).sum() for site, places, part, by in moved]
    return torch.stack(parts).sum().cpu()


def measured_error(job: Job, estimated: Outcome, check: int, seed: int = 0) -> dict[str, Any] | None:
    """How far an estimate is from the truth, on random cells run exactly.

    Args:
        job: The sweep.
        estimated: Its estimate.
        check: How many cells; 0 for none.
        seed: Chooses them.

    Returns:
        ``cells``, the ``pearson`` correlation and the ``relative_error`` (root of summed squares) of the first read's
        changes, and both lists; or None.
    """
    if check < 0:
        raise InputError(f"check is a number of cells to run exactly, 0 or more; got {check!r}")
    chosen = sorted(random.Random(seed).sample(range(len(job.runs)), min(check, len(job.runs))))
    if not chosen:
        return None
    small = Job(job.model, job.lines, [job.runs[run] for run in chosen])
    exact, _ = run_cells(small)
    truth, guess = (
        np.array([_first(outcome, run, job.runs[r].line) for r, run in zip(chosen, places, strict=True)])
        for outcome, places in ((exact, range(len(chosen))), (estimated, chosen))
    )
    return compared(job.lines[0].reads[0].name, truth, guess, "random cells")


def _first(outcome: Outcome, run: int, line: int) -> float:
    """How far a run moved the first number of the first read."""
    return float((outcome.values[run][0] - outcome.baseline[line][0]).flatten()[0])


def compared(read: str, truth: Any, guess: Any, what: str) -> dict[str, Any]:
    """Correlation and relative error (root of summed squares) of estimates, with a line that says them."""
    norm = float(np.linalg.norm(truth))
    varies = len(truth) > 1 and float(truth.std()) > 0 and float(guess.std()) > 0
    pearson = float(np.corrcoef(truth, guess)[0, 1]) if varies else None
    relative = float(np.linalg.norm(guess - truth)) / norm if norm else None
    shown = ["not defined" if value is None else f"{value:.2g}" for value in (pearson, relative)]
    return {
        "read": read, "cells": len(truth), "pearson": pearson, "relative_error": relative,
        "exact": truth.tolist(), "estimated": guess.tolist(),
        "said": f"by gradient; on {len(truth)} {what} run exactly: correlation {shown[0]}, relative error {shown[1]}",
    }  # fmt: skip
