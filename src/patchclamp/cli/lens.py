"""``patchclamp lens MODEL PROMPT``: what each layer would predict."""

from typing import Annotated, Any

import numpy as np
from cyclopts import App, Parameter

import patchclamp as pc
from patchclamp.cli.options import Drawn, ModelName, Strings
from patchclamp.cli.output import show
from patchclamp.cli.specs import position
from patchclamp.core.errors import InputError, check_choice
from patchclamp.lenses.metrics import METRICS

command = App(name="lens", help="What each layer would predict if it were the last one (logit lens, or a tuned one).")


@command.default
def lens(
    model: ModelName,
    prompt: str,
    *,
    site: Strings = None,
    at: str = "all",
    k: Annotated[int, Parameter(name=["-k", "--k"])] = 5,
    target: str = "next",
    metric: str = "final_probability",
    tuned: str | None = None,
    shared: Drawn = Drawn(),  # noqa: B008
) -> None:
    """Look at every layer through the model's own head.

    Args:
        prompt: The text.
        site: Where; resid_post by default, resid_mid.0-5 for some layers.
        at: Positions.
        k: How many of the likeliest tokens to keep.
        target: The token whose probability, rank and surprisal are kept; next is the prompt's own next token.
        metric: What the table and the figure's colours show, as rank, kl or entropy.
        tuned: A tuned lens: the folder that tune-lens made, or a Hugging Face id.
    """
    check_choice("metric", metric, METRICS)
    sites = site or ["resid_post"]
    open_model = shared.opening.load(model)
    tuned_lens = None if tuned is None else pc.TunedLens.from_pretrained(tuned, open_model)
    result = open_model.lens(prompt, sites, position(at), k=k, targets=target, tuned=tuned_lens)
    if not np.isfinite(result.data[metric].values[0, :, -1]).any():
        raise InputError(
            f"{metric} is that of a target, and the last position has no next token: name one with --target, or choose --at"
        )
    value = {"prompt": prompt, "rows": plain_rows(result.frame())}
    title = f"{METRICS[metric]}; the likeliest tokens after {str(result.data['token'].values[0, -1])!r}"
    show(value, as_json=shared.as_json, table=_table(result, metric), title=title)
    config = {
        "model": model, "prompt": prompt, "site": sites, "at": at, "k": k, "target": target, "metric": metric, "tuned": tuned,
    }  # fmt: skip
    shared.keep(result, "lens", config, metric=metric)


def plain_rows(frame: Any) -> list[dict[str, Any]]:
    """The frame as plain JSON, in which a missing number is null."""
    rows: list[dict[str, Any]] = frame.to_dict("records")
    return [
        {name: None if isinstance(item, float) and not np.isfinite(item) else item for name, item in row.items()}
        for row in rows
    ]


def _table(result: "pc.Lens", metric: str) -> list[dict[str, Any]]:
    """The last position that was looked at, a row a layer."""
    last = result.data.isel(prompt=0, position=-1)
    rows = []
    for row, tokens in result.top().iterrows():
        value = float(last[metric].values[list(last["site"].values).index(row)])
        cells = {"site": row, "tokens": "  ".join(map(repr, tokens))}
        rows.append({**cells, metric: int(value) if metric == "rank" else value})
    return rows
