"""Pictures of the sweep over L1 weights and sizes of dictionaries, at the width of a page."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.studies.drawing import canvas, draw_map, hide_frame, look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from patchclamp.studies.superposition_sweep import SuperpositionSweep

_TRUTH, _LARGER, _RANDOM = "#1f3b73", "#c2571a", "0.6"
_MOST = 5
"""Weights whose histograms are drawn."""
_ROWS, _COLUMNS = "L1 weight α", "atoms / true features"
_DENSITY = "features a dimension (G/d)"


def maps(result: "SuperpositionSweep") -> "Figure":
    """The report's maps, and how much of the rows is explained; means over seeds."""
    columns = {
        "MMCS with the truth": "mmcs", "agreement with next larger": "agreement", "dead latents (share)": "dead_share",
        "explained variance, held out": "explained_variance",
    }  # fmt: skip
    return _squares({title: result.grid("grid", column) for title, column in columns.items()})


def longer(result: "SuperpositionSweep") -> "Figure":
    """The weights that were trained for longer, before and after; means over seeds."""
    setting = result.setting
    tables: dict[str, Any] = {}
    for name, column in (("MMCS", "mmcs"), ("agreement", "agreement")):
        after = result.grid("longer", column)
        tables[f"{name}, {setting.steps:,} steps"] = result.grid("grid", column).loc[after.index]
        tables[f"{name}, {setting.longer_steps:,} steps"] = after
    return _squares(tables)


def _squares(tables: "dict[str, pd.DataFrame]") -> "Figure":
    """Four maps of numbers from 0 to 1, with one scale of colours."""
    rows, columns = next(iter(tables.values())).shape
    size = (max(5.4, 2 * (0.38 * columns + 0.9)), 2 * (0.21 * rows + 0.75))
    with canvas(size, 2, 2, sharex=True, sharey=True) as (fig, axes):
        images = []
        for axis, (title, table) in zip(axes.flat, tables.items(), strict=True):
            weights, ratios = [f"{alpha:.3g}" for alpha in table.index], [f"{ratio:g}" for ratio in table.columns]
            images.append(draw_map(axis, table.to_numpy(dtype=float), weights, ratios, low=0.0, high=1.0))
            axis.set_title(title)
        is_cut = any(
            table.to_numpy(dtype=float).min(initial=0.0, where=table.notna().to_numpy()) < 0
            for table in tables.values()
        )
        fig.colorbar(
            images[0],
            ax=axes,
            shrink=0.7,
            extend="min" if is_cut else "neither",
            label="all maps (hatched: nothing is larger)",
        )
        fig.supxlabel(_COLUMNS, fontsize=8)
        fig.supylabel(_ROWS, fontsize=8)
    return fig


def histograms(result: "SuperpositionSweep") -> "Figure":
    """Largest cosines of features with atoms and of atoms with the next larger dictionary; random directions in grey."""
    setting = result.setting
    keys = ["run", "exponent", "ratio", "of", "mcs"]
    table = result.histograms.groupby(keys, dropna=False)["count"].sum().reset_index()
    places = np.linspace(0, len(setting.exponents) - 1, min(_MOST, len(setting.exponents))).round().astype(int)
    exponents = [setting.exponents[place] for place in np.unique(places)]
    size = (1.55 * len(setting.ratios) + 0.7, 1.05 * len(exponents) + 0.9)
    with canvas(size, len(exponents), len(setting.ratios), sharex=True, sharey=True, squeeze=False) as (fig, axes):
        for row, exponent in enumerate(exponents):
            for column, ratio in enumerate(setting.ratios):
                axis, part = axes[row, column], table[table["ratio"] == ratio]
                grid = part[(part["run"] == "grid") & (part["exponent"] == exponent)]
                random = part[(part["run"] == "random") & (part["of"] == "truth")]
                _stairs(axis, grid[grid["of"] == "truth"], color=_TRUTH, fill=True, alpha=0.8)
                _stairs(axis, random, color=_RANDOM, linewidth=0.9)
                _stairs(axis, grid[grid["of"] == "larger"], color=_LARGER, linewidth=1.0)
                if row == 0:
                    axis.set_title(f"{ratio:g} G atoms", fontsize=8)
                if column == 0:
                    axis.set_ylabel(f"α = {10 ** (exponent / 4):.3g}")
        axes[0, 0].set(xlim=(0, 1), ylim=(0, None), xticks=(0, 0.5, 1))
        fig.supxlabel("largest cosine (MCS), forty bins", fontsize=8)
        fig.supylabel("share of features or atoms", fontsize=8)
        handles = [axes[0, 0].plot([], [], color=colour, linewidth=2)[0] for colour in (_TRUTH, _LARGER, _RANDOM)]
        labels = ["features with atoms", "atoms with the next larger dictionary", "features with random directions"]
        fig.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=7)
        hide_frame(*axes.flat)
    return fig


