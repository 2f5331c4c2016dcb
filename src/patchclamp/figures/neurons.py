"""Neuron importances as layers by tokens, with the mean of each layer beside."""

from typing import TYPE_CHECKING

from patchclamp.figures.grid import Layers, Panel
from patchclamp.figures.style import limits
from patchclamp.figures.trace import layer_by_token, starred

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.tracing.neurons import Neurons


def panel(neurons: "Neurons") -> Panel:
    """The importances of all layers and tokens."""
    values = neurons.dataset["importance"].values
    layers = tuple(str(layer) for layer in neurons.dataset["layer"].values)
    tokens = starred(neurons.tokens, neurons.subject)
    return Panel("neurons restored one by one", values, layers, tokens, None, "layer", "token", limits(values, None))


def figure(neurons: "Neurons", *, layers: Layers = "down") -> "Figure":
    """Draw neuron importances.

    Args:
        neurons: The result.
        layers: Layer 0 at the top (``"down"``), at the bottom (``"up"``), or at the left (``"right"``).
    """
    said = "sum over neurons of |indirect effect| (layer means: of one neuron)"
    return layer_by_token([panel(neurons)], [neurons.layer_means().values], said, layers)
