"""The product with the unembedding: in float32 also for half-precision weights, and a block of the vocabulary at a time.

Entered by ``passes.through_head`` around the model's own head.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from typing_extensions import override

_HALF = (torch.bfloat16, torch.float16)
_BLOCK_BYTES = {"cpu": 2**21}
"""A block of the unembedding on a CPU: it stays in cache, so that a product of few rows costs no more than one of many."""
_LARGE_BLOCK_BYTES = 2**26


class WideLogits(TorchFunctionMode):
    """Inside the block the product with ``weight`` is taken in float32; what follows it (caps, scales) runs in float32 too.

    Rounded to bfloat16, the logits of one position have few distinct values: ranks tie and probabilities are off. Weights in
    float32 or float64 keep their type.
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
    dtype = torch.float32 if weight.dtype in _HALF else weight.dtype
    room = _BLOCK_BYTES.get(weight.device.type, _LARGE_BLOCK_BYTES)
    rows = max(64, room // (weight.shape[1] * dtype.itemsize))
    out = torch.empty(*x.shape[:-1], len(weight), dtype=dtype, device=x.device)
    wide = x.to(dtype)
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        out[..., part] = linear(wide, weight[part].to(dtype), None if bias is None else bias[part].to(dtype))
    return out
