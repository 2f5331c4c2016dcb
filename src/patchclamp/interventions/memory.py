"""What a sweep keeps alive beyond the model, and how its prompts and rows are cut up so that it fits.

A batch has three phases, of which the largest counts: its lines are recorded, all at once; its rows walk the layers, one
call at a time beside what was recorded and what every row keeps; and its last states pass the head, some positions at a
time. What was read stays alive until the end.

Called by ``planning.py``: first for what one cell needs, then to cut the job.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from patchclamp.interventions.cost import Costs
from patchclamp.interventions.packing import ENOUGH
from patchclamp.interventions.shared_rows import Group, depth_of, group_runs, split
from patchclamp.interventions.sweep_task import PromptRun, SweepTask

Batches = list[tuple[tuple[int, ...], list[Group]]]
CELL_BYTES = 1500
"""The objects that describe a cell and hold what was read of it take about this many bytes."""


@dataclass(eq=False)
class Needs:
    """Bytes that a job needs, by what for."""

    job: SweepTask
    costs: Costs
    shared: bool
    """Whether positions before an edit are recorded keys and values."""
    narrow: bool
    """Whether only positions that are read pass the head."""

    @cached_property
    def held(self) -> int:
        """What is read of all cells, once as tensors and once in the result, and what their edits hold."""
        size = max(4, self._size)
        numbers = [sum(prod(len(axis.labels) for axis in read.axes) for read in line.reads) for line in self.job.lines]
        read = sum(numbers[run.line] for run in self.job.unique_cells) * size + sum(numbers) * (size + 8)
        cells = sum(8 * numbers[cell.line] + CELL_BYTES for cell in self.job.cells)
        actions = [a for run in self.job.unique_cells for a in run.actions] + [
            a for line in self.job.lines for a in line.base
        ]
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for action in actions
            for _, tensor in action.operation.vectors()
        }
        return read + cells + sum(storages.values())

    @property
    def _size(self) -> int:
        return torch.empty(0, dtype=self.job.model.dtype).element_size()

    @cached_property
    def depths(self) -> int:
        """How many states are recorded of a line: one for each depth at which its cells can fork, and the last."""
        layers = self.job.model.sites.layers
        return 1 + len({depth_of(action.site, layers) for run in self.job.unique_cells for action in run.actions})

    @cached_property
    def widths(self) -> dict[int, int]:
        """For each line that has cells, how many positions of one are computed at most."""
        widths: dict[int, int] = {}
        for run in self.job.unique_cells:
            first = min((min(a.positions) for a in run.actions if a.positions), default=0) if self.shared else 0
            widths[run.line] = max(widths.get(run.line, 0), (self.job.lines[run.line].prompt.length or 1) - first)
        return widths

    def _sites(self, line: PromptRun, whole: bool) -> int:
        """What is kept for the reads of activations: of every position, or of those that are read."""
        length, width = line.prompt.length or 1, self.job.model.sites.width
        return sum(
            (length if whole else len(line.wanted(site))) * (width(site) or width(site.whole) or 0) * self._size
            for site in line.sites
        )

    def left(self, line: PromptRun) -> int:
        """Return the bytes that a line needs after its cells have passed the layers."""
        last = (line.prompt.length or 1) * self.costs.state_bytes
        return last + self._sites(line, whole=True) + len(line.positions) * self.costs.output_bytes

    def base(self, line: PromptRun) -> int:
        """Return the bytes that a line needs while its cells pass the layers."""
        cache = len(self.costs.layer) * self.costs.cache_bytes if self.shared else 0
        return self.left(line) + (line.prompt.length or 1) * (cache + (self.depths - 1) * self.costs.state_bytes)

    def recording(self, line: PromptRun) -> int:
        """Return the bytes that a line needs while it is recorded."""
        length = line.prompt.length or 1
        positions = len(line.positions) if self.narrow else length if line.positions else 0
        layer = length * (self.costs.token_bytes + self.costs.key_bytes + length * self.costs.score_bytes)
        return self.base(line) + max(layer, positions * self.costs.output_bytes)

    def head(self, line: PromptRun) -> int:
        """Return the bytes that are needed to measure one cell, or the line itself."""
        return len(line.positions) * self.costs.logit_bytes + 2 * self._sites(line, whole=False)

    def call(self, width: int, length: int) -> int:
        """Return the bytes that one row needs in a call of a layer."""
        costs = self.costs
        return width * (costs.token_bytes + length * costs.score_bytes) + length * costs.key_bytes

    def packed(self, group: Group, waste: float) -> int:
        """Return the bytes that a small group needs in a call shared with others, each of whose rows sees the keys of two."""
        tokens = max(step.rows for step in group.steps) * group.width * max(waste, 1.0)
        costs = self.costs
        return int(tokens * (costs.token_bytes + 2 * costs.key_bytes + 2 * group.length * costs.score_bytes))

    def kept(self, group: Group) -> int:
        """Return the bytes that a group's rows need between the layers, for their states before and after one."""
        rows = max(step.rows for step in group.steps)
        activations = sum(
            self._sites(self.job.lines[self.job.unique_cells[run].line], whole=False) for run in group.runs
        )
        return 2 * rows * group.width * self.costs.state_bytes + activations

    def one(self, line: PromptRun, width: int) -> int:
        """Return the bytes that a single cell needs if ``width`` of its positions are computed."""
        states = 2 * width * self.costs.state_bytes + self._sites(line, whole=False)
        walk = self.base(line) + states + self.call(width, line.prompt.length or 1)
        return max(self.recording(line), walk, self.left(line) + states + self.head(line))

    def whole(self, line: PromptRun) -> int:
        """Return the bytes that a cell needs if it is a row of one whole forward pass."""
        length, costs = line.prompt.length or 1, self.costs
        layer = length * (costs.token_bytes + costs.key_bytes + length * costs.score_bytes)
        above = length * (costs.state_bytes + costs.output_bytes) if line.positions else 0
        return max(layer, above) + self.head(line) + self._sites(line, whole=True)


