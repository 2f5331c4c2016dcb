"""Neuron importances as layers by tokens: the strongest neuron and the mean of all, with the mean of each layer beside."""

from typing import TYPE_CHECKING

from patchclamp.figures.grid import Layers, Panel
from patchclamp.figures.style import limits
from patchclamp.figures.trace import layer_by_token, star_subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.tracing.neurons import Neurons


def panels(neurons: "Neurons") -> list[Panel]:
    """Make two panels of all layers and tokens: the strongest single neuron of each cell, and the mean of all its neurons."""
    strongest = abs(neurons.dataset["effect"].isel(rank=0)).values
    mean = neurons.dataset["importance"].values / int(neurons.record["neurons"])
    layers = tuple(str(layer) for layer in neurons.dataset["layer"].values)
    tokens = star_subject(neurons.tokens, neurons.subject)
    quantities = (
        ("strongest neuron, |indirect effect|", strongest),
        ("mean over a layer's neurons, |indirect effect|", mean),
    )
    return [
        Panel(name, values, layers, tokens, None, "layer", "token", limits(values, None)) for name, values in quantities
    ]  # fmt: skip


def figure(neurons: "Neurons", *, layers: Layers = "down") -> "Figure":
    """Draw neuron importances.

    Args:
        neurons: The result to draw.
        layers: Layer 0 at the top (``"down"``), at the bottom (``"up"``), or at the left (``"right"``).
    """
    strongest = abs(neurons.dataset["effect"].isel(rank=0, position=slice(neurons.subject[0], None)))
    means = [strongest.mean("position").values, neurons.layer_means().values]
    return layer_by_token(
        panels(neurons), means, "each with the mean of every layer over the tokens from the subject on", layers
    )
