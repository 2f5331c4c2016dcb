"""Carrying out a planned job: on its rung, within its budget, resumable, and checked against the slow way."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.errors import BudgetError, ExactnessError, InputError, warn
from patchclamp.core.files import reading
from patchclamp.core.interrupts import resumable, under
from patchclamp.core.progress import Listener, task
from patchclamp.core.tensors import read_sealed, write_sealed
from patchclamp.core.tolerances import EXACT
from patchclamp.interventions.base import Base, record_base
from patchclamp.interventions.finite import readable
from patchclamp.interventions.forward import Row, forward, outputs_at
from patchclamp.interventions.head import finish
from patchclamp.interventions.job import Job, Line
from patchclamp.interventions.overflow import first_site
from patchclamp.interventions.parts import Parts
from patchclamp.interventions.plan import Plan, Schedule, may_narrow
from patchclamp.interventions.trie import CLEAN, Group
from patchclamp.interventions.wavefront import Walk
from patchclamp.models.sites import Site

MOST_NAMED = 4
"""Cells that a warning names."""


@dataclass(eq=False)
class Outcome:
    """What a job gave."""

    job: Job
    chosen: frozenset[int]
    """Runs that will be verified."""
    baseline: dict[int, list[Tensor]] = field(default_factory=dict)
    """Line -> one tensor a read."""
    values: dict[int, list[Tensor]] = field(default_factory=dict)
    """Run -> one tensor a read."""
    evidence: dict[int, Tensor] = field(default_factory=dict)
    """What the chosen runs' reads were computed from."""
    clean: dict[int, Tensor] = field(default_factory=dict)
    """Logits of the lines whose reads compare with them, ``[position, vocabulary]``."""
    overflowed: set[int] = field(default_factory=set)
    """Runs whose edits led to NaN or infinity."""
    unread: set[int] = field(default_factory=set)
    """Runs of which some read gave NaN, these and others."""

    @under(torch.no_grad)
    def note_base(self, base: Base) -> None:
        """Measure the lines of a base run, without any cell's edits."""
        for place, number in enumerate(base.lines):
            line = self.job.lines[number]
            logits = base.logits.get(number, torch.zeros(0, 0))
            seen = {site: line.states(site, base.activations[site][place : place + 1]) for site in line.sites}
            self.baseline[number] = [value[0] for value in line.measure(logits.unsqueeze(0), logits, seen)]
            if line.compares:
                self.clean[number] = logits

    def forget(self, lines: Iterable[int]) -> None:
        """Let go of the logits of lines whose cells were measured; a later batch of theirs notes them again."""
        for line in lines:
            self.clean.pop(line, None)

    @under(torch.no_grad)
    def deliver(self, runs: list[int], logits: Tensor, activations: dict[Site, Tensor]) -> None:
        """Measure some runs of one line."""
        number = self.job.runs[runs[0]].line
        line = self.job.lines[number]
        values = line.measure(logits, self.clean.get(number), activations)
        fit = _fit(line, logits, activations)
        told = torch.stack([~value.isnan().unsqueeze(1).flatten(1).any(1) for value in values]).all(0).tolist()
        for place, run in enumerate(runs):
            self.values[run] = [value[place] for value in values]
            if not fit[place]:
                self.overflowed.add(run)
                # of NaN logits a rank or the likeliest token would be a number like any other
                blank = [torch.full_like(value, torch.nan, dtype=torch.float64) for value in self.values[run]]
                chosen = zip(line.reads, self.values[run], blank, strict=True)
                self.values[run] = [value if read.site is not None else nothing for read, value, nothing in chosen]
            if not (fit[place] and told[place]):
                self.unread.add(run)
            if run in self.chosen:
                self.evidence[run] = _evidence(line, logits[place], {site: a[place] for site, a in activations.items()})


def _fit(line: Line, logits: Tensor, activations: dict[Site, Tensor]) -> list[bool]:
    """For each run, whether what its reads looked at may be read."""
    looked = [readable(logits)] if line.positions else []
    for read in line.reads:
        if read.site is not None:
            looked.append(readable(activations[read.site], read.site))
    found: list[bool] = torch.cat([one.flatten(1) for one in looked], dim=1).all(1).tolist()
    return found


def _evidence(line: Line, logits: Tensor, activations: dict[Site, Tensor]) -> Tensor:
    if line.positions:
        return logits.detach().clone()
    return torch.cat([activations[site].flatten() for site in line.sites])


