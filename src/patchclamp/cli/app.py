"""The application: verbs, configuration files, exit codes."""

import re
import shlex
import sys
from collections.abc import Sequence
from inspect import signature
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
    dictionary,
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
from patchclamp.cli.networks import command_words
from patchclamp.cli.output import say
from patchclamp.core.errors import InputError, PatchclampError, unknown
from patchclamp.core.text import json_text

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="patchclamp",
    version=__version__,
    help="Open a model, read its activations at named sites, edit them, and measure and see what the edit did.",
    help_format="markdown",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # so that it can be said what is kept
)
VERBS = (
    sites, top, run, sweep, patch, path, lens, curves, tune_lens, patchscope, weights, trace, attribute, heads, generate, steer,
    repeat,
)  # fmt: skip
for verb in VERBS:
    app.command(verb.command)
app.command(assets.app)
app.command(dictionary.app)
app.command(direction.app)
app.command(edit.app)
app.command(polytope.app)
app.command(study.app)
app.meta.suppress_keyboard_interrupt = False


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
        0 if it worked, 1 if the work failed, 2 if the request could not be understood, 130 if it was interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    token = command_words.set(arguments)
    try:
        app.meta(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _complain(_misuse_message(error), "usage", MISUSED, as_json)
    except PatchclampError as error:
        return _complain(
            str(error), type(error).__name__, MISUSED if isinstance(error, InputError) else FAILED, as_json
        )
    except KeyboardInterrupt as error:
        return _complain(_interrupt_message(error, arguments), "KeyboardInterrupt", INTERRUPTED, as_json)
    finally:
        command_words.reset(token)
    return OK


def _interrupt_message(error: KeyboardInterrupt, arguments: Sequence[str]) -> str:
    """What an interrupted command left, and the command that goes on."""
    command = shlex.join(["patchclamp", *arguments])
    if notes := getattr(error, "__notes__", ()):
        return f"interrupted; {notes[-1]}:\n{command}"
    has_checkpoint = any(argument.split("=")[0] == "--checkpoint" for argument in arguments)
    checkpoint_verbs = [verb for verb in VERBS if "checkpoint" in signature(verb.command.default_command).parameters]
    if not has_checkpoint and any(
        argument in verb.command.name for verb in checkpoint_verbs for argument in arguments[:1]
    ):
        return f"interrupted, and nothing is kept; with a checkpoint it could go on:\n{command} --checkpoint FOLDER"
    return f"interrupted before anything was finished; to begin again:\n{command}" if has_checkpoint else "interrupted"


def _misuse_message(error: CycloptsError) -> str:
    """The message of a misuse; that of pydantic, who checks edits, in our own form."""
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return str(error)
    parts = []
    for item in cause.errors():
        name = "--" + ".".join(str(part) for part in item["loc"]).replace("_", "-")
        choices = re.findall(r"'([^']+)'", str(item.get("ctx", {}).get("expected", "")))
        value = item["input"]
        parts.append(unknown(name, str(value), choices) if choices else f"{name}: {item['msg']}, got {value!r}")
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
