"""A network of gates taken apart: one network says which neurons are open, another holds the linear maps."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from patchclamp.core.interrupts import guarded


class Decoupled(nn.Module):
    """``h <- g * (W h + b)``, where the gates ``g`` (0 or 1) are those of another ReLU network on the same input.

    With one network as both it is that network. Gates are trained through a straight-through estimate, whose gradient is that
    of ``sigmoid(z)``.

    Sources: Fiat, Malach & Shalev-Shwartz 2019 (arXiv 1906.05032), who fix random gates; Lakshminarayanan & Singh 2020
    (arXiv 2006.10529), who reuse the gates of a trained network.

    Args:
        gates: ``Linear, ReLU, ..., Linear``; the last layer is not used.
        maps: This network has the same widths and gives the affine maps; its ReLUs are not used.
    """

    def __init__(self, gates: nn.Sequential, maps: nn.Sequential) -> None:
        super().__init__()
        self.gates, self.maps = gates, maps

    def forward(self, x: Tensor) -> Tensor:
        """``[row, d_in] -> [row, d_out]``."""
        h = x
        *layers, last = [layer for layer in self.maps if isinstance(layer, nn.Linear)]
        for z, layer in zip(preactivations(self.gates, x), layers, strict=True):
            h = straight_through_gate(z) * layer(h)
        out: Tensor = last(h)
        return out


def preactivations(network: nn.Sequential, x: Tensor) -> Iterator[Tensor]:
    """What each ReLU of ``Linear, ReLU, Linear, ...`` sees."""
    for layer in network:
        if isinstance(layer, nn.ReLU):
            yield x
        x = layer(x)


def straight_through_gate(z: Tensor) -> Tensor:
    """1 where ``z`` is above 0, with the gradient of ``sigmoid(z)``."""
    hard = (z > 0).to(z.dtype)
    if not z.requires_grad:
        return hard
    soft = torch.sigmoid(z)
    return hard + (soft - soft.detach())


def bits(network: nn.Sequential, x: Tensor) -> Tensor:
    """Which ReLUs are open, ``[row, neuron]``, as numbers."""
    with guarded(torch.no_grad()):
        return torch.cat([straight_through_gate(z) for z in preactivations(network, x)], 1)


def freeze(network: nn.Sequential) -> nn.Sequential:
    """The network, its weights out of training's reach."""
    network.requires_grad_(False)
    return network
