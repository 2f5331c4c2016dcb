"""How far apart two numbers that mean the same may lie: every tolerance of the package, one row a kind of comparison."""

from typing import NamedTuple

import torch


class Tolerance(NamedTuple):
    """The largest difference that is accepted, relative to the largest value compared, by the type of the weights."""

    float64: float
    float32: float
    bfloat16: float | None = None
    """None where a comparison in half precision would say nothing."""
    float16: float | None = None

    def covers(self, dtype: torch.dtype) -> bool:
        """Whether numbers of a type can be compared at all."""
        return getattr(self, str(dtype).removeprefix("torch."), None) is not None

    def of(self, dtype: torch.dtype) -> float:
        """The tolerance of a type; of one that has no column, that of float32."""
        value: float | None = getattr(self, str(dtype).removeprefix("torch."), None)
        return self.float32 if value is None else value


EXACT = Tolerance(float64=1e-8, float32=1e-5, bfloat16=5e-2, float16=1e-2)
"""The same forward pass computed another way: a cell of a sweep and one hooked forward, a checkpoint and what it was made of."""

ARCHITECTURE = Tolerance(float64=1e-6, float32=1e-4, bfloat16=5e-2, float16=1e-2)
"""What the table of an architecture says of a model, and what the model does: sums of sites, padding, strategies."""

WEIGHTS = Tolerance(float64=1e-6, float32=1e-4, bfloat16=1e-1, float16=2e-2)
"""Edits folded into weights, and the hooked model: weights are rounded once, and hooks round each edited activation."""

SUM = Tolerance(float64=1e-9, float32=1e-4)
"""What the components add up to, and the logit; in half precision the sum is rounded by as much as they add."""
