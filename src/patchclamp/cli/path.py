"""``patchclamp path MODEL SOURCE INTO``: path patching from senders to receivers."""

from dataclasses import asdict
from typing import Literal

from cyclopts import App

from patchclamp.cli.options import CellOptions, Drawn, ModelName, PatchOptions, Strings
from patchclamp.cli.output import say
from patchclamp.cli.patch import show_patched
from patchclamp.cli.specs import position

command = App(name="path", help="Path patching: what senders do to the answer through chosen receivers alone.")


@command.default
def path(
    model: ModelName,
    source: str,
    into: str,
    *,
    sender: Strings = None,
    receiver: Strings = None,
    at: str = "all",
    receive_at: str = "all",
    freeze: Literal["all", "attention", "nothing"] = "all",
    reading: PatchOptions = PatchOptions(),  # noqa: B008
    cells: CellOptions = CellOptions(),  # noqa: B008
    shared: Drawn = Drawn(),  # noqa: B008
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
    """
    open_model = shared.opening.load(model)
    senders, receivers = sender or ["z.*.h*"], receiver or ["final_norm"]
    frozen_sites = {"all": ["attn_out", "mlp_out"], "attention": ["attn_out"], "nothing": []}[freeze]
    grid = open_model.path_patch(
        source, into, sender=senders, receivers=receivers, at=position(at), receive_at=position(receive_at), freeze=frozen_sites,
        **reading.as_options(), **asdict(cells),
    )  # fmt: skip
    say(grid.plan)
    title = f"largest differences from the unpatched run, through {', '.join(receivers)}"
    show_patched(grid, shared, title, plan=grid.plan.as_record())
    config = {
        "model": model, "source": source, "into": into, "sender": senders, "receiver": receivers, "at": at,
        "receive_at": receive_at, "freeze": freeze, **asdict(reading), **cells.as_config(),
    }  # fmt: skip
    shared.keep(grid, "path", config)
