"""``patchclamp top MODEL PROMPT``: the likeliest next tokens."""

from typing import Annotated

from cyclopts import App, Parameter

from patchclamp.cli.options import Json, ModelName, Opening
from patchclamp.cli.output import show

command = App(name="top", help="The likeliest next tokens of a prompt.")


@command.default
def top(
    model: ModelName,
    prompt: str,
    *,
    k: Annotated[int, Parameter(name=["-k", "--k"])] = 10,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Print the likeliest next tokens.

    Args:
        prompt: The text.
        k: How many.
    """
    table = opening.load(model).top(prompt, k)
    show(table.to_dict("records"), as_json=as_json, table=table[["rank", "token", "probability"]], title=prompt)