def execute(
    job: Job,
    scheduled: Schedule,
    *,
    verify: int = 0,
    parts: Parts | None = None,
    progress: bool | Listener | None = None,
    seed: int = 0,
) -> tuple[Outcome, Plan]:
    """Run a job.

    Args:
        job: The sweep.
        scheduled: Its plan.
        verify: How many random runs to repeat with one forward each.
        parts: Where finished parts are kept; a later call with the same job goes on from there.
        progress: See :func:`patchclamp.core.progress.task`.
        seed: Chooses the runs to verify.

    Raises:
        ExactnessError: A verified run differs by more than the tolerance.
        BudgetError: The machine ran out of memory; the message says what to try.
    """
    if verify < 0:
        raise InputError(f"verify is how many runs to repeat, 0 or more; got {verify}")
    chosen = sorted(random.Random(seed).sample(range(len(job.runs)), min(verify, len(job.runs))))
    outcome = Outcome(job, frozenset(chosen))
    try:
        kept = resumable(None if parts is None else parts.folder)
        with kept, task("sweep", scheduled.plan.rows, "row-layers", show=progress) as bar:
            pieces = _parts(job, scheduled, outcome, bar.advance)
            files = [None] * len(pieces) if parts is None else parts.files(job, scheduled, [runs for runs, _ in pieces])
            for (runs, work), file in zip(pieces, files, strict=True):
                if file is not None and file.is_file() and not set(runs) & set(chosen):
                    _load(file, runs, outcome)
                    continue
                work()
                if file is not None:
                    _store(file, runs, outcome)
            _missing_baselines(job, outcome)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, BudgetError) or not _is_memory(error):
            raise
        less = max(scheduled.plan.budget // 2, 1)
        raise BudgetError(
            f"the machine ran out of memory under a budget of {scheduled.plan.budget} bytes; try budget={less}"
        ) from error
    _warn_of_nan(job, outcome)
    plan = scheduled.plan
    if chosen := [run for run in chosen if run not in outcome.overflowed]:
        plan = plan.checked(len(chosen), _verify(job, outcome, chosen))
    return outcome, plan


def _warn_of_nan(job: Job, outcome: Outcome) -> None:
    """Say which cells gave NaN or infinity, and where it arises in the first of them."""
    if not outcome.unread:
        return
    wrong = sorted(outcome.unread)
    first, line = job.runs[wrong[0]], job.lines[job.runs[wrong[0]].line]
    site = first_site(job.model, Row(line.prompt, (*line.base, *first.actions)))
    where = f"at {site}" if site else "in the read itself, whose logits are finite"
    cells = sum(run in outcome.unread for run in job.run_of)
    shown = [(job.runs[run], job.lines[job.runs[run].line].prompt.name) for run in wrong[:MOST_NAMED]]
    named = "; ".join(f"{', '.join(map(str, cell.actions))} of {name!r}" for cell, name in shown)
    more = f"; and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
    warn(
        f"{cells} of {len(job.cells)} cells gave NaN or infinity, and NaN stands for their numbers: {named}{more}. In the first of "
        f"them it arises {where}",
    )


def _is_memory(error: BaseException) -> bool:
    said = str(error).lower()
    words = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in said for word in words)


Work = Callable[[], None]


def _parts(
    job: Job, scheduled: Schedule, outcome: Outcome, advance: Callable[[float], None]
) -> list[tuple[list[int], Work]]:
    """Independent pieces of the job, in a fixed order."""
    parts: list[tuple[list[int], Work]] = []
    if scheduled.plan.rung in ("wavefront", "layers"):
        for lines, groups in scheduled.batches:
            runs = [run for group in groups for run in group.runs]
            parts.append((runs, partial(_wave, job, lines, groups, scheduled, outcome, advance)))
        return parts
    order = sorted(range(len(job.runs)), key=lambda run: (_shape(job, run), job.runs[run].line, run))
    begin = 0
    while begin < len(order):
        chunk = [run for run in order[begin : begin + scheduled.rows] if _shape(job, run) == _shape(job, order[begin])]
        parts.append((chunk, partial(_rows, job, chunk, outcome, advance)))
        begin += len(chunk)
    return parts


def _shape(job: Job, run: int) -> tuple[Any, ...]:
    """Runs of one shape can be rows of one batch without padding."""
    return job.lines[job.runs[run].line].prompt.form


def _wave(
    job: Job,
    lines: tuple[int, ...],
    groups: list[Group],
    scheduled: Schedule,
    outcome: Outcome,
    advance: Callable[[float], None],
) -> None:
    forks = {
        depth for group in groups for depth, step in enumerate(group.steps) if any(p[0] == CLEAN for p in step.parents)
    }
    cached = any(group.start for group in groups)
    base = record_base(job, lines, sorted(forks), keep_cache=cached, narrow=may_narrow(job, lines))
    outcome.note_base(base)
    walk = Walk.begin(job, base, groups, scheduled.waste)
    walk.through_layers(advance)
    walk.release()
    finish(walk, outcome.deliver, scheduled.head_rows)
    outcome.forget(lines)
    runs = {run for group in groups for run in group.runs}
    if (
        scheduled.waste and runs & outcome.overflowed
    ):  # masked or not, NaN spreads to the rows that share a row of a call
        outcome.overflowed -= runs
        outcome.unread -= runs
        _wave(job, lines, groups, replace(scheduled, waste=0.0), outcome, lambda _: None)


