"""How a sweep will run, what it costs, what was shared, what fell back and why.

``schedule`` is called by ``run_cells`` before any cell runs, and by ``Model.plan``. In the example of ``docs/engine.md`` it
finds two groups, by the first edited positions 1 and 4, seven row-layers instead of nine, and one part.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from patchclamp.core.arguments import present_name
from patchclamp.core.errors import BudgetError, InputError, check_choice
from patchclamp.interventions.cost import Costs, full_pass, matmul_rate, parse_bytes, wave_flops
from patchclamp.interventions.memory import Cut, Needs, cut
from patchclamp.interventions.options import RunOptions
from patchclamp.interventions.packing import WASTE
from patchclamp.interventions.parts import Part
from patchclamp.interventions.prefix import may_narrow
from patchclamp.interventions.shared_rows import Group, depth_of
from patchclamp.interventions.sweep_task import PromptRun, SweepTask
from patchclamp.models.guard import foreign_hooks

STRATEGIES = {
    "wavefront": "layers below an edit and positions before it are shared",
    "layers": "layers below an edit are shared",
    "rows": "many cells in one forward pass",
    "cell": "one forward pass a cell",
}


SHARE = 0.75
"""Work is cut to fit this share of the budget: an allocator gives freed memory back to the system late, or not at all."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a sweep. ``print(plan)`` explains it."""

    strategy: str
    """wavefront, layers, rows or cell."""
    reason: str = ""
    """Why not one that shares more ('' for the highest)."""
    cells: int
    runs: int
    """Cells that are really run."""
    dead: int = 0
    """Cells whose edits cannot reach what is read: they equal the baseline."""
    repeated: int = 0
    """Cells that repeat another one."""
    groups: int = 0
    rows: int
    """Row-layers: how many rows pass a layer, summed over layers."""
    naive_rows: int
    """The same with one full forward a cell."""
    flops: int
    naive_flops: int
    """One full forward a cell, logits at every position."""
    memory: int
    """Bytes alive at the peak, beyond the model."""
    budget: int
    seconds: float
    """Estimate, from the machine's own matrix-product rate."""
    verified: int = 0
    """Cells run again the slow way."""
    difference: float | None = None
    """Largest difference of their logits, relative to the largest logit."""

    def __str__(self) -> str:
        share = self.naive_flops / self.flops if self.flops else 1.0
        lines = [
            f"strategy   {self.strategy}: {STRATEGIES[self.strategy]}",
            *([f"because    {self.reason}"] if self.reason else []),
            f"cells      {self.cells}: {self.runs} run, {self.dead} cannot reach the read, {self.repeated} repeat another",
        ]
        if self.naive_flops:
            lines += [
                f"row-layers {self.rows:,} in {self.groups} groups (one forward a cell: {self.naive_rows:,})",
                f"FLOPs      {_si(self.flops)} (one forward a cell: {_si(self.naive_flops)}, {share:.1f}x)",
                f"memory     {_si(self.memory)}B beyond the model (budget {_si(self.budget)}B)",
                f"time       about {self.seconds:.2g} s",
            ]
        else:
            lines.append("cost       not known beforehand: nothing is known of this model's layers")
        if self.verified:
            lines.append(
                f"verified   {self.verified} cells against one forward each: difference {self.difference:.2g} of the largest logit"
            )
        return "\n".join(lines)

    def as_record(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Plan":
        """The inverse of ``as_record``."""
        return cls(**{present_name(name, ("strategy",)): value for name, value in record.items()})

    @property
    def rung(self) -> str:
        """The old name of ``strategy``."""
        return self.strategy

    def checked(self, cells: int, difference: float) -> "Plan":
        """The plan with the outcome of a verification."""
        return replace(self, verified=cells, difference=difference)


def _si(value: float) -> str:
    for factor, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {name}"
    return f"{value:.3g} "


def choose_strategy(job: SweepTask) -> tuple[str, str]:
    """The strategy that shares most and is exact for this model and this sweep, and why not more."""
    model = job.model
    if where := foreign_hooks(model.module):
        return "cell", f"{where} carries a forward hook of yours, which must see whole prompts one by one"
    if model.ladder.strategy in ("rows", "cell"):
        return model.ladder.strategy, model.ladder.reason
    if extras := _beside_ids(job):
        return "rows", f"{', '.join(extras)} beside the tokens: the model's own forward must get them whole"
    actions = [action for cell in job.unique_cells for action in cell.actions] + [
        a for line in job.lines for a in line.base
    ]
    if any(action.operation.opaque for action in actions):
        return "rows", "pc.Call is opaque: nothing is known of the function, so its cells share nothing"
    if any(line.prompt.length is None for line in job.lines):
        return "rows", "the inputs are not tokens"
    outside = next((a.site for a in actions if depth_of(a.site, model.sites.layers) is None), None)
    if outside is not None:
        return "rows", f"the site {outside} lies outside the layers"
    reads = (site for line in job.lines for site in line.sites if site.layer is None)
    away = next((s for s in reads if not s.is_raw or depth_of(s, model.sites.layers) is None), None)
    if away is not None:
        return "rows", f"the read site {away} lies outside the layers"
    return model.ladder.strategy, model.ladder.reason


def forced_strategy(job: SweepTask, strategy: str) -> str:
    """A strategy that the user asks for.

    Raises:
        InputError: There is no such strategy, or it is not exact here.
    """
    check_choice("strategy", strategy, STRATEGIES)
    highest, reason = choose_strategy(job)
    order = list(STRATEGIES)
    if order.index(strategy) < order.index(highest):
        raise InputError(
            f"strategy={strategy!r} would not give the numbers of one forward pass a cell here: {reason}; the one that does "
            f"and shares most is strategy={highest!r}"
        )
    return strategy


def _beside_ids(job: SweepTask) -> list[str]:
    """Inputs that prompts have beside their token ids."""
    return sorted({name for line in job.lines if line.prompt.ids for name in line.prompt.tensors})


@dataclass(eq=False)
class Schedule:
    """A plan with the work it stands for."""

    job: SweepTask
    plan: Plan
    batches: list[tuple[tuple[int, ...], list[Group]]]
    """For the wavefront: lines of one length, and groups that fit the budget together."""
    rows: int
    """For the other strategies: cells a forward pass."""
    head_rows: int
    waste: float
    """For the wavefront: see :func:`patchclamp.interventions.packing.lay_out`."""

    def parts(self) -> Iterator[Part]:
        """The work, in parts that do not depend on each other, in a fixed order."""
        for _, groups in self.batches:
            yield self._part([run for group in groups for run in group.runs], tuple(groups))
        if self.plan.strategy in ("rows", "cell"):
            forms = [self.job.lines[run.line].prompt.form for run in self.job.unique_cells]
            order = sorted(range(len(forms)), key=lambda run: (forms[run], self.job.unique_cells[run].line, run))
            for _, group in groupby(order, key=forms.__getitem__):
                alike = list(group)
                yield from (self._part(alike[i : i + self.rows]) for i in range(0, len(alike), self.rows))

    def _part(self, runs: Iterable[int], groups: tuple[Group, ...] = ()) -> Part:
        cells = {run: self.job.unique_cells[run] for run in runs}
        lines = {line: self.job.lines[line] for line in sorted({cell.line for cell in cells.values()})}
        return Part(self.plan.strategy, lines, cells, self.job.depth, groups, self.head_rows, self.waste)


def schedule(job: SweepTask, options: RunOptions) -> Schedule:
    """Decide how a job runs within a memory budget.

    Raises:
        BudgetError: One cell alone does not fit; the message says what would.
        InputError: The strategy that is asked for would not be exact.
    """
    if options.strategy:
        return schedule_on(job, forced_strategy(job, options.strategy), "asked for", options)
    return schedule_on(job, *choose_strategy(job), options)


def schedule_on(job: SweepTask, strategy: str, reason: str, options: RunOptions) -> Schedule:
    """The schedule of some strategy, whether it is exact or not; see :func:`schedule`."""
    model, costs = job.model, Costs.of(job.model)
    budget, max_tokens = parse_bytes(options.budget), options.max_tokens
    waste = WASTE if strategy == "wavefront" and model.ladder.packs else 0.0
    layerwise = strategy in ("wavefront", "layers")
    needs = Needs(job, costs, strategy == "wavefront", may_narrow(model, job.lines))
    one = needs.held + _one(needs, layerwise)
    if one > budget and max_tokens is None:
        read = f", {_si(needs.held)}B of it for what is read of all cells," if 2 * needs.held > one else ""
        raise BudgetError(
            f"one cell needs about {_si(one)}B beyond the model{read} and the budget is {_si(budget)}B; pass "
            f"budget='{_up(one)}'"
        )
    room = max(int(budget * SHARE), one) - needs.held
    lengths = [job.lines[run.line].prompt.length or 1 for run in job.unique_cells] or [1]
    naive = sum(
        full_pass(costs, job.lines[cell.line].prompt.length or 1, job.lines[cell.line].prompt.length or 1)
        for cell in job.cells
    )
    rates = matmul_rate(str(model.device), model.dtype, max(64, getattr(model.text_config, "hidden_size", 64) or 64))
    rows, groups = 1, []
    if layerwise:
        pieces = cut(needs, room, waste, max_tokens)
        groups = [group for _, members in pieces.batches for group in members]
        flops = sum(wave_flops(costs, members, job.depth, waste) for _, members in pieces.batches)
        flops += costs.head * sum(len(job.lines[run.line].positions) for run in job.unique_cells)
        flops += sum(full_pass(costs, line.prompt.length or 1, len(line.positions)) for line in job.lines)
        row_layers = sum(step.rows for group in groups for step in group.steps[: job.depth])
    else:
        row = max(max(needs.whole(line) + _compared(needs, line) for line in job.lines), 1)
        rows = max_tokens // max(lengths) if max_tokens else room // row
        rows = 1 if strategy == "cell" else max(1, min(len(job.unique_cells), rows))
        pieces = Cut([], 1, max(rows * row, *map(needs.recording, job.lines)))
        flops = sum(full_pass(costs, length, length) for length in lengths if job.unique_cells)
        row_layers = len(job.unique_cells) * len(costs.layer)
    plan = Plan(
        strategy=strategy,
        reason=reason,
        cells=len(job.cells),
        runs=len(job.unique_cells),
        dead=job.dead,
        repeated=job.repeated,
        groups=len(groups),
        rows=row_layers,
        naive_rows=len(job.cells) * len(costs.layer),
        flops=flops,
        naive_flops=naive,
        memory=needs.held + pieces.memory,
        budget=budget,
        seconds=flops / rates / (0.6 if layerwise else 0.4),
    )
    return Schedule(job, plan, pieces.batches, rows, pieces.head_rows, waste)


def _one(needs: Needs, layerwise: bool) -> int:
    """What the most demanding cell needs alone."""
    job = needs.job
    if not layerwise:
        return max(max(needs.whole(line) + _compared(needs, line), needs.recording(line)) for line in job.lines)
    cells = (needs.one(job.lines[number], width) for number, width in needs.widths.items())
    return max([*map(needs.recording, job.lines), *cells])


def _compared(needs: Needs, line: PromptRun) -> int:
    """The line's own logits, which its cells are compared with."""
    return len(line.positions) * needs.costs.output_bytes if line.compares else 0


def _up(need: int) -> str:
    return f"{-(-need * 11 // 10 // 10**6)}MB"
