"""Pictures of the sweep over L1 weights and sizes of dictionaries."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.studies.drawing import canvas, heat_maps, hide_frame, look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.studies.superposition_sweep import SuperpositionSweep

_TRUTH, _LARGER, _RANDOM = "#1f3b73", "#c2571a", "0.6"
_MOST = 5
"""Weights whose histograms are drawn."""
_ROWS, _COLUMNS = "L1 weight α", "atoms / true features"


def maps(result: "SuperpositionSweep") -> "Figure":
    """The report's maps, and how much of the rows is explained."""
    titles = {
        "MMCS with the truth": "mmcs", "dead latents (share)": "dead_share",
        "agreement with next larger": "agreement",
        "explained variance": "explained_variance",
    }  # fmt: skip
    tables = {title: result.grid("grid", column) for title, column in titles.items()}
    return heat_maps(tables, rows=_ROWS, columns=_COLUMNS, ranges={title: (0.0, 1.0) for title in titles})


def longer(result: "SuperpositionSweep") -> "Figure":
    """The weights that were trained for longer, before and after."""
    setting = result.setting
    tables: dict[str, Any] = {}
    for name, column in (("MMCS", "mmcs"), ("agreement", "agreement")):
        after = result.grid("longer", column)
        before = result.grid("grid", column).loc[after.index]
        tables |= {f"{name}, {setting.steps:,} steps": before, f"{name}, {setting.longer_steps:,} steps": after}
    return heat_maps(tables, rows=_ROWS, columns=_COLUMNS, ranges={title: (0.0, 1.0) for title in tables})


def histograms(result: "SuperpositionSweep") -> "Figure":
    """Largest cosines of features with atoms and of atoms with the next larger dictionary; random directions in grey."""
    setting, table = result.setting, result.histograms
    places = np.unique(
        np.linspace(0, len(setting.exponents) - 1, min(_MOST, len(setting.exponents))).round().astype(int)
    )
    exponents = [setting.exponents[place] for place in places]
    size = (1.65 * len(setting.ratios) + 0.6, 1.15 * len(exponents) + 0.6)
    with canvas(size, len(exponents), len(setting.ratios), sharex=True, sharey=True, squeeze=False) as (fig, axes):
        for row, exponent in enumerate(exponents):
            for column, ratio in enumerate(setting.ratios):
                axis = axes[row, column]
                at = table["ratio"] == ratio
                grid = table[at & (table["run"] == "grid") & (table["exponent"] == exponent)]
                _stairs(
                    axis,
                    table[at & (table["run"] == "random") & (table["of"] == "truth")],
                    color=_RANDOM,
                    linewidth=0.9,
                )
                _stairs(axis, grid[grid["of"] == "truth"], color=_TRUTH, fill=True, alpha=0.8)
                _stairs(axis, grid[grid["of"] == "larger"], color=_LARGER, linewidth=1.1)
                if row == 0:
                    axis.set_title(f"{ratio:g} × G atoms", fontsize=8)
                if column == 0:
                    axis.set_ylabel(f"α = {10 ** (exponent / 4):.3g}")
        axes[0, 0].set(xlim=(0, 1), ylim=(0, 0.6))
        fig.supxlabel("largest cosine (MCS)", fontsize=8)
        fig.supylabel("share", fontsize=8)
        handles = [axes[0, 0].plot([], [], color=colour, linewidth=2)[0] for colour in (_TRUTH, _LARGER, _RANDOM)]
        labels = ["features with atoms", "atoms with the next larger dictionary", "features with random directions"]
        fig.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=7)
        hide_frame(*axes.flat)
    return fig


def _stairs(axis: Any, table: Any, **options: Any) -> None:
    if len(table):
        counts = table["count"].to_numpy(dtype=float)
        axis.stairs(counts / counts.sum(), np.linspace(0, 1, len(counts) + 1), **options)


def interference(result: "SuperpositionSweep") -> "Figure":
    """Recovery against the number of features a dimension, and how coherent the features are."""
    table = result.recovery()
    methods = list(dict.fromkeys(table["method"]))
    styles = look(methods)
    with canvas((7.2, 2.4), columns=3) as (fig, axes):
        for axis, kind in zip(axes, ("trained", "random"), strict=False):
            for method in methods:
                part = table[(table["features"] == kind) & (table["method"] == method)]
                low, middle, high = (part[f"recovered_0.9{end}"].to_numpy() for end in ("_low", "", "_high"))
                bars = np.nan_to_num(np.clip([middle - low, high - middle], 0, None))
                style = {"linewidth": 1.1, "capsize": 2, **styles[method]}
                axis.errorbar(part["density"], middle, yerr=bars, label=method, **style)
            axis.set(title=f"{kind} features", xlabel="features a dimension (G/d)", ylim=(-0.03, 1.03))
        axes[0].set_ylabel("features recovered (cosine > .9)")
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower left", ncols=len(methods), frameon=False, fontsize=7)
        _coherence(axes[2], table)
        for axis in axes:
            axis.set_xscale("log", base=2)
            axis.set_xticks(result.setting.densities, [str(density) for density in result.setting.densities])
            axis.minorticks_off()
        hide_frame(*axes)
    return fig


def _coherence(axis: Any, table: Any) -> None:
    one = table[table["method"] == table["method"].iloc[0]]
    for kind, colour in (("trained", _TRUTH), ("random", _LARGER)):
        part = one[one["features"] == kind]
        axis.plot(
            part["density"], part["rms"], "-o", color=colour, markersize=3, linewidth=1.1, label=f"{kind}: rms cosine"
        )
        axis.plot(
            part["density"],
            part["antipodal"],
            "--s",
            color=colour,
            markersize=3,
            linewidth=1.1,
            label=f"{kind}: in pairs",
        )
    part = one[one["features"] == "trained"]
    axis.plot(part["density"], part["welch"], ":", color="0.4", linewidth=1.1, label="Welch bound of the rms")
    axis.set(
        title="how features interfere",
        xlabel="features a dimension (G/d)",
        ylabel="cosine, or share in antipodal pairs",
    )
    axis.legend(frameon=False, fontsize=6, loc="best")
