"""``patchclamp curves MODEL CORPUS``: a lens over a corpus."""

from pathlib import Path
from typing import Any

from cyclopts import App

import patchclamp as pc
from patchclamp.cli.options import ModelName, Shared, Strings
from patchclamp.cli.output import keep, show
from patchclamp.core.errors import check_choice
from patchclamp.core.files import read_text
from patchclamp.lenses.metrics import METRICS

command = App(name="curves", help="The logit lens over a corpus: every metric by layer, with intervals.")


@command.default
def curves(
    model: ModelName,
    corpus: str,
    *,
    tokens: int = 20_000,
    length: int = 128,
    site: Strings = None,
    at: str = "all",
    metric: Strings = None,
    tuned: str | None = None,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Look at a corpus through the model's own head, at every layer.

    Args:
        corpus: gutenberg, gutenberg:TITLE, or a text file.
        tokens: How many tokens to read.
        length: Tokens of a sequence.
        site: Where; resid_post by default.
        at: Positions of every sequence.
        metric: What the table and the figure show; surprisal, rank, kl and agreement by default.
        tuned: A tuned lens: the folder that tune-lens made, or a Hugging Face id; drawn beside the logit lens.
    """
    from patchclamp.cli.specs import position
    from patchclamp.figures.lens_curves import SHOWN

    metrics = metric or list(SHOWN)
    for name in metrics:
        check_choice("metric", name, METRICS)
    texts: Any = [read_text(corpus)] if Path(corpus).is_file() or Path(corpus).suffix else corpus
    sites = site or ["resid_post"]
    open_model = shared.opening.load(model)
    tuned_lens = None if tuned is None else pc.TunedLens.from_pretrained(tuned, open_model)
    options: dict[str, Any] = {"length": length, "tokens": tokens, "progress": True}
    result = open_model.lens_curves(texts, sites, position(at), tuned=tuned_lens, **options)
    comparison = (
        {} if tuned_lens is None else {"logit lens": open_model.lens_curves(texts, sites, position(at), **options)}
    )
    frame = result.frame().astype({"metric": str, "site": str})
    value = {"sequences": result.data.sizes["sequence"], "positions": result.tokens, "rows": _rows(frame)}
    title = (
        f"means over {value['sequences']} sequences of {length} tokens; of rank and KL, means of the sequences' medians"
    )
    show(value, as_json=shared.as_json, table=_table(result, metrics), title=title)
    config = {
        "model": model,
        "corpus": corpus,
        "tokens": tokens,
        "length": length,
        "site": sites,
        "at": at,
        "metric": metrics,
        "tuned": tuned,
    }
    figure_options = {"label": "tuned lens", "beside": comparison} if comparison else {}
    for baseline in comparison.values():
        keep(
            baseline,
            None if shared.out is None else shared.out / "logit-lens",
            "curves",
            {**config, "tuned": None, **shared.opening.as_config()},
            metrics=metrics,
        )
    shared.keep(result, "curves", config, metrics=metrics, **figure_options)


def _rows(frame: Any) -> list[dict[str, Any]]:
    """The frame as plain JSON, in which a missing number is null."""
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows


def _table(result: "pc.LensCurves", metrics: list[str]) -> list[dict[str, Any]]:
    """A row a site: what the figure shows, with half the interval."""
    from patchclamp.figures.lens_curves import MEDIANS

    summary = result.summary()
    rows = []
    for place, name in enumerate(summary["site"].values):
        row: dict[str, Any] = {"site": str(name)}
        for metric in metrics:
            cell = summary.sel(metric=metric).isel(layer=place)
            middle, high = ("median", "median_high") if metric in MEDIANS else ("mean", "high")
            centre = float(cell[middle])
            row[metric] = f"{centre:.4g} ± {float(cell[high]) - centre:.2g}"
        rows.append(row)
    return rows
