"""Where the first NaN or infinity of a run arises: a second pass, on failure only, that looks at every site."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from patchclamp.core.errors import EditError, ModelError, PatchclampWarning
from patchclamp.interventions.actions import instructions
from patchclamp.interventions.execute import Outcome
from patchclamp.interventions.finite import readable
from patchclamp.interventions.forward import UNKNOWN_WIDTH, Row, call
from patchclamp.interventions.hooks import Port, Tap, Tolerant
from patchclamp.interventions.job import Job
from patchclamp.models.opened import OpenModel
from patchclamp.models.sitemap import Access
from patchclamp.models.sites import Site

MOST_NAMED = 6
"""Cells that a warning names."""


def first_site(model: OpenModel, row: Row) -> str | None:
    """The first site of a row's pass, run alone, at which there is NaN or infinity; None if there is none."""
    found: list[str] = []
    batch = model.batch([row.prompt])
    todo = instructions(model.sites, [row.actions], [0], batch.width or UNKNOWN_WIDTH, model.device, None)
    with torch.no_grad(), Tolerant(model.sites.modules, 1, batch.width or 1, todo, every_tap(model, found)):
        call(model, batch)
    return found[0] if found else None


def every_tap(model: OpenModel, found: list[str]) -> dict[Port, list[Tap]]:
    """Taps on every site of a model, or on every module of a plain one, that add their name when they see such a number."""

    def sink(site: Site) -> Callable[[Tensor], None]:
        def look(value: Tensor) -> None:
            if not bool(readable(value, site).all()):
                found.append(str(site))

        return look

    taps: dict[Port, list[Tap]] = {}
    for (name, layer), access in model.sites.accesses.items():
        if (name, layer) not in model.sites.refused:
            taps.setdefault(access.port, []).append(Tap(access, None, sink(Site(name, layer))))
    if not model.sites.layers:
        for path in model.sites.modules:
            access = Access(path, "out")
            taps.setdefault(access.port, []).append(Tap(access, None, sink(Site(f"{path}:out", None, None, path, "out"))))
    return taps


def refuse(model: OpenModel, row: Row) -> None:
    """Say that a run gave NaN or infinity, and where the first one arises.

    Raises:
        ModelError: The model itself gives it.
        EditError: It does under the row's edits.
    """
    site = first_site(model, row)
    named = repr(row.prompt.name)
    if site is None:
        raise ModelError(
            f"{named} gave NaN or infinity beside other prompts and none alone; run the prompts one by one (batch_tokens=1)"
        )
    half = model.dtype == torch.float16
    what = f"{named} gives NaN or infinity, which arises first at {site}"
    wider = "float16 holds numbers up to 65504: open the model with dtype='float32' or 'bfloat16'" if half else ""
    if row.actions and first_site(model, Row(row.prompt)) is None:
        raise EditError(f"under the edits {what}; make them smaller" + (f", or: {wider}" if wider else ""))
    raise ModelError(f"{what}. {wider or 'Look at its weights and at what is before this site'}")


def warn_of_cells(job: Job, outcome: Outcome, names: Callable[[int], str]) -> None:
    """Warn of cells that gave NaN or infinity: how many, which, and where it arises in the first of them.

    Args:
        job: The sweep.
        outcome: What it gave.
        names: How cell number so and so is called.
    """
    wrong = {run for run, values in outcome.values.items() if any(bool(value.isnan().any()) for value in values)}
    cells = [cell for cell, run in enumerate(job.run_of) if run is not None and run in wrong | outcome.overflowed]
    if not cells:
        return
    first = job.runs[job.run_of[cells[0]] or 0]
    line = job.lines[first.line]
    site = first_site(job.model, Row(line.prompt, (*line.base, *first.actions)))
    where = f"first at {site}" if site else "in the read itself: the logits are finite"
    shown = "; ".join(names(cell) for cell in cells[:MOST_NAMED])
    more = f"; and {len(cells) - MOST_NAMED} more" if len(cells) > MOST_NAMED else ""
    warnings.warn(
        f"{len(cells)} of {len(job.cells)} cells gave NaN or infinity and have no number: {shown}{more}. In the first of them it "
        f"arises {where}",
        PatchclampWarning,
        stacklevel=2,
    )