def _rows(job: Job, chunk: list[int], outcome: Outcome, advance: Callable[[float], None]) -> None:
    _missing_baselines(job, outcome, [job.runs[run].line for run in chunk])
    outcome.forget(set(outcome.clean) - {job.runs[run].line for run in chunk})
    logits, activations = run_rows(job, chunk)
    for place, run in enumerate(chunk):
        seen = {site: states.unsqueeze(0) for site, states in activations[place].items()}
        outcome.deliver([run], logits[place].unsqueeze(0), seen)
    advance(len(chunk) * max(1, job.model.sites.n_layers))


def run_rows(job: Job, runs: Sequence[int]) -> tuple[list[Tensor], list[dict[Site, Tensor]]]:
    """Run some cells as rows of one full forward: for each its logits ``[position, vocabulary]`` and its activations."""
    lines = [job.lines[job.runs[run].line] for run in runs]
    rows = [Row(line.prompt, (*line.base, *job.runs[run].actions)) for line, run in zip(lines, runs, strict=True)]
    seen: dict[Site, Tensor] = {}
    taps = {site: _into(seen, site) for line in lines for site in line.sites}
    done = forward(job.model, rows, taps=taps, logits=any(line.positions for line in lines), check=False)
    states = [
        {site: line.states(site, seen[site][row : row + 1])[0] for site in line.sites} for row, line in enumerate(lines)
    ]
    if done.logits is None:
        return [torch.zeros(0, 0)] * len(runs), states
    whole = done.logits
    return [outputs_at(whole, row, line.positions, line.prompt.length) for row, line in enumerate(lines)], states


def _into(store: dict[Site, Tensor], site: Site) -> Callable[[Tensor], None]:
    def sink(value: Tensor) -> None:
        store[site] = value.detach()

    return sink


def _missing_baselines(job: Job, outcome: Outcome, lines: Iterable[int] | None = None) -> None:
    """Run the lines that no base run measured: those without runs, or on the lower rungs.

    Lines about to be measured also need their logits if they compare with them; a checkpoint holds the numbers only.
    """
    for number in dict.fromkeys(range(len(job.lines)) if lines is None else lines):
        compared = lines is not None and job.lines[number].compares and number not in outcome.clean
        if number not in outcome.baseline or compared:
            outcome.note_base(record_base(job, [number], [], keep_cache=False, narrow=may_narrow(job, [number])))


def _store(file: Path, runs: Sequence[int], outcome: Outcome) -> None:
    numbers = _numbers(runs, outcome)
    write_sealed(file, {f"{k}.{place}.{read}": v for k, place, _, values in numbers for read, v in enumerate(values)})


def _load(file: Path, runs: Sequence[int], outcome: Outcome) -> None:
    advice = "delete it to start again"
    arrays = read_sealed(file, advice)[0]
    with reading(file, advice):
        for kind, place, number, values in _numbers(runs, outcome):
            reads = len(outcome.job.lines[number].reads)
            values[:] = [arrays[f"{kind}.{place}.{read}"] for read in range(reads)]
            if kind == "run" and any(bool(value.isnan().any()) for value in values):
                outcome.unread.add(runs[place])


def _numbers(runs: Sequence[int], outcome: Outcome) -> Iterator[tuple[str, int, int, list[Tensor]]]:
    """What a part's file holds: kind, place in the file, line, and the outcome's own list for it.

    Baselines belong to it: computed again with other lines beside them, their last bits could differ.
    """
    lines = dict.fromkeys(outcome.job.runs[run].line for run in runs)
    for place, number in enumerate(lines):
        yield "line", place, number, outcome.baseline.setdefault(number, [])
    for place, run in enumerate(runs):
        yield "run", place, outcome.job.runs[run].line, outcome.values.setdefault(run, [])


def _verify(job: Job, outcome: Outcome, chosen: Sequence[int]) -> float:
    """Run cells again with one forward each; the largest difference relative to the largest logit."""
    worst = 0.0
    for run in chosen:
        logits, activations = run_rows(job, [run])
        slow = _evidence(job.lines[job.runs[run].line], logits[0], activations[0])
        difference = (outcome.evidence[run] - slow).abs().max() / slow.abs().max().clamp(min=1e-30)
        worst = max(worst, float(difference))
    allowed = EXACT.of(job.model.dtype)
    if worst > allowed:
        raise ExactnessError(
            f"of {len(chosen)} cells run again with one forward each, the worst differs by {worst:.2g} of the largest logit; "
            f"{allowed:.0e} is promised for {job.model.dtype}. The slow way is exact: model.sweep(..., rung='cell')"
        )
    return worst
