"""``patchclamp edit fact MODEL PROMPT --subject S --target T``: rewrite a fact in one weight matrix."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from patchclamp.cli.options import Json, ModelName, Opening, Out
from patchclamp.cli.output import keep, say, show

app = App(name="edit", help="Rewrite what a model knows; the model itself stays as it is.")


@app.command
def fact(
    model: ModelName,
    prompt: str,
    *,
    subject: str,
    target: str,
    layer: int | None = None,
    true: str | None = None,
    covariance: Literal["gutenberg", "identity"] = "gutenberg",
    ridge: float = 1e-3,
    prefixes: int = 5,
    steps: int = 25,
    lr: float = 0.5,
    kl: float = 0.0625,
    decay: float = 0.05,
    clamp: float = 4.0,
    seed: int = 0,
    try_: Annotated[list[str] | None, Parameter(name="--try", negative="")] = None,
    out: Out = None,
    export: Annotated[Path | None, Parameter(help="Folder for a checkpoint of the rewritten model.")] = None,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Give a subject another answer, by an update of rank one in one MLP (ROME).

    Args:
        prompt: The prompt, with {} for the subject or with the subject in it.
        subject: Its text.
        target: The new answer, one token with its leading space.
        layer: Whose MLP; a sixth of the way up by default.
        true: The answer to be replaced, for the table; the likeliest by default.
        covariance: Which directions other texts use; identity is a control.
        ridge: Added to the covariance's diagonal, as a share of its mean.
        prefixes: Beginnings sampled from the model.
        steps: Of the search for the new value, at most.
        lr: Its step.
        kl: Weight of what the subject is.
        decay: Weight of the change's size.
        clamp: Longest change, in lengths of the value.
        seed: Of the sampling.
        try_: Another prompt to run before and after; may be repeated.
        export: Folder for a checkpoint of the rewritten model.
    """
    from patchclamp.interventions import check_folder

    if export is not None:
        check_folder(export)
    open_model = opening.load(model)
    options: dict[str, Any] = {
        "layer": layer, "true": true, "covariance": covariance, "ridge": ridge, "prefixes": prefixes, "steps": steps, "lr": lr,
        "kl": kl, "decay": decay, "clamp": clamp, "seed": seed,
    }  # fmt: skip
    rewrite = open_model.rewrite_fact(prompt, subject, target, **options)
    say(repr(rewrite))
    config = {"model": model, "prompt": prompt, "subject": subject, "target": target, "try": try_, "export": export}
    keep(rewrite, out, "edit.fact", {**config, **options, **opening.as_config()})
    rows = _before_and_after(open_model, rewrite, try_ or [])
    value = {
        "layer": rewrite.layer,
        "target": rewrite.record["target"],
        "true": rewrite.record["true"],
        "contexts": rewrite.frame().to_dict("records"),
        "tried": rows,
        "checks": rewrite.record["checks"],
    }
    show(value, as_json=as_json, table=rows, title=f"likeliest next token; layer {rewrite.layer} rewritten")
    if export is not None:
        rewrite.export(open_model, export)
        say(f"checkpoint in {export}")


def _before_and_after(model: Any, rewrite: Any, others: list[str]) -> list[dict[str, Any]]:
    """The likeliest token of the prompt, and of others, before and after."""
    prompts = [rewrite.record["said"], *others]
    tables = [model.run(prompts, edits, logits="last").top(1) for edits in ((), rewrite.edit())]
    rows = []
    for row, prompt in enumerate(prompts):
        before, after = (table.iloc[row] for table in tables)
        rows.append(
            {
                "prompt": prompt, "before": before["token"], "p before": float(before["probability"]),
                "after": after["token"], "p after": float(after["probability"]),
            }
        )  # fmt: skip
    return rows
