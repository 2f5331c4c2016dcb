"""Which module of a tiny family carries which site: a table of its own, which knows nothing of patchclamp's."""

from dataclasses import dataclass

import torch
from torch import Tensor

LAYERS, HEADS, WIDTH = 3, 4, 32


@dataclass(frozen=True)
class Place:
    """A tensor of a module: its main input or output, and the columns of it that the site means."""

    path: str
    side: str
    columns: tuple[int, ...] | None = None
    in_place: bool = False
    """The same tensor is added to the stream later, so it is changed where it lies."""

    def part(self, x: Tensor) -> Tensor:
        """The site's vectors, heads side by side."""
        return x if self.columns is None else x[..., list(self.columns)]

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        """The whole tensor with the site's vectors replaced."""
        if self.columns is None:
            return new
        whole = x.clone()
        whole[..., list(self.columns)] = new
        return whole


@dataclass(frozen=True)
class Tiny:
    """A family: the path of its layers, and site -> (path below the layer, side)."""

    layer: str
    embed: str
    norm: str | None
    sites: dict[str, tuple[str, str]]
    fused: str = ""
    """How one projection holds queries, keys and values: "blocks" or "by head"."""
    key_heads: int = HEADS
    d_head: int = 8
    generates: bool = True


_LLAMA = {
    "attn_in": ("self_attn", "in"), "q": ("self_attn.q_proj", "out"), "k": ("self_attn.k_proj", "out"), "v": ("self_attn.v_proj", "out"),
    "z": ("self_attn.o_proj", "in"), "attn_out": ("self_attn", "out"), "resid_mid": ("post_attention_layernorm", "in"), "mlp_in": ("mlp", "in"),
    "mlp_pre": ("mlp.gate_proj", "out"), "mlp_act": ("mlp.down_proj", "in"), "mlp_out": ("mlp", "out"),
}  # fmt: skip
_SANDWICH = {
    **_LLAMA, "attn_out": ("post_attention_layernorm", "out"), "resid_mid": ("pre_feedforward_layernorm", "in"),
    "mlp_out": ("post_feedforward_layernorm", "out"),
}  # fmt: skip
_GPT2 = {
    "attn_in": ("attn", "in"), "q": ("attn.c_attn", "out"), "k": ("attn.c_attn", "out"), "v": ("attn.c_attn", "out"), "z": ("attn.c_proj", "in"),
    "attn_out": ("attn", "out"), "resid_mid": ("ln_2", "in"), "mlp_in": ("mlp", "in"), "mlp_pre": ("mlp.c_fc", "out"),
    "mlp_act": ("mlp.c_proj", "in"), "mlp_out": ("mlp", "out"),
}  # fmt: skip
_NEOX = {
    "attn_in": ("attention", "in"), "q": ("attention.query_key_value", "out"), "k": ("attention.query_key_value", "out"),
    "v": ("attention.query_key_value", "out"), "z": ("attention.dense", "in"), "attn_out": ("attention", "out"), "mlp_in": ("mlp", "in"),
    "mlp_pre": ("mlp.dense_h_to_4h", "out"), "mlp_act": ("mlp.dense_4h_to_h", "in"), "mlp_out": ("mlp", "out"),
}  # fmt: skip
_BERT = {
    "q": ("attention.self.query", "out"), "k": ("attention.self.key", "out"), "v": ("attention.self.value", "out"),
    "z": ("attention.output.dense", "in"), "mlp_pre": ("intermediate.dense", "out"), "mlp_act": ("output.dense", "in"),
}  # fmt: skip

TINY = {
    "llama": Tiny("model.layers", "model.embed_tokens", "model.norm", _LLAMA, key_heads=2),
    "gpt2": Tiny("transformer.h", "transformer.wte", "transformer.ln_f", _GPT2, fused="blocks"),
    "gpt_neox": Tiny("gpt_neox.layers", "gpt_neox.embed_in", "gpt_neox.final_layer_norm", _NEOX, fused="by head"),
    "gemma3": Tiny("model.layers", "model.embed_tokens", "model.norm", _SANDWICH, key_heads=2, d_head=16),
    "bert": Tiny("bert.encoder.layer", "bert.embeddings.word_embeddings", None, _BERT, generates=False),
}
CAUSAL = [name for name, family in TINY.items() if family.generates]


def components(family: str) -> list[str]:
    """Sites that have layers."""
    return ["resid_pre", "resid_post", *TINY[family].sites]


def place(family: str, site: str) -> Place:
    """Where a site as ``z.1.h2``, ``mlp_act.0.n5``, ``resid_post.2``, ``embed`` or ``logits`` lies."""
    of = TINY[family]
    component, _, rest = site.partition(".")
    if component == "logits":
        return Place("", "out")
    if component in ("embed", "final_norm"):
        return Place(of.embed if component == "embed" else str(of.norm), "out")
    number, _, unit = rest.partition(".")
    layer = f"{of.layer}.{number}"
    if component in ("resid_pre", "resid_post"):
        return Place(layer, "in" if component == "resid_pre" else "out")
    path, side = of.sites[component]
    columns = _whole(of, component)
    if unit:
        size = of.d_head if unit[0] == "h" else 1
        start = int(unit[1:]) * size
        columns = (columns or tuple(range(10**4)))[start : start + size]
    return Place(f"{layer}.{path}", side, columns, in_place=component == "resid_mid")


def _whole(of: Tiny, component: str) -> tuple[int, ...] | None:
    """Columns of queries, keys or values in a projection that holds all three."""
    if not of.fused or component not in ("q", "k", "v"):
        return None
    part = "qkv".index(component)
    table = torch.arange(3 * HEADS * of.d_head)
    cut = table.view(3, -1)[part] if of.fused == "blocks" else table.view(HEADS, 3, of.d_head)[:, part].flatten()
    return tuple(cut.tolist())
