"""``patchclamp attribute MODEL SOURCE INTO``: activation patching estimated by gradient."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from patchclamp.cli.options import ModelName, Shared
from patchclamp.cli.output import keep, say, show
from patchclamp.cli.specs import ReadName, position, reads_of
from patchclamp.cli.sweep import by_read, strongest

command = App(name="attribute", help="Estimate activation patching by gradient, and measure how wrong the estimate is.")


@command.default
def attribute(
    model: ModelName,
    source: str,
    into: str,
    *,
    site: Annotated[list[str] | None, Parameter(negative="")] = None,
    at: str = "each",
    align: Literal["equal", "left", "right", "ends"] = "equal",
    read: Annotated[list[ReadName] | None, Parameter(negative="")] = None,
    answer: Annotated[list[str] | None, Parameter(negative="")] = None,
    integrate: int = 0,
    check: int = 20,
    layers: Literal["down", "up", "right"] = "down",
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Estimate what patching one run into another would do.

    Args:
        source: The prompt whose activations are taken.
        into: The prompt that receives them.
        site: Where; resid_post by default, `z.*.h*` for every head.
        at: Position; each makes a cell a position.
        align: How positions correspond where the prompts differ in length.
        read: What to measure; the logit difference of two answers by default.
        answer: Tokens that are read.
        integrate: Points of integrated gradients.
        check: Random cells run exactly.
        layers: How the figure turns.
    """
    open_model = shared.opening.load(model)
    sites = site or ["resid_post"]
    attribution = open_model.attribution_patch(
        source, into, sites=sites, at=position(at), align=align, read=reads_of(read or ["logit-difference"], answer),
        integrate=integrate, check=check,
    )  # fmt: skip
    say(repr(attribution))
    value = {
        "baseline": by_read(attribution, "baseline:"),
        "reference": by_read(attribution, "reference:"),
        "values": by_read(attribution),
        "agreement": attribution.agreement,
    }
    show(
        value,
        as_json=shared.as_json,
        table=strongest(attribution),
        title="largest estimated differences from the unpatched run",
    )
    config = {
        "model": model, "source": source, "into": into, "site": sites, "at": at, "align": align, "read": read, "answer": answer,
        "integrate": integrate, "check": check, "layers": layers,
    }  # fmt: skip
    keep(attribution, shared.out, "attribute", {**config, **shared.opening.as_config()}, layers=layers)
