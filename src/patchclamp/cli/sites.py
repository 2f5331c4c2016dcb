"""``patchclamp sites MODEL``: every site of a model, its shape, and why some are missing."""

from cyclopts import App

from patchclamp.cli.options import Json, Opening
from patchclamp.cli.output import show

command = App(
    name="sites", help="List the sites of a model: shape, readable, writable, and the reason where one is missing."
)


@command.default
def sites(model: str, *, opening: Opening = Opening(), as_json: Json = False) -> None:  # noqa: B008
    """List the sites of a model.

    Args:
        model: Catalogue name, Hugging Face id or folder.
        opening: How to open it.
        as_json: Print JSON.
    """
    open_model = opening.load(model)
    rows = open_model.sites.rows()
    value = {
        "model": model,
        "layers": open_model.sites.n_layers,
        "strategy": open_model.ladder.strategy,
        "reason": open_model.ladder.reason,
        "sites": rows,
    }
    show(
        value,
        as_json=as_json,
        table=rows,
        title=f"{model}: {open_model.sites.n_layers} layers, sweeps run as {open_model.ladder.strategy}",
    )
