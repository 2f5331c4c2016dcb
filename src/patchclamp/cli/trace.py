"""``patchclamp trace MODEL PROMPT --subject S``: causal tracing of a fact."""

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App

from patchclamp.cli.options import CellOptions, Drawn, ModelName, Strings
from patchclamp.cli.output import say, show
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
    site: Strings = None,
    window: int | None = None,
    samples: int = 10,
    noise: float = 3.0,
    std: float | None = None,
    seed: int = 0,
    method: Literal["exact", "gradient"] = "exact",
    integrate: int = 0,
    check: int = 20,
    cells: CellOptions = CellOptions(),  # noqa: B008
    shared: Drawn = Drawn(),  # noqa: B008
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
    """
    sites = site or ["resid_post"]
    options: dict[str, Any] = {
        "window": window, "samples": samples, "noise": noise, "std": std, "seed": seed, "method": method,
        "integrate": integrate, "check": check,
    }  # fmt: skip
    config = {"model": model, "prompt": prompt, "subject": subject, "answer": answer, "facts": facts, "site": sites}
    from patchclamp.cli.specs import position

    fact_list = None if facts is None else read_facts(facts)
    if (fact_list is None) == (prompt is None) or (fact_list is None) != (subject is not None):
        raise InputError("trace takes a PROMPT with its --subject, or --facts FILE.csv")
    open_model = shared.opening.load(model)
    if fact_list is None:
        assert prompt is not None
        assert subject is not None
        subject_place = position(subject) if subject.startswith("token:") else subject
        result: Any = open_model.causal_trace(prompt, subject_place, answer, sites=sites, **options, **asdict(cells))
        _show_one(result, shared.as_json)
    else:
        result = open_model.trace_facts(fact_list, sites=sites, progress=True, **options, **asdict(cells))
        _show_many(result, shared.as_json)
    shared.keep(result, "trace", {**config, **options, **cells.as_config()})


def read_facts(path: Path) -> list[tuple[str, str, str | None]]:
    """Facts from a CSV file.

    Raises:
        InputError: It is missing, or lacks a column.
    """
    rows = list(csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff"))))
    missing = [name for name in ("prompt", "subject") if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"{str(path)!r} needs the columns prompt, subject and perhaps answer; it lacks {missing}")
    return [(row["prompt"], row["subject"], row.get("answer") or None) for row in rows]


def _show_one(result: "Trace", as_json: bool) -> None:
    from patchclamp.reports.trace import strongest

    say(f"{result!r}\n{result.plan}")
    name = result.reads[0]
    frame = strongest(result, 12)
    value = {
        "answer": result.answer,
        "clean": float(result.clean[name]),
        "corrupted": result.corrupted[name].values.tolist(),
        "effect": result.mean()["effect"].values.tolist(),
        "dims": ["site", "layer", "position"],
        "agreement": result.agreement,
        "plan": result.plan.as_record(),
        "strongest": frame.to_dict("records"),
    }
    title = f"largest indirect effects on the {name.replace('_', ' ')} of {result.answer!r}"
    show(value, as_json=as_json, table=frame, title=title)


def _show_many(average: "TraceAverage", as_json: bool) -> None:
    from patchclamp.reports.average import facts, strongest

    say(repr(average))
    mean, frame = average.mean(), strongest(average)
    value = {
        "effect": mean["effect"].values.tolist(),
        "low": mean["low"].values.tolist(),
        "high": mean["high"].values.tolist(),
        "dims": ["site", "layer", "role"],
        "roles": mean["role"].values.tolist(),
        "facts": facts(average).to_dict("records"),
        "strongest": frame.to_dict("records"),
    }
    title = f"largest average effects on {average.reads[0].replace('_', ' ')}, with 95 % intervals"
    show(value, as_json=as_json, table=frame, title=title)
