"""Pictures of the study of classes and maps."""

from typing import TYPE_CHECKING, Any

from patchclamp.studies.drawing import canvas, hide_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.studies.classes_and_maps import ClassesAndMaps

_COLOURS = {"k-means": "#3b6ea5", "random images": "#8a8f98", "learned": "#b8451f", "ReLU network": "#1b1b1b"}


def curves(result: "ClassesAndMaps") -> "Figure":
    """Accuracy against stored numbers; accuracy of gates and maps apart; how maps differ between two images."""
    with canvas((10.2, 3.4), columns=3, width_ratios=[1.15, 1.25, 0.9]) as (fig, (left, middle, right)):
        _sizes(left, result)
        _parts(middle, result)
        _faces(right, result)
        hide_frame(left, middle, right)
    return fig


def _sizes(axis: Any, result: "ClassesAndMaps") -> None:
    table = result.averages()["points"]
    for (maps, how), rows in table[table["network"] == "nearest points"].groupby(["maps", "points"], sort=False):
        style = "-" if maps == "full" else "--"
        axis.errorbar(
            rows["parameters"], rows["accuracy"], yerr=(rows["high"] - rows["low"]) / 2, fmt=f"{style}o", markersize=3,
            linewidth=1, color=_COLOURS[str(how)], label=f"points: {how}" if maps == "rank 4" else None,
        )  # fmt: skip
    rows = table[table["network"] == "ReLU network"].sort_values("parameters")
    axis.errorbar(
        rows["parameters"], rows["accuracy"], yerr=(rows["high"] - rows["low"]) / 2, fmt="-s", markersize=3,
        linewidth=1.4, color=_COLOURS["ReLU network"], label="ReLU network",
    )  # fmt: skip
    floor = float(table.loc[table["network"] == "one linear map", "accuracy"].iloc[0])
    axis.axhline(floor, color="0.7", linewidth=0.8, zorder=0, label="one linear map")
    axis.plot([], [], "--", color="0.4", linewidth=1, label="dashed: rank 4 and a shared map")
    axis.set(xscale="log", xlabel="numbers stored", ylabel="accuracy on test images")
    axis.legend(frameon=False, fontsize=6, loc="upper left")
    axis.margins(y=0.25)


def _parts(axis: Any, result: "ClassesAndMaps") -> None:
    table, seeds = result.averages()["gates"], result.gates
    table = table[table["what"] != "linear read-out of gates"].reset_index(drop=True)
    shown_rows = table[table["accuracy"] > 0.5]
    omissions = [what for what in table["what"] if what not in set(shown_rows["what"])]
    for place, (_, row) in enumerate(shown_rows.iterrows()):
        colour = {"one linear map": "0.7", "ReLU network": "#1b1b1b"}.get(row["what"], "#3b6ea5")
        axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=3, alpha=0.35)
        accuracies = seeds.loc[seeds["what"] == row["what"], "accuracy"]
        axis.scatter(accuracies, [place] * len(accuracies), s=7, color=colour)
        axis.text(row["high"], place - 0.22, f"{row['accuracy']:.3f}", fontsize=6, va="bottom", ha="right")
    axis.set_yticks(range(len(shown_rows)), shown_rows["what"])
    axis.invert_yaxis()
    axis.set_xlabel("accuracy on test images" + (f"\n(off the scale: {', '.join(omissions)})" if omissions else ""))


def _faces(axis: Any, result: "ClassesAndMaps") -> None:
    table = result.averages()["faces"]
    for column, colour, label in (
        ("at a face", "#b8451f", "maps on both sides of a face"), ("end to end", "#3b6ea5", "maps at the two images")
    ):  # fmt: skip
        axis.scatter(table[column], range(len(table)), s=28, color=colour, label=label)
    names = [f"{row.network}\n({row.faces:.1f} faces)".replace(" of as", "\nof as") for row in table.itertuples()]
    axis.set_yticks(range(len(table)), names)
    axis.set_ylim(len(table) - 0.5, -0.9)
    axis.set(xlabel="relative distance of maps", xscale="log", xlim=(0.005, 2))
    axis.grid(axis="x", color="0.92", linewidth=0.6)
    axis.legend(frameon=False, fontsize=6, loc="upper left")


def points(result: "ClassesAndMaps") -> "Figure":
    """The learned points as pictures, with the commonest class of each region and its share."""
    order = result.says.sort_values(["class", "share"], ascending=[True, False], kind="stable").index
    columns = 16
    grid_rows = -(-len(order) // columns)
    with canvas((0.55 * columns, 0.72 * grid_rows), grid_rows, columns, squeeze=False) as (fig, grid):
        axes = grid.ravel()
        for axis in axes:
            axis.axis("off")
        for axis, number in zip(axes, order, strict=False):
            region = result.says.loc[number]
            axis.imshow(result.centres[number].reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
            axis.set_title(
                f"{region['class']} {region['share']:.0%}" if region["images"] else "empty", fontsize=5.5, pad=1.5
            )
    return fig
