"""ResNet: residual blocks over feature maps; a position is one place of the map, row by row."""

from patchclamp.models.components import COMPONENTS
from patchclamp.models.family import Family

_RESIDUAL = {"embed", "resid_pre", "resid_post", "logits"}
_CONVOLUTION = "a residual block of convolutions has no attention, MLP or final norm; use resid_post or a module path"

FAMILY = Family(
    name="resnet",
    model_types=("resnet",),
    layers="encoder.stages.*.layers",
    embed="embedder",
    final_norm=None,
    sites={},
    refused={name: _CONVOLUTION for name in COMPONENTS if name not in _RESIDUAL},
    residual="other",
    causal=False,
)
