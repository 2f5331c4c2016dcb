"""``patchclamp trace MODEL PROMPT --subject S``: causal tracing of a fact."""

from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console

from patchclamp.cli.options import Json, Opening, Out
from patchclamp.cli.output import keep, show

command = App(
    name="trace", help="Corrupt a prompt's subject, restore one state at a time, and see what brings the answer back."
)


@command.default
def trace(
    model: str,
    prompt: str,
    *,
    subject: str,
    answer: str | None = None,
    site: Annotated[list[str] | None, Parameter(negative="")] = None,
    window: int | None = None,
    samples: int = 10,
    noise: float = 3.0,
    std: float | None = None,
    seed: int = 0,
    method: Literal["exact", "gradient"] = "exact",
    integrate: int = 0,
    check: int = 20,
    budget: str = "1GB",
    verify: int = 0,
    layers: Literal["down", "up", "right"] = "down",
    out: Out = None,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Trace a fact.

    Args:
        model: Catalogue name, Hugging Face id or folder.
        prompt: The prompt.
        subject: Its subject, a text in the prompt.
        answer: The token whose probability is read; the likeliest by default.
        site: What is restored; resid_post by default.
        window: Layers restored together; by default 10 for mlp_out and attn_out, else 1.
        samples: How often noise is drawn.
        noise: Its size, in standard deviations.
        std: Standard deviation of the embeddings; by default that of the subject's own.
        seed: Of the noise.
        method: Run every cell, or estimate all of them by gradient.
        integrate: Points of integrated gradients, for the estimate.
        check: Random cells run exactly, for the estimate.
        budget: Memory beyond the model.
        verify: Run this many random cells again the slow way.
        layers: How the figure turns.
        out: Folder to save everything in.
        opening: How to open the model.
        as_json: Print JSON.
    """
    from patchclamp.reports.trace import strongest

    opened = opening.load(model)
    sites = site or ["resid_post"]
    options: dict[str, Any] = {
        "window": window, "samples": samples, "noise": noise, "std": std, "seed": seed, "method": method,
        "integrate": integrate, "check": check, "budget": budget, "verify": verify,
    }  # fmt: skip
    found = opened.causal_trace(prompt, subject, answer, sites=sites, **options)
    Console(stderr=True, highlight=False, markup=False).print(f"{found!r}\n{found.plan}")
    name = found.reads[0]
    frame = strongest(found, 12)
    value = {
        "answer": found.answer,
        "clean": float(found.clean[name]),
        "corrupted": found.corrupted[name].values.tolist(),
        "effect": found.mean()["effect"].values.tolist(),
        "dims": ["site", "layer", "position"],
        "agreement": found.agreement,
        "plan": found.plan.as_record(),
        "strongest": frame.to_dict("records"),
    }
    show(
        value,
        as_json=as_json,
        table=frame,
        title=f"largest indirect effects on the {name.replace('_', ' ')} of {found.answer!r}",
    )
    said = {"model": model, "prompt": prompt, "subject": subject, "answer": answer, "site": sites, "layers": layers}
    keep(found, out, "trace", {**said, **options, **opening.as_config()}, layers=layers)
