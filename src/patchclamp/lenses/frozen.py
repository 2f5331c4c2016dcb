"""A normalisation with its scale frozen: a linear map, found by asking the module itself."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchclamp.core.errors import ModelError
from patchclamp.core.interrupts import guarded

_TOLERANCE = 1e-5  # many norms work in float32 inside a float64 model


@dataclass(frozen=True, eq=False)
class Frozen:
    """``norm(h)`` as ``linear(h) + bias``, with the scale that the norm has at ``h`` held fixed. All in float64.

    A norm that subtracts the mean (or not), divides by one scale a vector, multiplies by a gain and adds a bias answers a
    vector x of mean 0 and mean square 1 with ``gain * x / sqrt(1 + eps) + bias``. Asking it for x and -x gives gain and
    bias; its own output at ``h`` then leaves one unknown, the scale, which the ``d`` outputs must agree on.
    """

    gain: Tensor
    """The gain with the frozen scale included, ``[d]``."""
    bias: Tensor
    """The part of the norm's own output that is not linear, its bias (and its rounding), ``[d]``."""
    centred: bool
    """Whether the norm subtracts the mean first (LayerNorm), or not (RMSNorm)."""

    @classmethod
    def of(cls, norm: nn.Module, state: Tensor) -> "Frozen":
        """Freeze a norm at a state ``[d]``.

        Raises:
            ModelError: The module is no such norm.
        """
        with guarded(torch.no_grad()):
            sign = torch.ones_like(state)
            sign[1::2] = -1
            if len(state) % 2:
                raise ModelError(f"an odd hidden size, {len(state)}, is not supported")
            probes = torch.stack([sign, -sign, state, state + state.abs().max()])
            plus, minus, output, shifted_output = norm(probes.unsqueeze(1))[:, 0].double()
        tolerance = _TOLERANCE * output.abs().max()
        centred = bool((shifted_output - output).abs().max() <= tolerance)
        gain, bias = (plus - minus) / 2 * sign.double(), (plus + minus) / 2
        state64 = state.double()
        unscaled = gain * (state64 - state64.mean() if centred else state64)
        scale = (unscaled @ (output - bias)) / (unscaled @ unscaled)
        offset = output - scale * unscaled
        if not (offset - bias).abs().max() <= tolerance:
            raise ModelError(
                f"{type(norm).__name__} is not a gain times its (centred) input over one scale, so it has no frozen scale"
            )
        return cls(gain * scale, offset, centred)

    def linear(self, parts: Tensor) -> Tensor:
        """The linear part, ``[..., d] -> [..., d]``."""
        return self.gain * (parts - parts.mean(-1, keepdim=True) if self.centred else parts)
