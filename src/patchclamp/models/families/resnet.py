"""ResNet: residual blocks over feature maps; a position is one place of the map, row by row."""

from patchclamp.models.family import residual_only

_CONVOLUTION = "a residual block of convolutions has no attention, MLP or final norm; use resid_post or a module path"

FAMILY = residual_only("resnet", _CONVOLUTION, layers="encoder.stages.*.layers", embed="embedder", causal=False)
