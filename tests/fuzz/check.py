"""Comparing what patchclamp gives with what the oracle gives."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

import patchclamp as pc
from tests.fuzz import draws, oracle

EXACT = 1e-9
"""Relative to the largest number: float64 leaves a few roundings of 1e-16 in each of three layers."""


def close(found: Any, wanted: Tensor) -> bool:
    """Whether two arrays of the same shape hold the same numbers."""
    a, b = torch.as_tensor(np.asarray(found), dtype=torch.float64), wanted.to(torch.float64)
    return (
        a.shape == b.shape and bool((a - b).abs().max() <= EXACT * max(1.0, float(b.abs().max())))
        if a.numel()
        else a.shape == b.shape
    )


def by_hand(
    module: Any, family: str, rows: draws.Ids, edits: list[draws.Drawn], sites: tuple[str, ...] = ()
) -> list[oracle.Seen]:
    """Each prompt alone under the edits."""
    return [oracle.run(module, family, ids, [one.change(ids, i) for one in edits], sites) for i, ids in enumerate(rows)]


def recorded(acts: pc.Activations, name: str, prompt: int, count: int) -> Tensor:
    """``[position, d]`` of one prompt at one site, heads side by side, without what pads it."""
    value, dims = acts[name], acts.dims[name]
    if dims[-2:] == ("head", "d_head"):
        value = value.flatten(-2)
    row = value[prompt]
    return row[:count] if "position" in dims else row.unsqueeze(0)
