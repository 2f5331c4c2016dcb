"""The field's picture of a lens: layers against tokens, each cell with the layer's own top token; or curves over layers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.stats import t

from patchclamp.core.errors import InputError, check_choice, unknown
from patchclamp.figures.grid import Layers
from patchclamp.figures.style import SEQUENTIAL, canvas, thin, visible
from patchclamp.lenses.metrics import METRICS

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from patchclamp.lenses.result import Lens

MOST_TEXTS = 1500
_LONGEST = 8
_CLIP = {"log_probability": (-20.0, 0.0), "surprisal": (0.0, 20.0), "kl": (0.0, 20.0)}
"""Nats at which colours end: a few early cells would otherwise take the whole scale."""
_UNIT = ("final_probability", "probability", "agreement")
_REVERSED = ("rank", "surprisal", "entropy", "kl")
"""Where less is closer to the answer: bright stays near it."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One prompt's heat map: layers down, tokens across."""

    values: Any
    """The metric, ``[layer, position]``; NaN where a position has no target."""
    texts: Any
    """The top token of each cell, ``[layer, position]``, as the model has it."""
    hits: Any
    """Whether the top token of each cell is the target, ``[layer, position]``."""
    layers: tuple[str, ...]
    tokens: tuple[str, ...]
    targets: tuple[str, ...]
    low: float
    high: float
    colours: str
    log: bool
    label: str

    def shade(self) -> Any:
        """Where each value lies on the colour scale, from 0 to 1."""
        scale = np.log10 if self.log else np.asarray
        low, high, values = scale(self.low), scale(self.high), scale(np.maximum(self.values, self.low))
        return np.clip((values - low) / ((high - low) or 1.0), 0, 1)


def picture(lens: "Lens", metric: str = "final_probability", prompt: int = 0) -> Picture:
    """Cut one prompt out of a lens, without padding.

    Raises:
        InputError: There is no such metric or prompt.
    """
    check_choice("metric", metric, METRICS)
    if not -lens.data.sizes["prompt"] <= prompt < lens.data.sizes["prompt"]:
        raise InputError(f"prompt number {prompt} is outside 0..{lens.data.sizes['prompt'] - 1}")
    data = lens.data.isel(prompt=prompt)
    data = data.isel(position=np.flatnonzero(data["at"].values >= 0))
    log = metric == "rank"
    values = data[metric].values.astype(float) + log  # ranks count from 0, logarithms do not
    low, high, suffix = _range(metric, values)
    return Picture(
        values, data["top_token"].isel(top=0).values, data["top_id"].isel(top=0).values == data["target_id"].values,
        row_names(data), tuple(data["token"].values), tuple(data["target"].values), low, high,
        SEQUENTIAL + "_r" * (metric in _REVERSED), log, METRICS[metric] + suffix,
    )  # fmt: skip


def _range(metric: str, values: Any) -> tuple[float, float, str]:
    if metric in _UNIT:
        return 0.0, 1.0, ""
    finite = values[np.isfinite(values)]
    most = float(finite.max()) if finite.size else 1.0
    if metric == "rank":
        return 1.0, max(most, 2.0), ", from 1"
    if metric not in _CLIP:
        return 0.0, most or 1.0, ""
    low, high = _CLIP[metric]
    beyond = finite.size and (finite.min() < low or most > high)
    return low, high, ", colours end at 20" if beyond else ""


def row_names(lens_data: "xr.Dataset") -> tuple[str, ...]:
    """The names of a lens's rows on an axis."""
    components = {str(site).split(".")[0] for site in lens_data["site"].values}
    if len(components) == 1:
        return tuple(str(layer) for layer in lens_data["layer"].values)
    return tuple(str(site).removeprefix("resid_") for site in lens_data["site"].values)


def figure(
    lens: "Lens",
    *,
    metric: str = "final_probability",
    prompt: int | None = None,
    layers: Layers = "down",
    style: Literal["cells", "curves"] | None = None,
) -> "Figure":
    """Draw a lens.

    Args:
        lens: The result to draw.
        metric: The metric that the colour (or the curve) shows.
        prompt: The number of the prompt to draw; by default the first for cells, and all for curves.
        layers: Layer 0 at the top (``"down"``), at the bottom (``"up"``), or at the left (``"right"``).
        style: ``"cells"``: one prompt, the top token in every cell, bold with a frame where it is the target.
            ``"curves"``: mean over all positions and prompts (or those of ``prompt``) by layer, with its 95 % interval. By
            default cells for one prompt, curves for several.
    """
    check_choice("orientation", layers, ("down", "up", "right"))
    if style not in (None, "cells", "curves"):
        raise InputError(unknown("style", style, ("cells", "curves")))
    check_choice("metric", metric, METRICS)
    kind = style or ("cells" if prompt is not None or lens.data.sizes["prompt"] == 1 else "curves")
    return _curves(lens, metric, prompt) if kind == "curves" else _cells(picture(lens, metric, prompt or 0), layers)


def _cells(picture: Picture, layers: Layers) -> "Figure":
    with canvas(size(picture, layers)) as (fig, axis):
        image = draw(axis, picture, layers)
        fig.colorbar(image, ax=axis, fraction=0.05, pad=0.02, aspect=24, label=picture.label).outline.set_linewidth(0.4)
        return fig


