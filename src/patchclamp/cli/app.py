"""The application: verbs, configuration files, exit codes."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Toml
from pydantic import ValidationError

from patchclamp import __version__
from patchclamp.cli import (
    assets,
    attribute,
    curves,
    direction,
    edit,
    generate,
    heads,
    lens,
    patch,
    patchscope,
    path,
    polytope,
    repeat,
    run,
    sites,
    steer,
    study,
    sweep,
    top,
    trace,
    tune_lens,
    weights,
)
from patchclamp.cli.networks import typed
from patchclamp.cli.output import say
from patchclamp.core.errors import InputError, PatchclampError, unknown
from patchclamp.core.text import json_text

OK, FAILED, MISUSED = 0, 1, 2

app = App(
    name="patchclamp",
    version=__version__,
    help="Open a model, read its activations at named sites, edit them, and measure and see what the edit did.",
    help_format="markdown",
    result_action="return_value",
)
VERBS = (
    sites, top, run, sweep, patch, path, lens, curves, tune_lens, patchscope, weights, trace, attribute, heads, generate, steer,
    repeat,
)  # fmt: skip
for verb in VERBS:
    app.command(verb.command)
app.command(assets.app)
app.command(direction.app)
app.command(edit.app)
app.command(polytope.app)
app.command(study.app)


@app.meta.default
def _with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="TOML file with a table for each verb; options on the command line win.")
    ] = None,
) -> Any:
    if config is not None:
        if not config.is_file():
            raise InputError(f"the configuration file {str(config)!r} does not exist")
        app.config = (Toml(config, must_exist=True),)
    try:
        return app(tokens, exit_on_error=False, print_error=False)
    finally:
        app.config = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        0 if it worked, 1 if the work failed, 2 if the request could not be understood.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    before = typed.set(arguments)
    try:
        app.meta(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _complain(_said(error), "usage", MISUSED, as_json)
    except PatchclampError as error:
        return _complain(
            str(error), type(error).__name__, MISUSED if isinstance(error, InputError) else FAILED, as_json
        )
    except KeyboardInterrupt:
        return _complain("interrupted", "KeyboardInterrupt", FAILED, as_json)
    finally:
        typed.reset(before)
    return OK


def _said(error: CycloptsError) -> str:
    """The message of a misuse; that of pydantic, who checks edits, in our own form."""
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return str(error)
    parts = []
    for item in cause.errors():
        name = "--" + ".".join(str(part) for part in item["loc"]).replace("_", "-")
        choices = re.findall(r"'([^']+)'", str(item.get("ctx", {}).get("expected", "")))
        given = item["input"]
        parts.append(unknown(name, str(given), choices) if choices else f"{name}: {item['msg']}, got {given!r}")
    return "; ".join(parts)


def _complain(message: str, kind: str, code: int, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json_text({"error": kind, "message": message}) + "\n")
    say(f"patchclamp: {message}")
    return code


def run_process() -> None:
    """Entry point of the console script."""
    sys.exit(main())


__all__ = ["app", "main", "run_process"]
