"""Mamba: a recurrent mixer a layer; only the residual stream has named sites."""

from patchclamp.models.components import COMPONENTS
from patchclamp.models.family import Family

_RESIDUAL = {"embed", "resid_pre", "resid_post", "final_norm", "logits"}
_NO_ATTENTION = (
    "Mamba's layers are one recurrent mixer, without attention or MLP; use resid_pre, resid_post or a module path"
)

FAMILY = Family(
    name="mamba",
    model_types=("mamba",),
    layers="layers",
    embed="embeddings",
    final_norm="norm_f",
    sites={},
    refused={name: _NO_ATTENTION for name in COMPONENTS if name not in _RESIDUAL},
    residual="other",
    recurrent=True,
)
