"""``patchclamp assets``: the catalogue's models and data sets."""

from typing import Annotated

from cyclopts import App, Parameter

import patchclamp as pc
from patchclamp.cli.options import Json, Strings
from patchclamp.cli.output import show

app = App(name="assets", help="List, fetch, find and check the catalogue's models and data sets.")


@app.command(name="list")
def list_(*, as_json: Json = False) -> None:
    """List every asset: what it is, its licence and size, and whether it is in the cache."""
    rows = [
        {
            "name": asset.name, "kind": asset.kind, "MB": asset.megabytes, "licence": asset.licence,
            "fetched": pc.catalogue.is_fetched(asset), "what": asset.says,
        }
        for asset in pc.catalogue.ASSETS.values()
    ]  # fmt: skip
    show(rows, as_json=as_json, table=rows)


@app.command
def fetch(name: Annotated[list[str], Parameter(negative="")], *, as_json: Json = False) -> None:
    """Download and convert assets that are not in the cache yet.

    Args:
        name: Names of assets, or all.
    """
    names = list(pc.catalogue.ASSETS) if name == ["all"] else name
    folders = {item: str(pc.catalogue.fetch(item)) for item in names}
    show(folders, as_json=as_json)


@app.command
def where(name: str, *, as_json: Json = False) -> None:
    """Print the folder of a fetched asset.

    Args:
        name: Name of an asset.
    """
    folder = str(pc.catalogue.where(name))
    show({"name": name, "folder": folder} if as_json else folder, as_json=as_json)


@app.command
def verify(name: Strings = None, *, as_json: Json = False) -> None:
    """Compare every file of fetched assets with its hash.

    Args:
        name: Names of assets; all that are fetched by default.
    """
    names = name or [asset.name for asset in pc.catalogue.ASSETS.values() if pc.catalogue.is_fetched(asset)]
    rows = [{"name": item, "files": len(pc.catalogue.verify(item)), "intact": True} for item in names]
    show(rows, as_json=as_json, table=rows)
