"""Effect against cost, of small networks and of a language model."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from patchclamp.studies.drawing import canvas, hide_frame

if TYPE_CHECKING:
    from patchclamp.studies.what_additions_need import WhatAdditionsNeed

_DIGITS, _FASHION, _WORDS, _GATED = "#1f3b73", "#b07aa1", "#d55e00", "#009e73"


def figure(result: "WhatAdditionsNeed") -> Any:
    """Transfer against retention, and against the ratio of losses; each line a network, its points the coefficients."""
    with canvas((7.2, 3.3), columns=2) as (fig, (left, right)):
        for group, options in _lines(result):
            table = group.assign(kept=group["retention"] / group["clean retention"])
            left.plot(table["transfer"], table["kept"], **options)
            right.plot(
                table["transfer"], table["loss others"] / table["clean loss others"], **{**options, "label": None}
            )
        if not result.words.empty:
            ungated = result.words[(result.words["vector"] == "means") & (result.words["gate"] == "none")]
            for number, (_, part) in enumerate(ungated.groupby(["token", "layer"], sort=False)):
                ratio = part["loss text, one token"] / part["clean loss text"]
                label = None if number else "SmolLM2, its loss on unrelated text"
                right.plot(
                    part["transfer"],
                    ratio,
                    color=_WORDS,
                    linestyle=":",
                    marker="x",
                    markersize=3.5,
                    linewidth=1,
                    label=label,
                )
        left.axhline(0.9, color="0.6", linewidth=0.7, linestyle=":")
        left.set(
            xlabel="transfer: b's inputs called a", ylabel="retention of the others, share of clean", ylim=(0, 1.05)
        )
        right.set(xlabel="transfer: b's inputs called a", ylabel="loss of the others / clean loss", yscale="log")
        for axis in (left, right):
            axis.set_xlim(-0.03, 1.03)
            hide_frame(axis)
        fig.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=6.5)
        return fig


def _lines(result: "WhatAdditionsNeed") -> list[tuple[pd.DataFrame, dict[str, Any]]]:
    """Tables over coefficients, with how to draw them; a label stands at the first line of its sort."""
    head = result.curves[result.curves["stage"] == "before the head"]
    cases = list(dict.fromkeys(head["case"]))
    lines: list[tuple[pd.DataFrame, str, str, float]] = []
    for vector, gate in (("random", "none"), ("means", "code"), ("means", "none")):
        for case in cases:
            part = head[(head["case"] == case) & (head["vector"] == vector) & (head["gate"] == gate)]
            average = part.groupby("coefficient").mean(numeric_only=True)
            fashion = case.startswith("Fashion")
            kind = "Fashion-MNIST, before the head" if fashion else "MNIST, before the head"
            colour = _FASHION if fashion else _DIGITS
            lines.append((average, *_style(vector, gate, kind, colour), 0.8))
    if not result.words.empty:
        for key, part in result.words.groupby(["vector", "gate", "token", "layer"], sort=False):
            sort, gate_name = str(key[0]), str(key[1])
            lines.append((part, *_style(sort, gate_name, "SmolLM2, three places", _WORDS), 1.3))
    labels: set[str] = set()
    styled = []
    for table, label, colour, width in lines:
        options = {"color": colour, "linewidth": width, "marker": "o", "markersize": 2.5}
        styled.append((table, {**options, "label": None if label in labels else label}))
        labels.add(label)
    return styled


def _style(vector: str, gate: str, kind: str, colour: str) -> tuple[str, str]:
    if vector == "random":
        return "random, of the same length", "#bbbbbb"
    return (kind, colour) if gate == "none" else ("gated", _GATED)