def _stairs(axis: Any, table: Any, **options: Any) -> None:
    if len(table):
        counts = table.sort_values("mcs")["count"].to_numpy(dtype=float)
        axis.stairs(counts / counts.sum(), np.linspace(0, 1, len(counts) + 1), **options)


def interference(result: "SuperpositionSweep") -> "Figure":
    """Recovery against the number of features a dimension, and below how the features interfere."""
    table = result.recovery()
    methods = list(dict.fromkeys(table["method"]))
    densities = result.setting.densities
    with canvas((6.2, 4.6), 2, 2, sharex=True) as (fig, axes):
        for axis, kind in zip(axes[0], ("trained", "random"), strict=True):
            for number, (method, style) in enumerate(look(methods).items()):
                part = table[(table["features"] == kind) & (table["method"] == method)]
                low, middle, high = (part[f"recovered_0.9{end}"].to_numpy() for end in ("_low", "", "_high"))
                bars = np.nan_to_num(np.clip([middle - low, high - middle], 0, None))
                apart = part["density"] * 2 ** (0.05 * (number - (len(methods) - 1) / 2))  # so that none hides another
                axis.errorbar(apart, middle, yerr=bars, label=method, linewidth=1.1, capsize=2, **style)
            title = "features of a trained encoder" if kind == "trained" else "random features"
            axis.set(title=title, ylim=(-0.03, 1.03))
        axes[0, 0].set_ylabel("features recovered\n(cosine > .9)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(
            handles, labels, loc="outside lower center", ncols=len(methods), frameon=False, fontsize=7,
            title="Bars: 95 % bootstrap intervals over seeds", title_fontsize=7,
        )  # fmt: skip
        _coherence(axes[1], table[table["method"] == methods[0]])
        for axis in axes.flat:
            axis.set_xscale("log", base=2)
            axis.set_xticks(densities, [str(density) for density in densities])
            axis.minorticks_off()
        for axis in axes[1]:
            axis.set_xlabel(_DENSITY)
        hide_frame(*axes.flat)
    return fig


def _coherence(axes: Any, table: Any) -> None:
    for kind, colour, mark in (("trained", _TRUTH, "o"), ("random", _LARGER, "s")):
        part = table[table["features"] == kind]
        style = {"color": colour, "marker": mark, "markersize": 3, "linewidth": 1.1, "label": kind}
        axes[0].plot(part["density"], part["rms"], **style)
        axes[1].plot(part["density"], part["antipodal"], **style)
    part = table[table["features"] == "trained"]
    axes[0].plot(part["density"], part["welch"], ":", color="0.4", linewidth=1.1, label="least possible (Welch)")
    axes[0].set(title="how features interfere", ylabel="rms cosine of two features")
    axes[1].set(title="antipodal pairs", ylabel="share of features in a pair\n(cosine < -.9)", ylim=(-0.03, 1.03))
    for axis in axes:
        axis.legend(frameon=False, fontsize=7, loc="best")
