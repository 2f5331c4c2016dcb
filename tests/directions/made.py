"""Rows with a known concept in them, and the hard cases that erasers fail on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def rows(n: int = 400, d: int = 12, classes: int = 2, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Any]:
    """Gaussian rows of a skewed covariance, each class about a mean of its own: float64 ``[n, d]`` and labels ``[n]``."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    mixing = torch.randn(d, d, generator=g, dtype=torch.float64) * torch.logspace(0, -2, d, dtype=torch.float64)
    means = torch.randn(classes, d, generator=g, dtype=torch.float64)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ mixing + means[labels] + 3.0
    return scale * x, labels.numpy()


def gap(x: Any, labels: Any) -> float:
    """Largest distance of a class mean from the mean of all, computed the obvious way."""
    table = np.asarray(x, dtype=np.float64)
    middle = table.mean(0)
    return max(float(np.linalg.norm(table[labels == c].mean(0) - middle)) for c in np.unique(labels))
