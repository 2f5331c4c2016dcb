"""Length of recorded activations, by layer and position."""

from typing import TYPE_CHECKING

from patchclamp.figures.style import SEQUENTIAL, canvas, thin, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.interventions import Activations


def figure(activations: "Activations", *, prompt: int = 0) -> "Figure":
    """Draw the Euclidean norm of every recorded vector of one prompt, on a logarithmic scale."""
    from matplotlib.colors import LogNorm

    names = list(activations.values)
    with canvas((3.6 * len(names), 3.2), columns=len(names), squeeze=False) as (drawn, axes):
        for axis, name in zip(axes.flat, names, strict=True):
            dims = activations.dims[name]
            value = activations.values[name].detach().float().select(dims.index("prompt"), prompt)
            kept = [d for d in dims if d != "prompt"]
            norms = value.flatten(kept.index("head") if "head" in kept else kept.index("d")).norm(dim=-1)
            norms = norms.reshape(norms.shape[0] if "layer" in kept else 1, -1)
            image = axis.imshow(norms.numpy(), cmap=SEQUENTIAL, norm=LogNorm(), aspect="auto", interpolation="nearest")
            if "position" in kept and activations.tokens[prompt]:
                chosen = thin([visible(t) for t in activations.tokens[prompt]], 30)
                axis.set_xticks([i for i, _ in chosen], [label for _, label in chosen], rotation=90)
            else:
                axis.set_xticks([])
            if "layer" in kept:
                layers = thin([str(layer) for layer in activations.layers[name]], 34)
                axis.set_yticks([i for i, _ in layers], [label for _, label in layers])
                axis.set_ylabel("layer")
            else:
                axis.set_yticks([])
            axis.set_title(f"‖{name}‖")
            drawn.colorbar(image, ax=axis, fraction=0.05, pad=0.02)
        return drawn
