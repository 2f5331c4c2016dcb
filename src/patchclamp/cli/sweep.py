"""``patchclamp sweep MODEL PROMPT``: an edit at every site, layer and position."""

from typing import Annotated, Any

from cyclopts import App, Parameter

import patchclamp as pc
from patchclamp.cli.options import Drawn, EditOptions, ModelName, Prompts, Strings
from patchclamp.cli.output import say, show
from patchclamp.cli.specs import ReadName, over_of, position, reads_of
from patchclamp.core.errors import InputError

command = App(name="sweep", help="Apply an edit at every site, layer and position, one cell each, and measure.")


@command.default
def sweep(
    model: ModelName,
    prompt: Prompts,
    *,
    editing: EditOptions = EditOptions(),  # noqa: B008
    cumulative: bool = False,
    over: Strings = None,
    read: Annotated[list[ReadName] | None, Parameter(negative="")] = None,
    answer: Strings = None,
    budget: str = "1GB",
    verify: int = 0,
    checkpoint: str | None = None,
    plan: Annotated[bool, Parameter(negative="")] = False,
    shared: Drawn = Drawn(),  # noqa: B008
) -> None:
    """Sweep an edit.

    Args:
        prompt: One or more texts.
        cumulative: The cell at layer i edits every swept layer up to i.
        over: Parameters of the edit to sweep, as scale=1,2,4.
        read: What to measure.
        answer: Tokens whose probability, rank or logit difference is read.
        budget: Memory beyond the model.
        verify: Run this many random cells again the slow way.
        checkpoint: Folder from which a killed sweep goes on.
        plan: Only print the plan and the estimate.
    """
    open_model = shared.opening.load(model)
    short = editing.short
    swept_sites = list(dict.fromkeys(short.site)) if short and short.site else None
    edits = editing.build(open_model)
    if not edits:
        raise InputError("a sweep needs an edit: --op add --token ' Rome', or --edit JSON")
    if not swept_sites and not any(spec.site for spec in editing.specs):
        raise InputError("a sweep needs sites: --site mlp_out --site attn_out")
    at = position(short.at) if short and "at" in short.model_fields_set else None
    options: dict[str, Any] = {
        "sites": swept_sites, "at": at, "cumulative": cumulative, "over": over_of(over),
        "read": reads_of(read or ["probability"], answer), "budget": budget,
    }  # fmt: skip
    if plan:
        estimate = open_model.plan(prompt, edits, **options)
        show(estimate.as_record(), as_json=shared.as_json) if shared.as_json else show(str(estimate), as_json=False)
        return
    grid = open_model.sweep(prompt, edits, verify=verify, checkpoint=checkpoint, **options)
    say(grid.plan)
    show(_summary(grid), as_json=shared.as_json, table=strongest(grid), title="largest differences from the baseline")
    config = {
        "model": model, "prompt": prompt, "edit": editing.specs, "cumulative": cumulative, "over": over, "read": read,
        "answer": answer, "budget": budget, "verify": verify,
    }  # fmt: skip
    shared.keep(grid, "sweep", config)


def by_read(grid: "pc.Grid", run: str = "") -> Any:
    """The numbers of what was read, as JSON; those of several reads by their names.

    Args:
        grid: The result.
        run: Of which run: ``"baseline:"``, ``"reference:"``, or the swept ones.
    """
    values = {name: grid.dataset[f"{run}{name}"].values.tolist() for name in grid.reads}
    return values if len(values) > 1 else values[grid.reads[0]]


def strongest(grid: "pc.Grid", most: int = 12) -> list[dict[str, Any]]:
    """The cells furthest from the baseline, as rows."""
    from patchclamp.reports.grid import strongest as furthest

    frame = furthest(grid, most)
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]


def _summary(grid: "pc.Grid") -> dict[str, object]:
    return {
        "dims": {str(name): size for name, size in grid.dataset[grid.reads[0]].sizes.items()},
        "baseline": {name: grid.dataset[f"baseline:{name}"].values.tolist() for name in grid.reads},
        "values": {name: grid.dataset[name].values.tolist() for name in grid.reads},
        "plan": grid.plan.as_record(),
        "strongest": strongest(grid),
    }
