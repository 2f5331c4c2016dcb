"""Divergence and loss on other text, a line an edit."""

from typing import TYPE_CHECKING

from patchclamp.figures.strip import ROW, strip
from patchclamp.figures.style import canvas
from patchclamp.metrics.edited import UNEDITED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.metrics.damage import Damage


def figure(damage: "Damage") -> "Figure":
    """Draw KL and change of loss: a dot a text, with the mean over tokens and its 95 % bootstrap interval over texts.

    Args:
        damage: The result to draw.
    """
    edits = [str(name) for name in damage.data["edit"].values if name != UNEDITED]
    loss = damage.data["loss"]
    panels = {
        "kl": (damage.data["kl"], "KL(unedited || edited), nats a token"),
        "loss_change": (loss - loss.sel(edit=UNEDITED, drop=True), "change of loss, nats a token"),
    }
    means = {(row["metric"], row["edit"]): row for row in damage.summary().to_dict("records")}
    with canvas((6.6, 0.9 + ROW * max(1, len(edits))), columns=2, sharey=True) as (fig, axes):
        for axis, (metric, (values, label)) in zip(axes, panels.items(), strict=True):
            axis.axvline(0, color="black", linewidth=0.6, zorder=1)
            strip(
                axis, edits, [values.sel(edit=edit).values for edit in edits], [means[metric, edit] for edit in edits]
            )
            axis.set_xlabel(label)
        before = means["perplexity", UNEDITED]["mean"]
        fig.suptitle(f"{damage.data.sizes['text']} texts, perplexity {before:.1f} without edits", fontsize=8)
        return fig
