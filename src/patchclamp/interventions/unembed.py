"""The end of the wavefront: what the reads need passes the model's own head, many cells at once.

Called by ``part_runner.py`` when the rows of a part have walked every layer. In the example of ``docs/engine.md`` three rows of one
position each, the last of each run, go through the head in one call.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from patchclamp.interventions.actions import Action, instructions
from patchclamp.interventions.passes import through_head
from patchclamp.interventions.sweep_task import index_like
from patchclamp.interventions.wavefront import GroupState, LayerLoop
from patchclamp.models.sites import Site

Delivery = tuple[list[int], Tensor, dict[Site, Tensor]]
"""Runs of one line, their logits ``[run, position, vocabulary]`` and their activations."""


@dataclass(eq=False)
class Pending:
    """A run whose states are ready for the head."""

    run: int
    line: int
    place: int
    """Index in its group."""
    front: GroupState
    states: Tensor
    """``[position, d]`` at the read positions from the first edit on."""
    actions: tuple[Action, ...]
    """Edits in the head itself."""
    late: tuple[int, ...]
    """Which of the line's read positions these are."""


def finish(walk: LayerLoop) -> Iterator[Delivery]:
    """Send the last states of groups that passed every layer through the head, and hand them over line by line."""
    if walk.part.depth < walk.model.sites.n_layers:
        yield from _without_head(walk)
        return
    batch: list[Pending] = []
    for item in _pending(walk):
        if batch and sum(len(p.late) for p in batch) + len(item.late) > walk.part.head_rows:
            yield from _through_head(walk, batch)
            batch = []
        batch.append(item)
    yield from _through_head(walk, batch)


def _without_head(walk: LayerLoop) -> Iterator[Delivery]:
    """Hand over activations of layers below the last: the walk ended there."""
    runs_of = walk.part.runs
    for front in walk.fronts:
        walk.keep_last(front)
        for line in dict.fromkeys(runs_of[run].line for run in front.group.runs):
            runs = [run for run in front.group.runs if runs_of[run].line == line]
            yield runs, torch.zeros(len(runs), 0, 0), _sites(walk, line, [(front, run) for run in runs])


def _pending(walk: LayerLoop) -> Iterator[Pending]:
    part, depth = walk.part, walk.model.sites.n_layers
    for front in walk.fronts:
        group, step = front.group, front.group.steps[-1]
        hidden = walk.enter(front, depth) if step.rows else None
        for place, run in enumerate(group.runs):
            line = part.runs[run].line
            positions = part.lines[line].positions
            late = tuple(i for i, position in enumerate(positions) if position >= group.start)
            row = step.row_of[run]
            assert hidden is not None
            where = index_like([positions[i] - group.start for i in late], hidden.device)
            yield Pending(run, line, place, front, hidden[row, where], step.inside[row], late)


def _through_head(walk: LayerLoop, batch: list[Pending]) -> Iterator[Delivery]:
    """Logits of some runs, those of neighbours of one line together."""
    if not batch:
        return
    part, base = walk.part, walk.base
    states = torch.cat([item.states for item in batch])
    counts = [len(item.late) for item in batch]
    head_logits = states
    if len(states):
        rows = [item.actions for item in batch for _ in item.late]
        starts = [part.lines[item.line].positions[i] for item in batch for i in item.late]
        todo = instructions(walk.model.sites, rows, starts, 1, walk.model.device, None) if any(rows) else {}
        head_logits = through_head(walk.model, states.unsqueeze(1), todo)[:, 0]
    ends = [0, *accumulate(counts)]
    for line, members in _by_line(batch):
        clean = base.logits.get(line)
        begin, end = ends[members.start], ends[members.stop]
        if clean is None:
            logits = torch.zeros(len(members), 0, 0)
        elif all(counts[i] == len(clean) for i in members):
            logits = head_logits[begin:end].reshape(len(members), *clean.shape)
        else:  # at positions before the first edit the logits are the line's own
            logits = clean.expand(len(members), -1, -1).clone()
            for place, i in enumerate(members):
                if batch[i].late:
                    logits[place, list(batch[i].late)] = head_logits[ends[i] : ends[i + 1]]
        sites = _sites(walk, line, [(batch[i].front, batch[i].run) for i in members])
        yield [batch[i].run for i in members], logits, sites


def _by_line(batch: list[Pending]) -> Iterator[tuple[int, range]]:
    """Neighbours of one line."""
    begin = 0
    for end in range(1, len(batch) + 1):
        if end == len(batch) or batch[end].line != batch[begin].line:
            yield batch[begin].line, range(begin, end)
            begin = end


def _sites(walk: LayerLoop, line: int, runs: list[tuple[GroupState, int]]) -> dict[Site, Tensor]:
    return {
        site: torch.stack([walk.seen(front, run, site) for front, run in runs]) for site in walk.part.lines[line].sites
    }
