"""Where the first NaN or infinity of a run arises: a second pass, on failure only, that looks at every site.

Called by ``passes.py``, ``execute.py`` and ``generation.py`` when ``finite.py`` found a number that may not be read.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.errors import EditError, ModelError
from patchclamp.core.interrupts import within
from patchclamp.interventions.actions import instructions
from patchclamp.interventions.finite import readable
from patchclamp.interventions.hooks import Port, Tap, Tolerant, after_each_call
from patchclamp.interventions.passes import UNKNOWN_WIDTH, Row, call, logits_of
from patchclamp.models.opened import OpenModel
from patchclamp.models.sitemap import Access
from patchclamp.models.sites import Site


def first_site(model: OpenModel, row: Row) -> str | None:
    """The first site of a row's pass, run alone, at which there is NaN or infinity; None if there is none."""
    names: list[str] = []
    batch = model.batch([row.prompt])
    todo = instructions(model.sites, [row.actions], [0], batch.width or UNKNOWN_WIDTH, model.device, None)
    session = Tolerant(model.sites.modules, 1, batch.width or 1, todo, every_tap(model, names))
    within((torch.no_grad(), session), call, model, batch)
    return names[0] if names else None


def every_tap(model: OpenModel, names: list[str]) -> dict[Port, list[Tap]]:
    """Taps on every site of a model, or on every module of a plain one, that add their name when they see such a number."""

    def sink(site: Site) -> Callable[[Tensor], None]:
        def look(value: Tensor) -> None:
            if not bool(readable(value, site).all()):
                names.append(str(site))

        return look

    taps: dict[Port, list[Tap]] = {}
    for (name, layer), access in model.sites.accesses.items():
        if (name, layer) not in model.sites.refused:
            taps.setdefault(access.port, []).append(Tap(access, None, sink(Site(name, layer))))
    if not model.sites.layers:
        for path in model.sites.modules:
            access = Access(path, "out")
            taps.setdefault(access.port, []).append(
                Tap(access, None, sink(Site(f"{path}:out", None, None, path, "out")))
            )
    return taps


def refuse(model: OpenModel, row: Row) -> None:
    """Say that a run gave NaN or infinity, and where the first one arises.

    Raises:
        ModelError: The model itself gives it.
        EditError: It does under the row's edits.
    """
    site = first_site(model, row)
    prompt_name = repr(row.prompt.name)
    if site is None:
        raise ModelError(
            f"{prompt_name} gave NaN or infinity beside other prompts and none alone; run the prompts one by one"
        )
    what = f"{prompt_name} gives NaN or infinity, which arises first at {site}"
    if row.actions and first_site(model, Row(row.prompt)) is None:
        raise EditError(f"under the edits {what}; make them smaller")
    raise ModelError(f"{what}. {_advice(model)}")


def _advice(model: OpenModel) -> str:
    if model.dtype == torch.float16:
        return "float16 holds numbers up to 65504: open the model with dtype='float32' or 'bfloat16'"
    return "Look at the weights there, and at what comes before"


class WrongStepError(Exception):
    """A call gave logits that may not be read; for :func:`patchclamp.interventions.generation.generate` to explain."""


def finite_steps(model: OpenModel) -> AbstractContextManager[Any]:
    """Inside the block every call of the model must give logits of the next token that may be read."""

    def look(output: Any) -> None:
        if not bool(readable(logits_of(output)[..., -1, :]).all()):
            raise WrongStepError

    return after_each_call(model.module, look)


def looking(model: OpenModel, names: list[str]) -> AbstractContextManager[Any]:
    """Inside the block ``names`` gets the name of every site with NaN or infinity, in the order of the passes."""
    return Tolerant(model.sites.modules, 1, 1, {}, every_tap(model, names))


def wrong_step(model: OpenModel, names: list[str], has_edits: bool) -> ModelError | EditError:
    """The error for a generation whose logits may not be read."""
    what = f"a step of the generation gives NaN or infinity{f', first at {names[0]}' if names else ''}"
    return (
        EditError(f"under the edits {what}; make them smaller")
        if has_edits
        else ModelError(f"{what}. {_advice(model)}")
    )
