"""Intervals of shares and means, one definition for every method."""

from typing import Any

import numpy as np

RESAMPLES = 2000


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(values: Any, seed: int, weights: Any = None) -> tuple[float, float]:
    """The 95 % percentile interval of a mean, ``values`` drawn with replacement together with their ``weights``."""
    values = np.asarray(values)
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    if weights is None:
        means = values[draws].mean(1)
    else:
        resampled_weights = np.asarray(weights)[draws]
        means = (values[draws] * resampled_weights).sum(1) / resampled_weights.sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mean_row(values: Any, seed: int, weights: Any = None) -> dict[str, Any]:
    """A mean, its 95 % bootstrap interval, and of how many values.

    The interval of fewer than two values is NaN: they say nothing about others. So is that of values that are not finite.
    """
    values = np.asarray(values, dtype=float)
    heavy = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    mean = float((values * heavy).sum() / heavy.sum()) if len(values) else np.nan
    low, high = bootstrap(values, seed, heavy) if len(values) > 1 and np.isfinite(values).all() else (np.nan, np.nan)
    return {"mean": mean, "low": low, "high": high, "count": len(values)}
