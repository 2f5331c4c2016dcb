"""``patchclamp path MODEL SOURCE INTO``: path patching from senders to receivers."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from patchclamp.cli.options import ModelName, Shared
from patchclamp.cli.output import keep, say, show
from patchclamp.cli.specs import ReadName, position, reads_of
from patchclamp.cli.sweep import by_read, strongest

command = App(name="path", help="Path patching: what senders do to the answer through chosen receivers alone.")


@command.default
def path(
    model: ModelName,
    source: str,
    into: str,
    *,
    sender: Annotated[list[str] | None, Parameter(negative="")] = None,
    receiver: Annotated[list[str] | None, Parameter(negative="")] = None,
    at: str = "all",
    receive_at: str = "all",
    freeze: Literal["all", "attention", "nothing"] = "all",
    align: Literal["equal", "left", "right", "ends"] = "equal",
    read: Annotated[list[ReadName] | None, Parameter(negative="")] = None,
    answer: Annotated[list[str] | None, Parameter(negative="")] = None,
    budget: str = "1GB",
    verify: int = 0,
    checkpoint: str | None = None,
    layers: Literal["down", "up", "right"] = "down",
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Patch paths.

    Args:
        source: The prompt from which senders are patched.
        into: The prompt that is run.
        sender: What sends; every head (`z.*.h*`) by default.
        receiver: What receives, together; final_norm (the logits) by default.
        at: Position of the sender; each makes a cell a position.
        receive_at: Position at which receivers are patched.
        freeze: What is held between them; attention lets MLPs belong to the path.
        align: How positions correspond where the prompts differ in length.
        read: What to measure; the logit difference of two answers by default.
        answer: Tokens that are read.
        budget: Memory beyond the model.
        verify: Run this many random cells again the slow way.
        checkpoint: Folder from which interrupted work goes on.
        layers: How the figure turns.
    """
    open_model = shared.opening.load(model)
    senders, receivers = sender or ["z.*.h*"], receiver or ["final_norm"]
    frozen_sites = {"all": ["attn_out", "mlp_out"], "attention": ["attn_out"], "nothing": []}[freeze]
    grid = open_model.path_patch(
        source, into, sender=senders, receivers=receivers, at=position(at), receive_at=position(receive_at), freeze=frozen_sites,
        align=align, read=reads_of(read or ["logit-difference"], answer), budget=budget, verify=verify,
        checkpoint=checkpoint,
    )  # fmt: skip
    say(grid.plan)
    value = {
        "baseline": by_read(grid, "baseline:"),
        "reference": by_read(grid, "reference:"),
        "values": by_read(grid),
        "plan": grid.plan.as_record(),
    }
    title = f"largest differences from the unpatched run, through {', '.join(receivers)}"
    show(value, as_json=shared.as_json, table=strongest(grid), title=title)
    config = {
        "model": model, "source": source, "into": into, "sender": senders, "receiver": receivers, "at": at,
        "receive_at": receive_at, "freeze": freeze, "align": align, "read": read, "answer": answer, "budget": budget,
        "verify": verify, "layers": layers,
    }  # fmt: skip
    keep(grid, shared.out, "path", {**config, **shared.opening.as_config()}, layers=layers)
