"""The weights of a tuned lens: an affine map of the residual stream for each number of layers that it has passed."""

import torch
from torch import Tensor, nn

from patchclamp.core.errors import SiteError


class Translators(nn.Module):
    """What the head is to read instead of the stream ``h`` after some layers: ``h + A h + b``, with an ``A`` and ``b`` a depth.

    New ones have ``A = 0`` and ``b = 0``, so that they change nothing.
    """

    weight: nn.Parameter
    """``A``, ``[depth, d, d]``: its product with a state is ``A @ h``."""
    bias: nn.Parameter
    """``b``, ``[depth, d]``."""

    def __init__(self, depths: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(depths, width, width, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.zeros(depths, width, dtype=dtype, device=device))

    def forward(self, states: Tensor, depth: int) -> Tensor:
        """Translate states ``[..., d]`` of a depth, for the head to read; computed in float32 at least.

        Raises:
            SiteError: The model is not that deep.
        """
        if not 0 <= depth <= len(self.weight):
            raise SiteError(
                f"depth {depth} is outside 0..{len(self.weight)}, the layers that the stream can have passed"
            )
        if depth == len(self.weight):
            return states
        dtype = torch.promote_types(states.dtype, self.weight.dtype)
        wide = states.to(dtype)
        matrix, offset = (value[depth].to(states.device, dtype) for value in (self.weight, self.bias))
        return (wide + nn.functional.linear(wide, matrix, offset)).to(states.dtype)