def size(picture: Picture, layers: Layers) -> tuple[float, float]:
    """The width and height of a picture, in inches."""
    rows, columns = picture.values.T.shape if layers == "right" else picture.values.shape
    cell_width = 0.15 if picture.values.size > MOST_TEXTS else 0.56 if columns <= 30 else 0.4
    return float(np.clip(cell_width * columns + 1.6, 3.0, 24.0)), float(np.clip(0.17 * rows + 1.2, 2.2, 18.0))


def draw(axis: Any, picture: Picture, layers: Layers) -> Any:
    """Draw a picture on an axis, the targets on the other side of the tokens, and return the image."""
    from matplotlib.colors import LogNorm, Normalize

    is_transposed = layers == "right"
    values = picture.values.T if is_transposed else picture.values
    norm = (LogNorm if picture.log else Normalize)(picture.low, picture.high)
    origin = "lower" if layers == "up" else "upper"
    image = axis.imshow(
        values, cmap=picture.colours, norm=norm, aspect="auto", origin=origin, interpolation="nearest"
    )  # fmt: skip
    axis.set_facecolor("0.85")
    if values.size <= MOST_TEXTS:
        _write(axis, picture, is_transposed)
    tokens = thin([visible(token) for token in picture.tokens], 60)
    targets = thin([visible(target) if target else "?" for target in picture.targets], 60)
    names = thin(picture.layers, 40)
    set_token_ticks, set_layer_ticks = (
        (axis.set_yticks, axis.set_xticks) if is_transposed else (axis.set_xticks, axis.set_yticks)
    )
    set_token_ticks([i for i, _ in tokens], [text for _, text in tokens])
    set_layer_ticks([i for i, _ in names], [text for _, text in names])
    target_axis = axis.secondary_yaxis("right") if is_transposed else axis.secondary_xaxis("top")
    (target_axis.set_yticks if is_transposed else target_axis.set_xticks)(
        [i for i, _ in targets], [text for _, text in targets]
    )
    (target_axis.set_ylabel if is_transposed else target_axis.set_xlabel)("target")
    for side in (axis, target_axis):
        side.tick_params(length=2, width=0.5)
        if not is_transposed:
            side.tick_params(
                axis="x", rotation=90 if len(picture.tokens) > 1 and max(map(len, picture.tokens)) > 5 else 0
            )
    axis.set_xlabel("layer" if is_transposed else "token")
    axis.set_ylabel("token" if is_transposed else "layer")
    return image


def _write(axis: Any, picture: Picture, is_transposed: bool) -> None:
    import matplotlib as mpl

    colours = mpl.colormaps[picture.colours](np.nan_to_num(picture.shade(), nan=0.5))
    for row, column in np.ndindex(*picture.values.shape):
        light = float(colours[row, column, :3] @ (0.2126, 0.7152, 0.0722))
        missing = not np.isfinite(picture.values[row, column])
        ink = "0.2" if missing else "black" if light > 0.45 else "white"
        place = (row, column) if is_transposed else (column, row)
        hit = bool(picture.hits[row, column])
        text = visible(str(picture.texts[row, column]), _LONGEST)
        frame = {"boxstyle": "square,pad=0.12", "fill": False, "edgecolor": ink, "linewidth": 0.6} if hit else None
        axis.text(
            *place, text, ha="center", va="center", fontsize=5.5, color=ink, bbox=frame,
            fontweight="bold" if hit else "normal", clip_on=True,
        )  # fmt: skip


def curves(lens: "Lens", metric: str, prompt: int | None = None) -> tuple[Any, Any]:
    """Mean over positions by layer, then over prompts, and half its 95 % interval (Student's t), ``[layer]`` each.

    Positions of one prompt are not independent, so with several prompts the interval is that of the prompts' means; with
    one it is that of its positions.
    """
    values = lens.data[metric].transpose("prompt", "layer", "position").values.astype(float)
    if prompt is not None:
        values = values[[prompt]]
    finite = np.isfinite(values)
    counts = finite.sum(2)
    with np.errstate(invalid="ignore"):
        means = np.where(finite, values, 0).sum(2) / np.where(counts, counts, np.nan)
    samples = means if len(values) > 1 else values[0].T
    samples = samples[np.isfinite(samples).all(1)]
    if not len(samples):
        raise InputError(f"no position has a {metric!r}: there is no target")
    spread = samples.std(0, ddof=1) / np.sqrt(len(samples)) if len(samples) > 1 else np.full(samples.shape[1], np.nan)
    return samples.mean(0), float(t.ppf(0.975, max(len(samples) - 1, 1))) * spread


def _curves(lens: "Lens", metric: str, prompt: int | None) -> "Figure":
    mean, half = curves(lens, metric, prompt)
    with canvas((4.2, 2.6)) as (fig, axis):
        rows = range(len(mean))
        axis.plot(rows, mean, marker="o", markersize=2.5, linewidth=1.2, color="#1f3b73", label="mean")
        axis.fill_between(
            rows, mean - half, mean + half, color="#1f3b73", alpha=0.2, linewidth=0, label="95 % interval"
        )
        names = thin(row_names(lens.data), 16)
        axis.set_xticks([i for i, _ in names], [text for _, text in names])
        axis.set_xlabel("layer")
        axis.set_ylabel(METRICS[metric])
        if metric == "rank":
            axis.set_yscale("symlog", linthresh=1)
        axis.legend(frameon=False, fontsize=6)
        axis.spines[["top", "right"]].set_visible(False)
        return fig
