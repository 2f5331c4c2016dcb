"""The end of the wavefront: what the reads need passes the model's own head, many cells at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from patchclamp.core.interrupts import under
from patchclamp.interventions.actions import Action, instructions
from patchclamp.interventions.forward import through_head
from patchclamp.interventions.job import index_like
from patchclamp.interventions.wavefront import Front, Walk
from patchclamp.models.sites import Site

Deliver = Callable[[list[int], Tensor, dict[Site, Tensor]], None]
"""Takes runs of one line, their logits ``[run, position, vocabulary]`` and their activations."""


@dataclass(eq=False)
class Pending:
    """A run whose states are ready for the head."""

    run: int
    line: int
    place: int
    """Index in its group."""
    front: Front
    states: Tensor
    """``[position, d]`` at the read positions from the first edit on."""
    actions: tuple[Action, ...]
    """Edits in the head itself."""
    late: tuple[int, ...]
    """Which of the line's read positions these are."""


@under(torch.no_grad)
def finish(walk: Walk, deliver: Deliver, head_rows: int) -> None:
    """Send the last states through the head and hand the results over, line by line.

    Args:
        walk: Groups that passed every layer.
        deliver: Receives the results.
        head_rows: How many positions pass the head at once.
    """
    if walk.job.depth < walk.model.sites.n_layers:
        _without_head(walk, deliver)
        return
    batch: list[Pending] = []
    for item in _pending(walk):
        if batch and sum(len(p.late) for p in batch) + len(item.late) > head_rows:
            _flush(walk, batch, deliver)
            batch = []
        batch.append(item)
    _flush(walk, batch, deliver)


def _without_head(walk: Walk, deliver: Deliver) -> None:
    """Hand over activations of layers below the last: the walk ended there."""
    for front in walk.fronts:
        if front.group.steps[walk.job.depth].rows:
            walk.enter(front, walk.job.depth)  # keeps what is read of the stream after the last walked layer
        for line in dict.fromkeys(walk.job.runs[run].line for run in front.group.runs):
            mine = [i for i, run in enumerate(front.group.runs) if walk.job.runs[run].line == line]
            runs = [front.group.runs[i] for i in mine]
            deliver(runs, torch.zeros(len(mine), 0, 0), _sites(walk, line, [(front, run) for run in runs]))


def _pending(walk: Walk) -> Iterator[Pending]:
    job, depth = walk.job, walk.model.sites.n_layers
    for front in walk.fronts:
        group, step = front.group, front.group.steps[-1]
        hidden = walk.enter(front, depth) if step.rows else None
        for place, run in enumerate(group.runs):
            line = job.runs[run].line
            positions = job.lines[line].positions
            late = tuple(i for i, position in enumerate(positions) if position >= group.start)
            row = step.row_of[run]
            assert hidden is not None
            where = index_like([positions[i] - group.start for i in late], hidden.device)
            yield Pending(run, line, place, front, hidden[row, where], step.inside[row], late)


def _flush(walk: Walk, batch: list[Pending], deliver: Deliver) -> None:
    if not batch:
        return
    job, base = walk.job, walk.base
    states = torch.cat([item.states for item in batch])
    counts = [len(item.late) for item in batch]
    passed = states
    if len(states):
        rows = [item.actions for item in batch for _ in item.late]
        starts = [job.lines[item.line].positions[i] for item in batch for i in item.late]
        todo = instructions(walk.model.sites, rows, starts, 1, walk.model.device, None) if any(rows) else {}
        passed = through_head(walk.model, states.unsqueeze(1), todo)[:, 0]
    ends = [0, *accumulate(counts)]
    for line, mine in _by_line(batch):
        clean = base.logits.get(line)
        begin, end = ends[mine.start], ends[mine.stop]
        if clean is None:
            logits = torch.zeros(len(mine), 0, 0)
        elif all(counts[i] == len(clean) for i in mine):
            logits = passed[begin:end].reshape(len(mine), len(clean), -1)
        else:  # at positions before the first edit the logits are the line's own
            logits = clean.expand(len(mine), -1, -1).clone()
            for place, i in enumerate(mine):
                logits[place, list(batch[i].late)] = passed[ends[i] : ends[i + 1]]
        sites = _sites(walk, line, [(batch[i].front, batch[i].run) for i in mine])
        deliver([batch[i].run for i in mine], logits, sites)


def _by_line(batch: list[Pending]) -> Iterator[tuple[int, range]]:
    """Neighbours of one line."""
    begin = 0
    for end in range(1, len(batch) + 1):
        if end == len(batch) or batch[end].line != batch[begin].line:
            yield batch[begin].line, range(begin, end)
            begin = end


def _sites(walk: Walk, line: int, runs: list[tuple[Front, int]]) -> dict[Site, Tensor]:
    return {
        site: torch.stack([walk.seen(front, run, site) for front, run in runs]) for site in walk.job.lines[line].sites
    }
