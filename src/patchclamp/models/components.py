"""The vocabulary of sites: what each component is and where it lies in a layer."""

from dataclasses import dataclass
from typing import Literal

Axis = Literal["d_model", "heads", "kv_heads", "neurons", "vocab", "keys"]


@dataclass(frozen=True)
class Component:
    """One row of the table of sites."""

    name: str
    axis: Axis
    """The units that the last dimension counts."""
    per_layer: bool
    meaning: str
    """Where the tensor lies: before or after norm, rotary, gate."""
    local: bool = True
    """True if an edit at one position reaches other positions only through later layers (or not at all)."""


_ROWS = (
    Component(
        "embed", "d_model", False, "output of the token embedding, before position embeddings and dropout", False
    ),
    Component("resid_pre", "d_model", True, "residual stream on entry to the layer", False),
    Component("attn_in", "d_model", True, "what attention reads: after the layer's first norm", False),
    Component("q", "heads", True, "queries as projected (bias added), before query norm and rotary embedding"),
    Component("k", "kv_heads", True, "keys as projected (bias added), before key norm and rotary embedding", False),
    Component("v", "kv_heads", True, "values as projected (bias added)", False),
    Component("attn_pattern", "keys", True, "attention weights after softmax (eager attention only; read-only)"),
    Component("z", "heads", True, "each head's weighted sum of values, before the output projection"),
    Component(
        "attn_out", "d_model", True, "what attention adds to the residual stream: after projection, norm and multiplier"
    ),
    Component("resid_mid", "d_model", True, "residual stream between attention and MLP (absent in parallel blocks)"),
    Component("mlp_in", "d_model", True, "what the MLP reads: after the layer's second norm"),
    Component("mlp_pre", "neurons", True, "input of the nonlinearity (in gated MLPs the gate's projection)"),
    Component(
        "mlp_act",
        "neurons",
        True,
        "the neurons: input of the MLP's output projection (activation times up-projection if gated)",
    ),
    Component(
        "mlp_out", "d_model", True, "what the MLP adds to the residual stream: after projection, norm and multiplier"
    ),
    Component("resid_post", "d_model", True, "residual stream on exit from the layer"),
    Component("final_norm", "d_model", False, "output of the final norm: what the unembedding reads"),
    Component("logits", "vocab", False, "the model's own logits, after soft-capping and scaling"),
)

COMPONENTS: dict[str, Component] = {row.name: row for row in _ROWS}
"""Every component by name, in the order of the forward pass."""

ORDER: dict[str, int] = {name: index for index, name in enumerate(COMPONENTS)}
