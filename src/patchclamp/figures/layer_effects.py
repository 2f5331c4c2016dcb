"""Bias and divergence against layer: a column an edit, a line a method."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import check_choice
from patchclamp.figures.style import canvas, key, legend_below, rule, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.directions.effects import LayerEffects

COLOURS = ("#1f3b73", "#c2571a", "#2f7d5b", "#8c3f7d", "#7a6a4f", "#4a90b8", "#b03a48")
CONTROL = "#9aa3af"
MARKS = ("o", "s", "^", "D", "v", "P", "X")
LABELS = {
    "bias": "bias within prompts",
    "across": "bias across prompts",
    "lean": "lean to the second answer",
    "accuracy": "accuracy",
    "kl": "KL, nats a token",
}


def look(names: list[str]) -> dict[str, dict[str, Any]]:
    """The colour and mark of each method; random controls are grey and dashed."""
    styles: dict[str, dict[str, Any]] = {}
    number = 0
    for name in names:
        if name.startswith("random"):
            styles[name] = {"color": CONTROL, "linestyle": "--", "marker": None}
            continue
        styles[name] = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKS[number % len(MARKS)],
            "markersize": 2.6,
        }
        number += 1
    return styles


def figure(effects: "LayerEffects", *, metric: str = "bias") -> "Figure":
    """Draw a metric against layer above and the divergence on other text below, with 95 % intervals.

    Args:
        effects: The result to draw.
        metric: The metric to draw: ``bias``, ``across``, ``lean`` or ``accuracy``.

    Raises:
        InputError: It was not measured.
    """
    from matplotlib.ticker import MaxNLocator

    data = effects.data
    valid = [name for name in LABELS if name in data and name != "kl"]
    check_choice("metric", metric, valid)
    metrics = [metric, "kl"] if "kl" in data else [metric]
    methods, edits = [str(m) for m in data["direction"].values], [str(e) for e in data["edit"].values]
    styles = look(methods)
    size = (2.3 * len(edits) + 1.0, 2.2 * len(metrics) + 0.6)
    with canvas(size, len(metrics), len(edits), squeeze=False, sharex=True, sharey="row") as (fig, axes):
        for column, edit in enumerate(edits):
            for row, name in enumerate(metrics):
                axis = axes[row, column]
                for method in methods:
                    _line(axis, data.sel(direction=method, edit=edit), name, styles[method], key(method))
                _dress(axis, data, name)
                if not column:
                    axis.set_ylabel(LABELS[name])
            axes[0, column].set_title(visible(edit, 30))
            axes[-1, column].set_xlabel("layer")
            axes[-1, column].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend_below(fig, axes[0, 0])
        return fig


def _line(axis: Any, curve: Any, name: str, style: dict[str, Any], label: str) -> None:
    finite = np.isfinite(curve[name].values)
    layers = curve["layer"].values[finite]
    floor = 1e-6 if name == "kl" else -np.inf
    axis.plot(layers, np.maximum(curve[name].values[finite], floor), label=label, linewidth=1.1, **style)
    low, high = (np.maximum(curve[f"{name}_{end}"].values[finite], floor) for end in ("low", "high"))
    axis.fill_between(layers, low, high, color=style["color"], alpha=0.14, linewidth=0)


def _dress(axis: Any, data: Any, name: str) -> None:
    if name == "kl":
        axis.set_yscale("log")
    else:
        axis.axhline(0, color="0.75", linewidth=0.6, zorder=0)
        axis.axhline(
            float(data[f"{name}_before"]), color="black", linewidth=0.7, linestyle=":", zorder=0, label="before"
        )
    rule(axis, "y")
