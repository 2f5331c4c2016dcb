"""``patchclamp run MODEL PROMPT``: one edited run, beside the unedited one."""

from typing import Annotated

from cyclopts import App, Parameter

from patchclamp.cli.options import EditOptions, ModelName, Shared, Strings
from patchclamp.cli.output import show

command = App(name="run", help="Run a prompt under edits: the likeliest next tokens before and after.")


@command.default
def run(
    model: ModelName,
    prompt: str,
    *,
    editing: EditOptions = EditOptions(),  # noqa: B008
    record: Strings = None,
    k: Annotated[int, Parameter(name=["-k", "--k"])] = 10,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Run a prompt under edits.

    Args:
        prompt: The text.
        record: Sites to save.
        k: How many tokens to show.
    """
    open_model = shared.opening.load(model)
    edits = editing.build(open_model)
    before = open_model.top(prompt, k)
    result = open_model.run(prompt, edits, record=record or ())
    after = result.top(k)
    rows = [
        {"before": a["token"], "p before": a["probability"], "after": b["token"], "p after": b["probability"]}
        for a, b in zip(before.to_dict("records"), after.to_dict("records"), strict=True)
    ]
    value = {
        "prompt": prompt,
        "fired": result.fired,
        "before": before.to_dict("records"),
        "after": after.to_dict("records"),
    }
    show(value, as_json=shared.as_json, table=rows, title=f"{prompt}   (vectors edited: {sum(result.fired)})")
    options = {
        "model": model,
        "prompt": prompt,
        "edit": editing.specs,
        "record": record,
        "k": k,
    }
    shared.keep(result, "run", options)
