"""``patchclamp repeat FOLDER``: a saved result, made again from its folder alone."""

import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import App, Parameter

import patchclamp as pc
from patchclamp.cli.networks import NETWORK_HELP, NETWORKS, is_python, open_network
from patchclamp.cli.options import Dtype, Json, Opening, Out
from patchclamp.cli.output import say, show
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.files import read_text

command = App(name="repeat", help="Run again what a saved folder holds, and say whether the numbers are the same.")


@command.default
def repeat(
    folder: Path,
    *,
    network: Annotated[str | None, Parameter(help=NETWORK_HELP)] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Repeat a saved result.

    A folder may come from somebody else, so what it names is said before it is opened, and Python that it names is not run.

    Args:
        folder: What a verb left under --out, or Result.save wrote.
        network: The network to repeat it with; the recorded one by default. A Python file has to be named here.
        out: Folder for the new result.
    """
    from patchclamp.repeating import announcement

    old = pc.open(folder)
    spec, dtype = _recorded_network(folder)
    if network is None and spec is not None:
        _refuse_python(folder, spec)
        say(f"patchclamp: {announcement(folder, spec, 'a network of the studies' if _is_of_studies(spec) else None)}")
    network_spec = network or spec
    model = None if network_spec is None else open_network(network_spec, Opening(dtype=dtype))
    new = pc.repeat(folder, model)
    same = old.frame().equals(new.frame())
    if out is not None:
        new.save(out)
    show({"folder": str(folder), "kind": new.kind, "same_numbers": same}, as_json=as_json)


def _is_of_studies(spec: str) -> bool:
    return spec.partition(":")[0] in NETWORKS


def _refuse_python(folder: Path, spec: str) -> None:
    if is_python(spec):
        trusted_command = shlex.join(["patchclamp", "repeat", str(folder), "--network", spec])
        raise InputError(
            f"{str(folder)!r} was made with a network of the Python file {spec!r}. What a folder names is not run: read the "
            f"file, and if you trust it, name it yourself: {trusted_command}"
        )


def _recorded_network(folder: Path) -> tuple[str | None, Dtype]:
    """The network that the saved configuration names, which no catalogue knows, and its dtype; None where there is none."""
    config = folder / "config.toml"
    try:
        tables: dict[str, Any] = tomllib.loads(read_text(config)) if config.is_file() else {}
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{str(config)!r} is no TOML: {error}") from error
    for name, options in tables.items():
        if name.startswith("polytope") and isinstance(options, dict) and "network" in options:
            spec, dtype = options["network"], options.get("dtype", "float32")
            if not isinstance(spec, str):
                raise InputError(f"{str(config)!r} names the network {spec!r}, which is no text")
            if dtype not in get_args(Dtype):
                raise InputError(f"{str(config)!r}: {unknown('dtype', dtype, get_args(Dtype))}")
            return spec, dtype
    return None, "float32"
