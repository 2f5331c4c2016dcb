"""``patchclamp trace MODEL PROMPT --subject S``: causal tracing of a fact."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from patchclamp.cli.options import ModelName, Shared
from patchclamp.cli.output import keep, say, show
from patchclamp.core.errors import InputError
from patchclamp.core.files import read_text

if TYPE_CHECKING:
    from patchclamp.tracing.average import TraceAverage
    from patchclamp.tracing.trace import Trace

command = App(
    name="trace", help="Corrupt a prompt's subject, restore one state at a time, and see what brings the answer back."
)


@command.default
def trace(
    model: ModelName,
    prompt: str | None = None,
    *,
    subject: str | None = None,
    answer: str | None = None,
    facts: Path | None = None,
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
    checkpoint: str | None = None,
    layers: Literal["down", "up", "right"] = "down",
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Trace a fact, or the average of many.

    Args:
        prompt: The prompt.
        subject: Its subject, a text in the prompt; `token: dog#1` is its second occurrence.
        answer: The token whose probability is read; the likeliest by default.
        facts: A CSV file with columns prompt, subject and perhaps answer, instead of one prompt.
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
        checkpoint: Folder from which interrupted work goes on.
        layers: How the figure turns.
    """
    sites = site or ["resid_post"]
    options: dict[str, Any] = {
        "window": window, "samples": samples, "noise": noise, "std": std, "seed": seed, "method": method,
        "integrate": integrate, "check": check, "budget": budget, "verify": verify,
        "checkpoint": checkpoint,
    }  # fmt: skip
    said = {"model": model, "prompt": prompt, "subject": subject, "answer": answer, "facts": facts, "site": sites}
    from patchclamp.cli.specs import position

    several = None if facts is None else read_facts(facts)
    if (several is None) == (prompt is None) or (several is None) != (subject is not None):
        raise InputError("trace takes a PROMPT with its --subject, or --facts FILE.csv")
    opened = shared.opening.load(model)
    if several is None:
        assert prompt is not None
        assert subject is not None
        where = position(subject) if subject.startswith("token:") else subject
        found: Any = opened.causal_trace(prompt, where, answer, sites=sites, **options)
        _show_one(found, shared.as_json)
    else:
        found = opened.trace_facts(several, sites=sites, progress=True, **options)
        _show_many(found, shared.as_json)
    del options["checkpoint"]  # of the work, not of its result
    keep(found, shared.out, "trace", {**said, "layers": layers, **options, **shared.opening.as_config()}, layers=layers)


def read_facts(path: Path) -> list[tuple[str, str, str | None]]:
    """Facts from a CSV file.

    Raises:
        InputError: It is missing, or lacks a column.
    """
    rows = list(csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff"))))
    lacking = [name for name in ("prompt", "subject") if not rows or name not in rows[0]]
    if lacking:
        raise InputError(f"{str(path)!r} needs the columns prompt, subject and perhaps answer; it lacks {lacking}")
    return [(row["prompt"], row["subject"], row.get("answer") or None) for row in rows]


def _show_one(found: "Trace", as_json: bool) -> None:
    from patchclamp.reports.trace import strongest

    say(f"{found!r}\n{found.plan}")
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
    title = f"largest indirect effects on the {name.replace('_', ' ')} of {found.answer!r}"
    show(value, as_json=as_json, table=frame, title=title)


def _show_many(found: "TraceAverage", as_json: bool) -> None:
    from patchclamp.reports.average import facts, strongest

    say(repr(found))
    mean, frame = found.mean(), strongest(found)
    value = {
        "effect": mean["effect"].values.tolist(),
        "low": mean["low"].values.tolist(),
        "high": mean["high"].values.tolist(),
        "dims": ["site", "layer", "role"],
        "roles": mean["role"].values.tolist(),
        "facts": facts(found).to_dict("records"),
        "strongest": frame.to_dict("records"),
    }
    title = f"largest average effects on {found.reads[0].replace('_', ' ')}, with 95 % intervals"
    show(value, as_json=as_json, table=frame, title=title)
