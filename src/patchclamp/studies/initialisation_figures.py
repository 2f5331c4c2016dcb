"""Pictures of the study of initialisations."""

from typing import TYPE_CHECKING, Any

from patchclamp.studies.drawing import canvas, hide_frame, look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.studies.initialisation import InitialisationResult

_ROWS = {"explained_variance": "explained variance, held out", "dead_share": "dead latents (share)"}


def curves(result: "InitialisationResult") -> "Figure":
    """Explained variance and dead latents against steps; each initialisation with its interval, and those without revival."""
    table = result.averages()
    names = sorted(table["initialisation"].unique(), key=lambda name: (name == "random", name))
    styles = look(names)
    columns = list(dict.fromkeys(zip(table["data"], table["encoder"], strict=True)))
    size = (2.5 * len(columns), 4.2)
    with canvas(size, len(_ROWS), len(columns), sharex="col", squeeze=False) as (fig, axes):
        for number, (data, encoder) in enumerate(columns):
            part = table[(table["data"] == data) & (table["encoder"] == encoder)]
            for axis, (measure, label) in zip(axes[:, number], _ROWS.items(), strict=True):
                for name in names:
                    _curve(axis, part[part["revival"] & (part["initialisation"] == name)], measure, name, styles[name])
                for name in part.loc[~part["revival"], "initialisation"].unique():
                    off = part[~part["revival"] & (part["initialisation"] == name)]
                    style = {"color": styles[name]["color"], "linestyle": ":"}
                    _curve(axis, off, measure, f"{name}, no revival", style)
                axis.set_xscale("log")
                if number == 0:
                    axis.set_ylabel(label)
            steps = sorted(part["steps"].unique())
            axes[-1, number].set_xticks(steps, [f"{step:,}" for step in steps])
            axes[-1, number].minorticks_off()
            axes[-1, number].set_xlabel("training steps")
            axes[0, number].set_title(f"{'toy data' if data == 'toy' else result.model}, {encoder}")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=7)
        hide_frame(*axes.flat)
    return fig


def _curve(axis: Any, rows: Any, measure: str, label: str, style: dict[str, Any]) -> None:
    if not len(rows):
        return
    axis.plot(rows["steps"], rows[measure], linewidth=1.1, label=label, **style)
    axis.fill_between(
        rows["steps"], rows[f"{measure}_low"], rows[f"{measure}_high"], color=style["color"], alpha=0.12, linewidth=0
    )
