"""Dose and response: the effect against the amount, and against what it costs."""

from typing import TYPE_CHECKING

from patchclamp.figures.layer_effects import look
from patchclamp.figures.style import canvas, key, legend_below, rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.directions.dose import DoseResponse


def figure(dose_response: "DoseResponse") -> "Figure":
    """Draw log-odds against the amount, divergence against the amount, and one against the other, a line a method.

    Args:
        dose_response: The result to draw.
    """
    data = dose_response.data
    methods = [str(m) for m in data["direction"].values]
    styles = look(methods)
    with canvas((7.4, 2.7), columns=3) as (fig, (effect, cost, trade_off)):
        for method in methods:
            curve, style = data.sel(direction=method), styles[method]
            for axis, name in ((effect, "effect"), (cost, "kl")):
                axis.plot(curve["amount"], curve[name], label=key(method), linewidth=1.1, **style)
                axis.fill_between(
                    curve["amount"],
                    curve[f"{name}_low"],
                    curve[f"{name}_high"],
                    color=style["color"],
                    alpha=0.14,
                    linewidth=0,
                )
            trade_off.plot(curve["kl"], curve["effect"], linewidth=0.8, **style)
        effect.axhline(float(data["effect_before"]), color="black", linewidth=0.7, linestyle=":", zorder=0)
        trade_off.axhline(float(data["effect_before"]), color="black", linewidth=0.7, linestyle=":", zorder=0)
        effect.set(xlabel="amount", ylabel="log-odds of the second answer (nats)", title="effect")
        cost.set(xlabel="amount", ylabel="KL on other text, nats a token", title="cost")
        trade_off.set(xlabel="KL on other text, nats a token", ylabel="log-odds (nats)", title="effect for cost")
        for axis in (effect, cost, trade_off):
            rule(axis)
        legend_below(fig, effect)
        return fig
