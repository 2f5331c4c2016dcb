"""``patchclamp patch MODEL SOURCE INTO``: activation patching over layers and positions."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from patchclamp.cli.options import ModelName, Shared
from patchclamp.cli.output import keep, say, show
from patchclamp.cli.specs import ReadName, position, reads_of
from patchclamp.cli.sweep import by_read, strongest

command = App(name="patch", help="Put one run's activations into another, a cell a site and position, and measure.")


@command.default
def patch(
    model: ModelName,
    source: str,
    into: str,
    *,
    site: Annotated[list[str] | None, Parameter(negative="")] = None,
    at: str = "each",
    align: Literal["equal", "left", "right", "ends"] = "equal",
    read: Annotated[list[ReadName] | None, Parameter(negative="")] = None,
    answer: Annotated[list[str] | None, Parameter(negative="")] = None,
    budget: str = "1GB",
    verify: int = 0,
    checkpoint: str | None = None,
    layers: Literal["down", "up", "right"] = "down",
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Patch one run into another.

    Args:
        source: The prompt whose activations are taken.
        into: The prompt that receives them.
        site: Where; resid_post by default, `z.*.h*` for every head.
        at: Position; each makes a cell a position.
        align: How positions correspond where the prompts differ in length.
        read: What to measure; the logit difference of two answers by default.
        answer: Tokens that are read.
        budget: Memory beyond the model.
        verify: Run this many random cells again the slow way.
        checkpoint: Folder from which interrupted work goes on.
        layers: How the figure turns.
    """
    open_model = shared.opening.load(model)
    sites = site or ["resid_post"]
    grid = open_model.patch(
        source, into, sites=sites, at=position(at), align=align, read=reads_of(read or ["logit-difference"], answer),
        budget=budget, verify=verify,
        checkpoint=checkpoint,
    )  # fmt: skip
    say(grid.plan)
    value = {
        "baseline": by_read(grid, "baseline:"),
        "reference": by_read(grid, "reference:"),
        "values": by_read(grid),
        "plan": grid.plan.as_record(),
    }
    show(value, as_json=shared.as_json, table=strongest(grid), title="largest differences from the unpatched run")
    config = {
        "model": model, "source": source, "into": into, "site": sites, "at": at, "align": align, "read": read, "answer": answer,
        "budget": budget, "verify": verify, "layers": layers,
    }  # fmt: skip
    keep(grid, shared.out, "patch", {**config, **shared.opening.as_config()}, layers=layers)
