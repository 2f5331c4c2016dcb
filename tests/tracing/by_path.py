"""Path patching as its papers say it, with PyTorch's own hooks: the independent witness."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.interventions import by_hand

PATHS = {
    "llama": {"z": ("model.layers.{}.self_attn.o_proj", "in"), "mlp_out": ("model.layers.{}.mlp", "out"), "mlp_in": ("model.layers.{}.mlp", "in"),
              "attn_out": ("model.layers.{}.self_attn", "out"), "q": ("model.layers.{}.self_attn.q_proj", "out"), "k": ("model.layers.{}.self_attn.k_proj", "out"),
              "v": ("model.layers.{}.self_attn.v_proj", "out"), "final_norm": ("model.norm", "out")},
    "gpt2": {"z": ("transformer.h.{}.attn.c_proj", "in"), "mlp_out": ("transformer.h.{}.mlp", "out"), "mlp_in": ("transformer.h.{}.mlp", "in"),
             "attn_out": ("transformer.h.{}.attn", "out"), "q": ("transformer.h.{}.attn.c_attn", "out"), "k": ("transformer.h.{}.attn.c_attn", "out"),
             "v": ("transformer.h.{}.attn.c_attn", "out"), "final_norm": ("transformer.ln_f", "out")},
}  # fmt: skip
Place = tuple[str, int, slice]
"""Component, layer, columns of its module's tensor."""


def columns(family: str, component: str, head: int | None, size: int, width: int) -> slice:
    """Where a head's part lies in the module's tensor (GPT-2's queries, keys and values are one)."""
    offset = {"k": width, "v": 2 * width}.get(component, 0) if family == "gpt2" else 0
    return slice(offset + (head or 0) * size, offset + ((head or 0) + 1) * size) if head is not None else slice(None)


def see(module: nn.Module, family: str, ids: list[int], place: Place, changes: Sequence[Any] = ()) -> Tensor:
    """The value at a place, ``[position, d]``, in a run with some changes."""
    component, layer, part = place
    path, side = PATHS[family][component]
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        found.append(x[0][:, part].clone())
        return x

    by_hand.run(module, ids, [*changes, (path.format(layer), side, keep)])
    return found[0]


def put(family: str, place: Place, value: Tensor) -> Any:
    """A change that sets a place to a value at every position."""
    component, layer, part = place
    path, side = PATHS[family][component]

    def change(x: Tensor) -> Tensor:
        new = x.clone()
        new[:, :, part] = value
        return new

    return (path.format(layer), side, change)


def path_patch(
    module: nn.Module, family: str, source: list[int], into: list[int], sender: Place, receivers: Sequence[Place], frozen: Sequence[str]
) -> Tensor:  # fmt: skip
    """Logits of the target when receivers get what a patched sender sends them; the rest is frozen in 3 layers."""
    whole = slice(None)
    held: list[Any] = []
    for layer in range(3):
        for component in frozen:
            later = layer > sender[1] or (layer == sender[1] and component == "mlp_out" and sender[0] != "mlp_out")
            if later:
                value = see(module, family, into, (component, layer, whole))
                held.append(put(family, (component, layer, whole), value))
    sent = put(family, sender, see(module, family, source, sender))
    arrived = [see(module, family, into, place, [sent, *held]) for place in receivers]
    return by_hand.run(
        module, into, [put(family, place, value) for place, value in zip(receivers, arrived, strict=True)]
    )


def difference(logits: Tensor) -> float:
    """The logit difference that the tests read."""
    return float(torch.sub(logits[-1, 5], logits[-1, 9]))
