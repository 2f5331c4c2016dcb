"""``patchclamp repeat FOLDER``: a saved result, made again from its folder alone."""

import tomllib
from pathlib import Path

from cyclopts import App

import patchclamp as pc
from patchclamp.cli.networks import open_network
from patchclamp.cli.options import Json, Opening, Out
from patchclamp.cli.output import show

command = App(name="repeat", help="Run again what a saved folder holds, and say whether the numbers are the same.")


@command.default
def repeat(folder: Path, *, out: Out = None, as_json: Json = False) -> None:
    """Repeat a saved result.

    Args:
        folder: What a verb left under --out, or Result.save wrote.
        out: Folder for the new result.
        as_json: Print JSON.
    """
    old, new = pc.open(folder), pc.repeat(folder, _network(folder))
    same = old.frame().equals(new.frame())
    if out is not None:
        new.save(out)
    show({"folder": str(folder), "kind": new.kind, "same_numbers": same}, as_json=as_json)


def _network(folder: Path) -> "pc.Model | None":
    """The network that the saved configuration names, which no catalogue knows; None where there is none."""
    config = folder / "config.toml"
    tables = tomllib.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    for name, options in tables.items():
        if name.startswith("polytope") and "network" in options:
            return open_network(options["network"], Opening(dtype=options.get("dtype", "float32")))
    return None
