"""The picture of the study of polytopes on digits."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.studies.drawing import canvas, hide_frame

if TYPE_CHECKING:
    from patchclamp.studies.polytopes_mnist import PolytopesMnist

_SHOWN = (
    "crossings", "crossings a unit", "flips of the ends", "distance", "cosine distance", "cosine distance after the last gate",
)  # fmt: skip


def areas(result: "PolytopesMnist") -> Any:
    """Area under the curve of each measure: trained networks filled, untrained ones hollow, a mark a seed."""
    table = result.pairs
    cases = list(dict.fromkeys(zip(table["network"], table["start"], strict=True)))
    size = (2.1 * len(cases) + 1.9, 2.5)
    with canvas(size, columns=len(cases), sharex=True, sharey=True, squeeze=False) as (fig, (axes,)):
        for axis, (network, start) in zip(axes, cases, strict=True):
            rows = table[(table["network"] == network) & (table["start"] == start)]
            for weights, face in (("trained", "#1f3a5f"), ("untrained", "none")):
                for place, measure in enumerate(_SHOWN):
                    values = rows[(rows["weights"] == weights) & (rows["measure"] == measure)]["auc"].to_numpy()
                    offset = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(len(values))
                    axis.scatter(
                        values, place + offset, s=14, facecolor=face, edgecolor="#1f3a5f" if weights == "trained" else "#c2571a",
                        linewidth=0.8, label=weights if place == 0 else None, zorder=3,
                    )  # fmt: skip
            axis.axvline(0.9, color="0.75", linewidth=0.7, linestyle=":")
            axis.axvline(0.5, color="0.75", linewidth=0.7)
            axis.set_title(
                f"{network}, {'from the input' if start == 'input' else f'from gate {start} on'}", fontsize=8
            )
            axis.set_yticks(range(len(_SHOWN)), _SHOWN)
            axis.set_xlim(0.45, 1.02)
            hide_frame(axis)
        axes[0].invert_yaxis()
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=7)
        fig.supxlabel("different against same class: area under the curve", fontsize=8)
        return fig
