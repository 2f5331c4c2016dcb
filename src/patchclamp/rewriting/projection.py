"""The matrix that is rewritten: the down projection of one layer's MLP."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError, ModelError
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.models.weights import oriented, sharing


@dataclass(frozen=True, eq=False)
class Projection:
    """``output = key @ matrix + bias``, whose input is the site ``mlp_act``.

    The output is the module's own, before any norm or multiplier on its way into the residual stream.
    """

    layer: int
    path: str
    """The path of the module."""
    key_site: Site
    output_site: Site
    parameter: Tensor
    """The model's own weight, as it stores it."""
    matrix: Tensor
    """A float64 copy of the weight, ``[d_mlp, d_model]``."""
    bias: Tensor
    """The bias in float64, ``[d_model]``."""

    @classmethod
    def of(cls, model: OpenModel, layer: int) -> "Projection":
        """Find the down projection of a layer.

        Raises:
            InputError: No such layer.
            SiteError: The MLP is no single one (a mixture of experts), or the model has none.
            ModelError: The model reads both ways, the projection is not one matrix of floats, it holds NaN, or other
                modules share it.
        """
        count = model.sites.n_layers
        if not -count <= layer < count:
            raise InputError(f"layer {layer!r} is outside this model's layers 0..{count - 1}")
        (site,) = model.sites.expand([f"mlp_act.{layer}"])
        access = model.sites.access(site)
        module = model.sites.modules[access.module]
        description = f"the down projection {access.module!r}"
        if access.side != "in" or access.columns is not None or not isinstance(module.weight, nn.Parameter):
            raise ModelError(f"{description} is a {type(module).__name__}, not one weight matrix")
        if others := sharing(model, access.module):
            raise ModelError(f"{description} shares its weight with {others[0]!r}, which a rewrite would change too")
        matrix = oriented(module).detach().to("cpu", torch.float64)
        bias = getattr(module, "bias", None)
        bias_vector = matrix.new_zeros(matrix.shape[1]) if bias is None else bias.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(matrix).all() & torch.isfinite(bias_vector).all()):
            raise ModelError(f"{description} holds NaN or infinite weights")
        if not model.causal:
            raise ModelError(
                f"rewriting changes what follows a subject, but {type(model.module).__name__} reads both ways"
            )
        assert site.layer is not None
        output = Site(f"{access.module}:out", None, None, access.module, "out")
        return cls(site.layer, access.module, site, output, module.weight, matrix, bias_vector)

    @property
    def key(self) -> str:
        """The digest of the weight, so that a rewrite is not put into another model."""
        return digest(self.parameter)
