"""What a sweep costs: floating-point operations, bytes and seconds, before it runs.

Called by ``planning.py``, and by ``memory.py`` for the bytes.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from patchclamp.core.errors import InputError
from patchclamp.core.interrupts import guarded
from patchclamp.interventions.packing import layout_at
from patchclamp.interventions.shared_rows import Group
from patchclamp.models.opened import OpenModel

DEFAULT_BUDGET = "1GB"
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(value: float | str) -> int:
    """Read ``500_000_000``, ``"500MB"`` or ``"2GiB"``.

    Raises:
        InputError: It is none of these, or not positive.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0:
        found = int(value)
    else:
        match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", str(value), re.ASCII)
        if isinstance(value, float) or not match or match[2].lower() not in _UNITS:
            raise InputError(f"budget={value!r} is no amount of memory; write bytes, or as '500MB' or '2GiB'")
        found = int(float(match[1]) * _UNITS[match[2].lower()])
    if found <= 0:
        raise InputError(f"the memory budget must be positive, got {value!r}")
    return found


@dataclass(frozen=True)
class Costs:
    """Unit costs of one model."""

    layer: tuple[int, ...]
    """FLOPs of the matrix products of each layer, a token."""
    attention: int
    """FLOPs of attention, a token and a key, in one layer."""
    head: int
    """FLOPs of the unembedding, a token."""
    token_bytes: int
    """Bytes alive for a token while it passes a layer."""
    key_bytes: int
    """Bytes alive for a key and a value of one row in one layer, copies included."""
    logit_bytes: int
    """Bytes alive for one position while its logits are measured: as the model gives them, chosen, widened."""
    output_bytes: int
    """Bytes of one position's logits."""
    state_bytes: int
    """Bytes of one position of the residual stream."""
    cache_bytes: int
    """Bytes of a recorded key and value in one layer."""
    score_bytes: int
    """Bytes alive for a token and a key where attention forms its weights."""

    @classmethod
    def of(cls, model: OpenModel) -> "Costs":
        """Count them on the model's own modules."""
        layers = tuple(_matmul_flops(model.sites.modules[path], model.text_config) for path in model.sites.layers)
        heads = model.sites.heads
        size = torch.empty(0, dtype=model.dtype).element_size()
        width = getattr(model.text_config, "hidden_size", 0) or 0
        inner = max((model.sites.widths.get(("mlp_act", i), 4 * width) for i in range(len(layers))), default=4 * width)
        vocabulary = model.capabilities.width_of_logits or model.vocabulary or 0
        head_width = (heads.query * heads.size) if heads else width
        return cls(
            layers,
            4 * head_width,
            2 * width * vocabulary,
            size * (8 * width + 4 * inner + 4 * head_width),
            size * 4 * head_width,
            vocabulary * (3 * size + 4),
            vocabulary * size,
            size * width,
            size * 2 * (heads.key * heads.size if heads else width),
            (heads.query if heads else 1) * (2 * size + 4) if _forms_weights(model) else 0,
        )


def _forms_weights(model: OpenModel) -> bool:
    return getattr(model.config, "_attn_implementation", None) == "eager"


def _matmul_flops(layer: nn.Module, config: Any) -> int:
    """Twice the weights that a token meets; of routed experts, only the share that it is sent to."""
    active = getattr(config, "num_experts_per_tok", None)
    total = 0
    for name, weight in layer.named_parameters():
        if weight.ndim == 2:
            total += 2 * weight.numel()
        elif weight.ndim == 3 and "experts" in name and isinstance(active, int):
            total += 2 * weight.numel() * active // len(weight)
    return total


def full_pass(costs: Costs, length: int, logits: int) -> int:
    """FLOPs of one forward of ``length`` tokens with ``logits`` rows of the head."""
    return sum(costs.layer) * length + len(costs.layer) * costs.attention * length**2 + costs.head * logits


def wave_flops(costs: Costs, groups: Sequence[Group], depth: int, waste: float) -> int:
    """FLOPs of the first ``depth`` layers of groups that run together, packed where they will be."""
    length, total = groups[0].length, 0
    for layer in range(depth):
        layout = layout_at(layer, groups, waste)
        calls = [(len(layout.kinds) * length, 2 * length)]
        calls += [(g.steps[layer].rows * g.width, length) for g in groups if g.start not in layout.starts]
        total += sum(tokens * (costs.layer[layer] + costs.attention * keys) for tokens, keys in calls)
    return total


@lru_cache(maxsize=8)
def matmul_rate(device: str, dtype: torch.dtype, width: int) -> float:
    """FLOP/s of this machine on a matrix product of the model's width, measured once."""
    a = torch.ones(256, width, device=device, dtype=dtype)  # ones: drawing numbers would move the user's random state
    b = torch.ones(width, 4 * width, device=device, dtype=dtype)
    best = float("inf")
    with guarded(torch.no_grad()):
        for _ in range(4):
            began = time.perf_counter()
            product = a @ b
            if product.is_cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
    return 2 * 256 * width * 4 * width / best
