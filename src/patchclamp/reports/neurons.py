"""The page of neuron importances: the picture, and the strongest neurons with their exact effects."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.figures.neurons import panel
from patchclamp.reports.heatmap import heatmap
from patchclamp.reports.page import Part, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.tracing.neurons import Neurons


def parts(neurons: "Neurons") -> list[Part]:
    """What the page shows."""
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(neurons))),
        Part("Importance by layer and token", Markup('<div class="panels">{}</div>').format(heatmap(panel(neurons)))),
        Part("With layer means", embedded_png(neurons)),
        Part("Strongest neurons", table(neurons.verified())),
    ]
