"""``patchclamp patchscope MODEL PROMPT``: what the model says of its own states."""

from typing import Annotated, Any

import numpy as np
from cyclopts import App, Parameter

from patchclamp.cli.lens import plain_rows
from patchclamp.cli.options import Drawn, ModelName, Strings
from patchclamp.cli.output import show
from patchclamp.cli.specs import position
from patchclamp.core.errors import check_choice
from patchclamp.lenses.metrics import METRICS

command = App(name="patchscope", help="Put a prompt's states into another prompt, and see what the model says of them.")


@command.default
def patchscope(
    model: ModelName,
    prompt: str,
    *,
    target: str | None = None,
    site: Strings = None,
    at: str = "last",
    into: str | None = None,
    into_at: str = "last",
    k: Annotated[int, Parameter(name=["-k", "--k"])] = 5,
    max_new_tokens: Annotated[int, Parameter(name=["-n", "--max-new-tokens"])] = 0,
    metric: str = "final_probability",
    shared: Drawn = Drawn(),  # noqa: B008
) -> None:
    """Let a model describe its own states.

    Args:
        prompt: The text whose states are taken.
        target: The prompt that they are put into; the paper's token identity prompt by default.
        site: Where states are taken; resid_post by default.
        at: Positions in the prompt.
        into: Site in the target, as resid_post.2; by default the one that the state comes from.
        into_at: Position in the target, as -1 or 'token: x'.
        k: How many of the likeliest tokens to keep.
        max_new_tokens: Tokens to generate after the target.
        metric: What the figure's colours show, as rank, kl or surprisal.
    """
    check_choice("metric", metric, METRICS)
    target_option: dict[str, Any] = {} if target is None else {"target": target}
    sites = site or ["resid_post"]
    result = shared.opening.load(model).patchscope(
        prompt,
        sites,
        position(at),
        into=into,
        into_at=position(into_at),
        k=k,
        max_new_tokens=max_new_tokens,
        **target_option,
    )
    last = result.data.isel(prompt=0, position=-1)
    texts = last["text"].values if "text" in last else np.full(last.sizes["layer"], "")
    rows = [
        {"site": name, "tokens": "  ".join(map(repr, tokens)), **({"text": repr(text)} if max_new_tokens else {})}
        for name, tokens, text in zip(last["site"].values, last["top_token"].values, texts, strict=True)
    ]
    value = {"prompt": prompt, "target": result.record["target"], "rows": plain_rows(result.frame())}
    title = f"state of {str(last['token'].values)!r} in {result.record['target']['text']!r}: the likeliest next tokens"
    show(value, as_json=shared.as_json, table=rows, title=title)
    config = {
        "model": model, "prompt": prompt, "target": target, "site": sites, "at": at, "into": into, "into_at": into_at, "k": k,
        "max_new_tokens": max_new_tokens, "metric": metric,
    }  # fmt: skip
    shared.keep(result, "patchscope", config, metric=metric)
