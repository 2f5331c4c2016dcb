"""The bias of every sample, with its mean, a line an edit."""

from typing import TYPE_CHECKING

from patchclamp.core.errors import check_choice
from patchclamp.figures.strip import ROW, strip
from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.metrics.bias import Bias

LABELS = {
    "within": "bias within prompts, (p − q) / max(p, q)",
    "across": "bias across prompts, (p − q) / max(p, q)",
    "logit_difference": "logit difference, expected − other (nats)",
    "mass": "probability of both answers",
    "accuracy": "share of prompts with the expected answer ahead",
}


def figure(bias: "Bias", *, metric: str = "within") -> "Figure":
    """Draw a dot a sample (a pair, or a prompt without partner), with the mean and its 95 % bootstrap interval.

    Args:
        bias: The result to draw.
        metric: The metric to draw.

    Raises:
        InputError: It was not measured.
    """
    check_choice("metric", metric, bias.metrics)
    rows = bias.summary()
    rows = rows[rows["metric"] == metric]
    names = list(bias.data["edit"].values)
    with canvas((4.6, 0.8 + ROW * len(names))) as (fig, axis):
        axis.axvline(0, color="black", linewidth=0.6, zorder=1)
        strip(axis, names, list(bias.values(metric).values), rows.to_dict("records"))
        axis.set_xlabel(LABELS[metric])
        if metric in ("within", "across"):
            least = float(bias.values(metric).min())
            axis.set_xlim(-1.05 if least < -0.05 else -0.1, 1.05)
        return fig
