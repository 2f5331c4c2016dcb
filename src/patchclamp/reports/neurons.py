"""The page of neuron importances: the picture, and the strongest neurons with their exact effects."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from patchclamp.figures.neurons import panels
from patchclamp.reports.cells import Cells, aligned, svg
from patchclamp.reports.heatmap import picture
from patchclamp.reports.page import Section, summary_parts

if TYPE_CHECKING:
    from patchclamp.tracing.neurons import Neurons


def parts(neurons: "Neurons") -> list[Section]:
    """The parts of the page, from top to bottom."""
    maps = Section("Importance by layer and token", aligned([svg(one) for one in cells(neurons)]))
    return summary_parts(neurons, "With layer means", {"Strongest neurons": neurons.verified()}, [maps])


def cells(neurons: "Neurons") -> list[Cells]:
    """The pictures, with the strongest neurons of each layer and token under the mouse."""
    best = neurons.dataset.isel(rank=slice(0, 5))
    pictures = []
    for panel in panels(neurons):
        base = picture(panel)
        tips = [
            [f"{tip}\n{_best(best.isel(layer=row, position=column))}" for column, tip in enumerate(line)]
            for row, line in enumerate(base.tips)
        ]
        pictures.append(replace(base, tips=tips))
    return pictures


def _best(cell: Any) -> str:
    pairs = zip(cell["neuron"].values, cell["effect"].values, strict=True)
    return "\n".join(f"neuron {int(neuron):>5}  {effect:+.4g}" for neuron, effect in pairs)
