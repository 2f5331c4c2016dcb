"""Pictures of the study of initialisations."""

from typing import TYPE_CHECKING, Any

from patchclamp.studies.drawing import canvas, hide_frame, look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from patchclamp.studies.initialisation import InitialisationResult

_ROWS = {
    "explained_variance": "explained variance,\nheld out", "dead_share": "dead latents\n(share)", "mmcs": "MMCS with\nthe truth",
}  # fmt: skip
_INTERVAL = "Bands: 95 % bootstrap intervals over seeds"
_LINES = {"standard": "-", "no revival": ":", "unscaled": "--"}


def curves(result: "InitialisationResult") -> "Figure":
    """Every measure against steps, a line for each initialisation, with intervals over seeds."""
    table = result.averages()
    table = table[table["variant"] == "standard"]
    names = sorted(table["initialisation"].unique(), key=lambda name: (name == "random", name))
    columns = list(dict.fromkeys(zip(table["data"], table["encoder"], strict=True)))
    with canvas((2.4 * len(columns), 5.0), len(_ROWS), len(columns), sharex="col", squeeze=False) as (fig, axes):
        for number, (data, encoder) in enumerate(columns):
            part = table[(table["data"] == data) & (table["encoder"] == encoder)]
            lines = {name: (part[part["initialisation"] == name], style) for name, style in look(names).items()}
            _column(axes[:, number], lines, data, f"{_called(result, data)}, {encoder}")
            if number == 0:
                _name_rows(axes[:, 0])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=6,
            frameon=False,
            fontsize=7,
            title=_INTERVAL,
            title_fontsize=7,
        )
        hide_frame(*axes.flat)
    return fig


def controls(result: "InitialisationResult") -> "Figure":
    """The initialisations that were trained without revival, and without the scale of the encoder, beside the standard."""
    table = result.averages()
    names = list(table.loc[table["variant"] != "standard", "initialisation"].unique())
    table = table[table["initialisation"].isin(names) & (table["encoder"] == "BatchTopK")]
    kinds = list(table["data"].unique())
    colours = look([name for name in names if name != "random"]) | {"random": {"color": "0.45"}}
    with canvas((2.6 * len(kinds) + 0.4, 5.0), len(_ROWS), len(kinds), sharex="col", squeeze=False) as (fig, axes):
        for number, data in enumerate(kinds):
            lines = {}
            for name in names:
                for variant, dash in _LINES.items():
                    rows = table["data"].eq(data) & table["initialisation"].eq(name) & table["variant"].eq(variant)
                    lines[f"{name}, {variant}"] = table[rows], {"color": colours[name]["color"], "linestyle": dash}
            _column(axes[:, number], lines, data, f"{_called(result, data)}, BatchTopK")
            if number == 0:
                _name_rows(axes[:, 0])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=2,
            frameon=False,
            fontsize=7,
            title=_INTERVAL,
            title_fontsize=7,
        )
        hide_frame(*axes.flat)
    return fig


def _called(result: "InitialisationResult", data: str) -> str:
    return "toy data" if data == "toy" else str(result.model)


def _name_rows(axes: Any) -> None:
    for axis, label in zip(axes, _ROWS.values(), strict=True):
        axis.set_ylabel(label)


def _column(axes: Any, lines: "dict[str, tuple[pd.DataFrame, dict[str, Any]]]", data: str, title: str) -> None:
    """One column of panels: the same lines in each measure; a model has no truth, so its last panel is left out."""
    shown = [measure for measure in _ROWS if measure != "mmcs" or data == "toy"]
    for axis, measure in zip(axes, shown, strict=False):
        for label, (rows, style) in lines.items():
            axis.plot(rows["steps"], rows[measure], linewidth=1.1, label=label, **style)
            low, high = rows[f"{measure}_low"], rows[f"{measure}_high"]
            axis.fill_between(rows["steps"], low, high, color=style["color"], alpha=0.15, linewidth=0)
        axis.set_xscale("log")
        if measure == "dead_share":
            axis.set_ylim(bottom=-0.01)
    steps = sorted({int(step) for rows, _ in lines.values() for step in rows["steps"]})
    bottom = axes[len(shown) - 1]
    bottom.set_xticks(steps, [f"{step:,}" for step in steps])
    bottom.minorticks_off()
    bottom.tick_params(labelbottom=True)
    bottom.set_xlabel("training steps")
    axes[0].set_title(title)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
