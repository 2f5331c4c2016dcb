"""ROME's causal trace as its loop says it, with PyTorch's own hooks: the independent witness."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tests.interventions import by_hand

PATHS = {
    "llama": {"embed": "model.embed_tokens", "resid_post": "model.layers.{}", "mlp_out": "model.layers.{}.mlp", "attn_out": "model.layers.{}.self_attn"},
    "gpt2": {"embed": "transformer.wte", "resid_post": "transformer.h.{}", "mlp_out": "transformer.h.{}.mlp", "attn_out": "transformer.h.{}.attn"},
}  # fmt: skip


def states(module: nn.Module, ids: list[int], path: str, layers: int) -> list[Tensor]:
    """The clean run's outputs of every layer's module, ``[position, d]`` each."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        found.append(x[0].clone())
        return x

    by_hand.run(module, ids, [(path.format(i), "out", keep) for i in range(layers)])
    return found


def corrupted(
    module: nn.Module, family: str, ids: list[int], subject: list[int], noise: Tensor, restore: Sequence[Any] = ()
) -> Tensor:
    """Next-token logits with noise on the subject's embeddings and states ``(path, position, value)`` set back."""

    def add(x: Tensor) -> Tensor:
        new = x.clone()
        new[:, subject] += noise
        return new

    changes = [(PATHS[family]["embed"], "out", add)]
    changes += [(path, "out", by_hand.at(p, lambda _, v=value: v.unsqueeze(0))) for path, p, value in restore]
    return by_hand.run(module, ids, changes)[-1]


def window(layer: int, width: int, layers: int) -> range:
    """ROME's: ``max(0, layer - width // 2)`` to ``min(layers, layer - (-width // 2))``."""
    return range(max(0, layer - width // 2), min(layers, layer - (-width // 2)))
