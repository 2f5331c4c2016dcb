"""``patchclamp study``: the experiments of the documents that patchclamp grew from."""

import shlex
import sys
from pathlib import Path

from cyclopts import App

from patchclamp.cli.options import Json, Opening
from patchclamp.cli.output import remember, show

app = App(name="study", help="Run an experiment from beginning to end and leave its tables, pictures and report.")


@app.command
def activation_addition(
    *,
    model: str = "smollm2-135m",
    out: Path = Path("out/activation-addition"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Add the embedding of " Rome" to a model that completes "The capital of Spain is".

    Args:
        model: Catalogue name, Hugging Face id or folder.
        out: Folder for tables, pictures and the report.
        opening: How to open the model.
        as_json: Print JSON.
    """
    from patchclamp.studies.activation_addition import study

    found = study(opening.load(model), out)
    command = shlex.join(["patchclamp", *sys.argv[1:]])
    remember(out, command, "study.activation-addition", {"model": model, "out": out, **opening.as_config()})
    if as_json:
        show(found.summary(), as_json=True)
    else:
        show(found.text(), as_json=False)


@app.command
def rome_capitals(
    *,
    model: str = "smollm2-135m",
    out: Path = Path("out/rome-capitals"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Rewrite the capitals that a model knows, as in ROME, and measure what was learnt and what was broken.

    Args:
        model: Catalogue name, Hugging Face id or folder.
        out: Folder for tables, pictures and the report.
        opening: How to open the model.
        as_json: Print JSON.
    """
    from patchclamp.studies.rome_capitals import study

    found = study(opening.load(model), out)
    command = shlex.join(["patchclamp", *sys.argv[1:]])
    remember(out, command, "study.rome-capitals", {"model": model, "out": out, **opening.as_config()})
    if as_json:
        show(found.summary(), as_json=True)
    else:
        show(found.report(), as_json=False)
