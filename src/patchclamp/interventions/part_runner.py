"""One part of a job, run on a model: the only place where the numbers of a sweep are computed.

Called by ``execute.py`` for every part that no checkpoint holds, or by another process that was sent a part. What is computed
hangs on the model and the part alone: nothing is handed over but data. In the example of ``docs/engine.md`` the line runs once
(``prefix.py``), the rows of both groups walk the layers together (``wavefront.py``), and three positions pass the head
(``unembed.py``).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from patchclamp.core.interrupts import under
from patchclamp.interventions.finite import readable
from patchclamp.interventions.parts import Part, PartResult
from patchclamp.interventions.passes import Row, Sink, forward, outputs_at
from patchclamp.interventions.prefix import Base, record_base
from patchclamp.interventions.shared_rows import CLEAN
from patchclamp.interventions.sweep_task import Cell, PromptRun
from patchclamp.interventions.unembed import finish
from patchclamp.interventions.wavefront import LayerLoop
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site


@dataclass(eq=False)
class Baselines:
    """Lines without any cell's edits, kept from part to part where each part is one forward pass: nothing but time saved."""

    values: dict[int, list[Tensor]] = field(default_factory=dict)
    """Number of a prompt's run -> one tensor a read."""
    logits: dict[int, Tensor] = field(default_factory=dict)
    """Logits ``[position, vocabulary]`` are kept here under the number of a prompt's run if some read compares with them."""

    def measure(self, model: OpenModel, lines: Mapping[int, PromptRun], *, compare: bool) -> None:
        """Run the lines that were not measured; if cells will be compared, also those whose logits are gone."""
        for number, line in lines.items():
            if number not in self.values or (compare and line.compares and number not in self.logits):
                base = record_base(model, {number: line})
                self.values |= measure_lines({number: line}, base)
                if line.compares:
                    self.logits |= base.logits

    def forget_logits(self, lines: Iterable[int]) -> None:
        """Let go of the logits of all lines but these."""
        self.logits = {line: self.logits[line] for line in lines if line in self.logits}


def _ignore(rows: float) -> None:
    del rows


@under(torch.no_grad)
def run_part(
    model: OpenModel,
    part: Part,
    *,
    verified: Collection[int] = (),
    baselines: Baselines | None = None,
    advance: Callable[[float], None] = _ignore,
) -> PartResult:
    """Run a part.

    Args:
        model: The model, or an equal one in another process.
        part: What to run.
        verified: Runs that will be verified: what their reads looked at is in the result.
        baselines: These runs without edits were measured for earlier parts; only the strategies that share no layers look at them,
            and add theirs.
        advance: Told how many rows passed a layer.
    """
    if not part.groups:
        return _run_rows_of(model, part, verified, baselines or Baselines(), advance)
    result = _walk_layers(model, part, verified, advance)
    if part.waste and result.overflow:  # masked or not, NaN spreads to the rows that share a row of a call
        return _walk_layers(model, replace(part, waste=0.0), verified, _ignore)
    return result


def _walk_layers(
    model: OpenModel, part: Part, verified: Collection[int], advance: Callable[[float], None]
) -> PartResult:
    """Rows that fork from the recorded lines, through the layers together."""
    steps = [step for group in part.groups for step in enumerate(group.steps)]
    forks = {depth for depth, step in steps if any(kind == CLEAN for kind, _ in step.parents)}
    cached = part.depth if any(group.start for group in part.groups) else 0
    base = record_base(model, part.lines, sorted(forks), cached_layers=cached)
    result = PartResult(measure_lines(part.lines, base))
    walk = LayerLoop.begin(model, part, base)
    walk.through_layers(advance)
    walk.release()
    for runs, logits, activations in finish(walk):
        clean = base.logits.get(part.runs[runs[0]].line)
        _measure_runs(part, result, runs, logits, clean, activations, verified)
    return result


