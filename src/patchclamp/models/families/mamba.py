"""Mamba: a recurrent mixer a layer; only the residual stream has named sites."""

from patchclamp.models.family import residual_only

_MIXER = "Mamba's layers are one recurrent mixer, without attention or MLP; use resid_pre, resid_post or a module path"

FAMILY = residual_only("mamba", _MIXER, layers="layers", embed="embeddings", final_norm="norm_f", recurrent=True)
