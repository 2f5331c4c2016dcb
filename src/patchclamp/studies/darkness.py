"""Is the dark area of a logit lens surprise? Darkness against surprisal, at a recurring name and elsewhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import patchclamp as pc
from patchclamp.studies.drawing import canvas, hide_frame
from patchclamp.studies.names import NamePassage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES = (
    "elsewhere",
    "before the first name",
    "inside the first name",
    "before a later name",
    "inside a later name",
    "after a name",
)
AT_NAME = PLACES[1:5]
"""Where the next token belongs to the name."""
_COLOURS = {"elsewhere": "#b8bcc2", "name": "#b8451f"}


def measure(model: pc.Model, passages: Sequence[NamePassage]) -> pd.DataFrame:
    """Every position of every passage.

    Returns:
        ``darkness``: 1 - the probability of the final layer's top token, averaged over layers. ``surprisal`` of the true next
        token and ``entropy`` of the final layer, in nats. ``place``: where the position stands towards the name.
    """
    frames = []
    for passage in passages:
        data = model.lens([list(passage.ids)], k=1).data.isel(prompt=0)
        final = data.isel(layer=-1)
        table = {
            "passage": passage.label, "position": np.arange(len(passage.ids)), "token": final["token"].values,
            "darkness": 1 - data["final_probability"].mean("layer").values, "surprisal": final["surprisal"].values,
            "entropy": final["entropy"].values, "place": _places(passage),
        }  # fmt: skip
        frames.append(pd.DataFrame(table).iloc[:-1])
    return pd.concat(frames, ignore_index=True)


def _places(passage: NamePassage) -> list[str]:
    """What the next token of each position is to the name."""
    places = ["elsewhere"] * len(passage.ids)
    for number, start in enumerate(passage.starts):
        name = "the first name" if number == 0 else "a later name"
        end = start + len(passage.name) - 1
        places[start : end + 1] = [*[f"inside {name}"] * (end - start), "after a name"]
        if start:
            places[start - 1] = f"before {name}"
    return places


def answers(table: pd.DataFrame, draws: int = 1000) -> list[dict[str, Any]]:
    """The numbers that answer the question, each with a 95 % bootstrap interval over passages.

    Rank correlations of darkness with surprisal and with entropy, at all positions, at the name and elsewhere; and how much
    darker and how much more surprising the places at the name are than the rest.
    """
    at_name = table["place"].isin(AT_NAME)
    parts = {"all positions": table, "at the name": table[at_name], "elsewhere": table[table["place"] == "elsewhere"]}
    rows = [
        {"what": f"correlation of darkness and {column}, {where}", **_interval(part, _correlation(column), draws)}
        for column in ("surprisal", "entropy")
        for where, part in parts.items()
    ]
    for place in PLACES[1:]:
        for quantity in ("darkness", "surprisal"):
            rows.append({"what": f"{quantity} {place} - elsewhere", **_interval(table, _gap(quantity, place), draws)})
    return rows


def _correlation(column: str) -> Any:
    def value(part: pd.DataFrame) -> float:
        return float(part["darkness"].corr(part[column], method="spearman"))

    return value


def _gap(quantity: str, place: str) -> Any:
    def value(part: pd.DataFrame) -> float:
        means = part.groupby("place")[quantity].mean()
        return float(means.get(place, np.nan) - means.get("elsewhere", np.nan))

    return value


def _interval(table: pd.DataFrame, statistic: Any, draws: int) -> dict[str, float]:
    """A statistic and its interval over passages drawn with replacement; none for one passage."""
    groups = [part for _, part in table.groupby("passage", sort=False)]
    value = statistic(table)
    if len(groups) < 3:
        return {"value": value, "low": np.nan, "high": np.nan}
    generator = np.random.default_rng(0)
    samples = [
        statistic(pd.concat([groups[i] for i in generator.integers(0, len(groups), len(groups))])) for _ in range(draws)
    ]
    low, high = np.nanquantile(samples, [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high)}


def summary_sentences(table: pd.DataFrame) -> list[str]:
    """The answer, in sentences."""
    rows = {row["what"]: f"{row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]" for row in answers(table)}
    return [
        f"Darkness is 1 - the mean over layers of the probability of the final top token ({table['passage'].nunique()} passages). "
        f"Its rank correlation with surprisal is {rows['correlation of darkness and surprisal, elsewhere']} away from names and "
        f"{rows['correlation of darkness and surprisal, at the name']} at them.",
        f"Inside a later name the lens is darker than elsewhere by {rows['darkness inside a later name - elsewhere']}, while the "
        f"surprisal there differs by {rows['surprisal inside a later name - elsewhere']} nats; before a later name by "
        f"{rows['darkness before a later name - elsewhere']}.",
    ]


def figure(table: pd.DataFrame) -> "Figure":
    """Darkness against surprisal, the name's positions marked; and both by place."""
    with canvas((8.4, 3.4), columns=2, width_ratios=[1.1, 1]) as (fig, (left, right)):
        at_name = table["place"].isin(AT_NAME)
        for part, name, size in ((table[~at_name], "elsewhere", 6), (table[at_name], "name", 14)):
            label = "next token belongs to the name" if name == "name" else "other positions"
            left.scatter(part["surprisal"], part["darkness"], s=size, color=_COLOURS[name], linewidths=0, label=label)
        left.set_xlabel("surprisal of the next token (nats)")
        left.set_ylabel("darkness of the lens")
        left.legend(frameon=False, fontsize=6, loc="lower right")
        groups = [table[table["place"] == place] for place in PLACES]
        right.boxplot(
            [group["darkness"] for group in groups], orientation="horizontal", widths=0.6, showfliers=False,
            medianprops={"color": _COLOURS["name"]}, boxprops={"linewidth": 0.7}, whiskerprops={"linewidth": 0.7},
        )  # fmt: skip
        names = [f"{place} ({len(group)})" for place, group in zip(PLACES, groups, strict=True)]
        right.set_yticks(range(1, len(PLACES) + 1), names)
        right.invert_yaxis()
        right.set_xlabel("darkness of the lens")
        hide_frame(left, right)
        return fig