def _run_rows_of(
    model: OpenModel, part: Part, verified: Collection[int], baselines: Baselines, advance: Callable[[float], None]
) -> PartResult:
    """Every run of the part as a row of one whole forward pass."""
    baselines.measure(model, part.lines, compare=True)
    baselines.forget_logits(part.lines)
    result = PartResult({line: baselines.values[line] for line in part.lines})
    logits, activations = run_rows(model, [(part.lines[cell.line], cell) for cell in part.runs.values()])
    for place, (run, cell) in enumerate(part.runs.items()):
        states = {site: values.unsqueeze(0) for site, values in activations[place].items()}
        clean = baselines.logits.get(cell.line)
        _measure_runs(part, result, [run], logits[place].unsqueeze(0), clean, states, verified)
    advance(len(part.runs) * max(1, model.sites.n_layers))
    return result


def run_rows(
    model: OpenModel, cells: Sequence[tuple[PromptRun, Cell]]
) -> tuple[list[Tensor], list[dict[Site, Tensor]]]:
    """Run some cells as rows of one full forward: for each its logits ``[position, vocabulary]`` and its activations."""
    rows = [Row(line.prompt, (*line.base, *cell.actions)) for line, cell in cells]
    activations: dict[Site, Tensor] = {}
    taps = {site: _into(activations, site) for line, _ in cells for site in line.sites}
    result = forward(model, rows, taps=taps, logits=any(line.positions for line, _ in cells), check=False)
    states = [
        {site: line.states(site, activations[site][row : row + 1])[0] for site in line.sites}
        for row, (line, _) in enumerate(cells)
    ]
    if result.logits is None:
        return [torch.zeros(0, 0)] * len(cells), states
    whole = result.logits
    return [outputs_at(whole, row, line.positions, line.prompt.length) for row, (line, _) in enumerate(cells)], states


def _into(store: dict[Site, Tensor], site: Site) -> Sink:
    def sink(value: Tensor) -> None:
        store[site] = value.detach()

    return sink


@under(torch.no_grad)
def measure_lines(lines: Mapping[int, PromptRun], base: Base) -> dict[int, list[Tensor]]:
    """One tensor a read of each line of a base run, without any cell's edits."""
    values: dict[int, list[Tensor]] = {}
    for place, number in enumerate(base.lines):
        line = lines[number]
        logits = base.logits.get(number, torch.zeros(0, 0))
        states = {site: line.states(site, base.activations[site][place : place + 1]) for site in line.sites}
        values[number] = [value[0] for value in line.measure(logits.unsqueeze(0), logits, states)]
    return values


def _measure_runs(
    part: Part,
    result: PartResult,
    runs: Sequence[int],
    logits: Tensor,
    clean: Tensor | None,
    activations: dict[Site, Tensor],
    verified: Collection[int],
) -> None:
    """Measure some runs of one line, whose own logits are ``clean``."""
    line = part.lines[part.runs[runs[0]].line]
    values = line.measure(logits, clean, activations)
    fit = _fit(line, logits, activations)
    readable = torch.stack([~value.isnan().unsqueeze(1).flatten(1).any(1) for value in values]).all(0).tolist()
    for place, run in enumerate(runs):
        numbers = [value[place] for value in values]
        if not fit[place]:
            result.overflow.add(run)
            # of NaN logits a rank or the likeliest token would be a number like any other
            numbers = [
                value if read.site is not None else torch.full_like(value, torch.nan, dtype=torch.float64)
                for read, value in zip(line.reads, numbers, strict=True)
            ]
        result.values[run] = numbers
        if not (fit[place] and readable[place]):
            result.unread.add(run)
        if run in verified:
            result.evidence[run] = evidence_of(
                line, logits[place], {site: states[place] for site, states in activations.items()}
            )


def _fit(line: PromptRun, logits: Tensor, activations: Mapping[Site, Tensor]) -> list[bool]:
    """For each run, whether what its reads looked at may be read."""
    looked = [readable(logits)] if line.positions else []
    looked += [readable(activations[read.site], read.site) for read in line.reads if read.site is not None]
    fit: list[bool] = torch.cat([one.flatten(1) for one in looked], dim=1).all(1).tolist()
    return fit


def evidence_of(line: PromptRun, logits: Tensor, activations: Mapping[Site, Tensor]) -> Tensor:
    """What the reads of one run look at: its logits, or where none are read its activations."""
    if line.positions:
        return logits.detach().clone()
    return torch.cat([activations[site].flatten() for site in line.sites])
