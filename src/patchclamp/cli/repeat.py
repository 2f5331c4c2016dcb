"""``patchclamp repeat FOLDER``: a saved result, made again from its folder alone."""

from pathlib import Path

from cyclopts import App

import patchclamp as pc
from patchclamp.cli.options import Json, Out
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
    old, new = pc.open(folder), pc.repeat(folder)
    same = old.frame().equals(new.frame())
    if out is not None:
        new.save(out)
    show({"folder": str(folder), "kind": new.kind, "same_numbers": same}, as_json=as_json)
