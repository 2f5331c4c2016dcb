"""Carrying out a planned job: part by part, within its budget, resumable, and checked against the slow way.

Called at the end of every sweeping function, by ``run_cells`` or with a schedule of ``planning.py``; ``part_runner.py`` computes
each part.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchclamp.core.errors import BudgetError, ExactnessError, warn
from patchclamp.core.interrupts import resumable
from patchclamp.core.progress import task
from patchclamp.core.tolerances import EXACT
from patchclamp.interventions.options import RunOptions
from patchclamp.interventions.overflow import first_site
from patchclamp.interventions.part_files import load_part, save_part
from patchclamp.interventions.part_runner import Baselines, evidence_of, run_part, run_rows
from patchclamp.interventions.parts import PartResult
from patchclamp.interventions.passes import Row
from patchclamp.interventions.planning import Plan, Schedule, schedule
from patchclamp.interventions.sweep_task import SweepTask

DEFAULT = RunOptions()
MOST_NAMED = 4
"""Cells that a warning names."""


@dataclass(eq=False, kw_only=True)
class Outcome(PartResult):
    """What all parts of a job gave."""

    job: SweepTask

    def of_cell(self, number: int) -> list[Tensor]:
        """One tensor a read; the line's own where a cell's edits reach none of its reads."""
        run = self.job.run_of[number]
        return self.baseline[self.job.cells[number].line] if run is None else self.values[run]


def run_cells(job: SweepTask, options: RunOptions = DEFAULT) -> tuple[Outcome, Plan]:
    """Plan the cells of a job and run them; see :func:`schedule` and :func:`execute`."""
    return execute(schedule(job, options), options)


def execute(scheduled: Schedule, options: RunOptions = DEFAULT, *, seed: int = 0) -> tuple[Outcome, Plan]:
    """Run a job.

    Args:
        scheduled: The job and its plan.
        options: What is verified, kept and shown.
        seed: Chooses the runs to verify.

    Raises:
        ExactnessError: A verified run differs by more than the tolerance.
        BudgetError: The machine ran out of memory; the message says what to try.
    """
    job = scheduled.job
    verified = set(random.Random(seed).sample(range(len(job.unique_cells)), min(options.verify, len(job.unique_cells))))
    try:
        outcome = _run_parts(scheduled, verified, options)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, BudgetError) or not _is_memory(error):
            raise
        less = max(scheduled.plan.budget // 2, 1)
        raise BudgetError(
            f"the machine ran out of memory under a budget of {scheduled.plan.budget} bytes; try budget={less}"
        ) from error
    _warn_of_nan(outcome)
    plan = scheduled.plan
    if finite := sorted(verified - outcome.overflow):
        plan = plan.checked(len(finite), _verify(outcome, finite))
    return outcome, plan


def _run_parts(scheduled: Schedule, verified: set[int], options: RunOptions) -> Outcome:
    """The results of all parts, and of the lines that have no cell to run."""
    job, files = scheduled.job, options.files
    outcome, baselines = Outcome(job=job), Baselines()
    with (
        resumable(None if files is None else files.folder),
        task("sweep", scheduled.plan.rows, "row-layers", show=options.progress) as bar,
    ):
        paths = None if files is None else files.paths(scheduled.parts())
        for number, part in enumerate(scheduled.parts()):
            path = None if paths is None else paths[number]
            verified_here = verified & part.runs.keys()
            if path is not None and path.is_file() and not verified_here:
                result = load_part(path, part)
            else:
                result = run_part(job.model, part, verified=verified_here, baselines=baselines, advance=bar.advance)
                if path is not None:
                    save_part(path, part, result)
            outcome.include(result)
            baselines.values |= result.baseline
        baselines.measure(job.model, dict(enumerate(job.lines)), compare=False)
        outcome.baseline |= baselines.values
    return outcome


def _warn_of_nan(outcome: Outcome) -> None:
    """Say which cells gave NaN or infinity, and where it arises in the first of them."""
    if not outcome.unread:
        return
    job, wrong = outcome.job, sorted(outcome.unread)
    first, line = job.unique_cells[wrong[0]], job.lines[job.unique_cells[wrong[0]].line]
    site = first_site(job.model, Row(line.prompt, (*line.base, *first.actions)))
    where = f"at {site}" if site else "in the read itself, whose logits are finite"
    cells = sum(run in outcome.unread for run in job.run_of)
    examples = [
        (job.unique_cells[run], job.lines[job.unique_cells[run].line].prompt.name) for run in wrong[:MOST_NAMED]
    ]
    cited = "; ".join(f"{', '.join(map(str, cell.actions))} of {name!r}" for cell, name in examples)
    more = f"; and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
    warn(
        f"{cells} of {len(job.cells)} cells gave NaN or infinity, and NaN stands for their numbers: {cited}{more}. In the first of "
        f"them it arises {where}",
    )


def _is_memory(error: BaseException) -> bool:
    message = str(error).lower()
    words = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in message for word in words)


def _verify(outcome: Outcome, runs: Sequence[int]) -> float:
    """Run cells again with one forward each; the largest difference relative to the largest logit."""
    job, worst = outcome.job, 0.0
    for run in runs:
        line = job.lines[job.unique_cells[run].line]
        logits, activations = run_rows(job.model, [(line, job.unique_cells[run])])
        slow = evidence_of(line, logits[0], activations[0])
        difference = (outcome.evidence[run] - slow).abs().max() / slow.abs().max().clamp(min=1e-30)
        worst = max(worst, float(difference))
    tolerance = EXACT.of(job.model.dtype)
    if worst > tolerance:
        raise ExactnessError(
            f"of {len(runs)} cells run again with one forward each, the worst differs by {worst:.2g} of the largest logit; "
            f"{tolerance:.0e} is promised for {job.model.dtype}. The slow way is exact: model.sweep(..., strategy='cell')"
        )
    return worst
