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
    with canvas((3.6 * len(names), 3.2), columns=len(names), squeeze=False) as (fig, axes):
        for axis, name in zip(axes.flat, names, strict=True):
            dims = activations.dims[name]
            value = activations.values[name].detach().float().select(dims.index("prompt"), prompt)
            state_dims = [d for d in dims if d != "prompt"]
            norms = value.flatten(state_dims.index("head") if "head" in state_dims else state_dims.index("d")).norm(
                dim=-1
            )
            norms = norms.reshape(norms.shape[0] if "layer" in state_dims else 1, -1)
            image = axis.imshow(norms.numpy(), cmap=SEQUENTIAL, norm=LogNorm(), aspect="auto", interpolation="nearest")
            if "position" in state_dims and activations.tokens[prompt]:
                ticks = thin([visible(t) for t in activations.tokens[prompt]], 30)
                axis.set_xticks([i for i, _ in ticks], [label for _, label in ticks], rotation=90)
            else:
                axis.set_xticks([])
            if "layer" in state_dims:
                layers = thin([str(layer) for layer in activations.layers[name]], 34)
                axis.set_yticks([i for i, _ in layers], [label for _, label in layers])
                axis.set_ylabel("layer")
            else:
                axis.set_yticks([])
            axis.set_title(f"‖{name}‖")
            fig.colorbar(image, ax=axis, fraction=0.05, pad=0.02)
        return fig
