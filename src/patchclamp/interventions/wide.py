"""Logits in float32 from half-precision weights, through the model's own code."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from typing_extensions import override

_VOCABULARY_BLOCK = 4096  # rows of the unembedding that are held in float32 at once


class WideLogits(TorchFunctionMode):
    """Inside the block the product with ``weight`` is taken in float32; what follows it (caps, scales) runs in float32 too.

    Rounded to bfloat16, the logits of one position have few distinct values: ranks tie and probabilities are off.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is linear and len(args) > 1 and args[1] is self.weight:
            bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
            return _product(args[0], self.weight, bias)
        return func(*args, **(kwargs or {}))


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = torch.empty(*x.shape[:-1], len(weight), dtype=torch.float32, device=x.device)
    wide = x.float()
    for start in range(0, len(weight), _VOCABULARY_BLOCK):
        part = slice(start, start + _VOCABULARY_BLOCK)
        out[..., part] = linear(wide, weight[part].float(), None if bias is None else bias[part].float())
    return out