@dataclass(frozen=True, eq=False)
class Cut:
    """A job cut up."""

    batches: Batches
    head_rows: int
    """Positions that pass the head at once."""
    memory: int
    """Bytes at the peak, but for what is held all the time."""


def cut(needs: Needs, room: int, waste: float, tokens: int | None) -> Cut:
    """Cut a job into batches: lines of one length, and groups of their cells, that fit together.

    Args:
        needs: These name the job to cut up, and how many bytes it needs for what.
        room: Bytes for a batch.
        waste: See :func:`patchclamp.interventions.packing.lay_out`.
        tokens: Rows times positions alive at once, instead of what follows from the room.
    """
    job = needs.job
    batches: Batches = []
    runs_of: dict[int, list[int]] = {}
    for number, run in enumerate(job.unique_cells):
        runs_of.setdefault(run.line, []).append(number)
    for lines in _chunks(needs, room):
        groups = group_runs(job, needs.shared, sorted(run for line in lines for run in runs_of[line]))
        walk = room - sum(needs.base(job.lines[line]) for line in lines)
        calls = max(walk - sum(map(needs.kept, groups)), walk // 2)
        parts = [
            part
            for group in groups
            for part in split(job, group, max(1, (tokens or calls) // _row(needs, group, tokens)))
        ]
        limits = (tokens, tokens) if tokens else (max(walk - calls, 0), calls)
        batches += _packed(needs, parts, limits, waste, tokens)
    read = max((len(line.positions) for line in job.lines), default=1) or 1
    per_row = max(1, needs.costs.logit_bytes)
    free = min((room - _after(needs, *batch) for batch in batches), default=room)
    head_rows = max(read, free // per_row)
    peaks = [_peak(needs, *batch, head_rows, waste) for batch in batches]
    return Cut(batches, head_rows, max(peaks, default=0))


def _row(needs: Needs, group: Group, tokens: int | None) -> int:
    return max(1, group.width if tokens else needs.call(group.width, group.length))


def _chunks(needs: Needs, room: int) -> Iterator[list[int]]:
    """Lines of one length that fit together, with half of the room for their cells."""
    job = needs.job
    widths = needs.widths
    by_length: dict[int, list[int]] = {}
    for line in sorted(widths):
        by_length.setdefault(job.lines[line].prompt.length or 1, []).append(line)
    for _, numbers in sorted(by_length.items()):
        lines = [job.lines[number] for number in numbers]
        cells = max(needs.one(job.lines[n], widths[n]) - needs.base(job.lines[n]) for n in numbers)
        most = min(
            room // max(1, *map(needs.recording, lines)),
            (room - max(cells, room // 2)) // max(1, *map(needs.base, lines)),
        )
        most = max(1, most)
        yield from (numbers[i : i + most] for i in range(0, len(numbers), most))


def _packed(
    needs: Needs, groups: Sequence[Group], limits: tuple[int, int], waste: float, tokens: int | None
) -> Iterator[tuple[tuple[int, ...], list[Group]]]:
    """Groups put together until what they keep, or what small ones need in one call, is full."""
    pack: list[Group] = []
    between_layers = in_call = 0
    for group in groups:
        rows = max(step.rows for step in group.steps)
        small = waste and rows * group.width < ENOUGH
        more = rows * group.width if tokens else needs.kept(group)
        call = needs.packed(group, waste) if small and not tokens else 0
        if pack and (between_layers + more > limits[0] or in_call + call > limits[1]):
            yield _lines(needs.job, pack), pack
            pack, between_layers, in_call = [], 0, 0
        pack.append(group)
        between_layers, in_call = between_layers + more, in_call + call
    if pack:
        yield _lines(needs.job, pack), pack


def _after(needs: Needs, lines: Sequence[int], groups: Sequence[Group]) -> int:
    return sum(needs.left(needs.job.lines[line]) for line in lines) + sum(map(needs.kept, groups))


def _peak(needs: Needs, lines: Sequence[int], groups: Sequence[Group], head_rows: int, waste: float) -> int:
    """Bytes at the peak of a batch."""
    job = needs.job
    batch_lines = [job.lines[line] for line in lines]
    calls = [max(s.rows for s in g.steps) * needs.call(g.width, g.length) for g in groups]
    small = [needs.packed(g, waste) for g in groups if waste and max(s.rows for s in g.steps) * g.width < ENOUGH]
    positions = sum(len(job.lines[job.unique_cells[run].line].positions) for group in groups for run in group.runs)
    return max(
        sum(map(needs.recording, batch_lines)),
        sum(map(needs.base, batch_lines)) + sum(map(needs.kept, groups)) + max([*calls, sum(small)]),
        _after(needs, lines, groups) + min(head_rows, positions) * needs.costs.logit_bytes,
        *(needs.head(line) + needs.left(line) for line in batch_lines),
    )


def _lines(job: SweepTask, groups: Sequence[Group]) -> tuple[int, ...]:
    return tuple(sorted({job.unique_cells[run].line for group in groups for run in group.runs}))
