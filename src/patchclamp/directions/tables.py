"""Means with their intervals, laid out on the axes of an experiment."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from patchclamp.core.intervals import mean_row

SUFFIXES = {"": "mean", "_low": "low", "_high": "high"}
"""The suffixes of the name of a metric, for its mean and the bounds of its 95 % interval."""


def mean_tables(
    samples: Any, weights: Any, cells: Sequence[tuple[int, ...]], shape: tuple[int, ...]
) -> tuple[float, dict[str, Any]]:
    """The mean of the unedited model, and the means and bounds of every edit at its place.

    Args:
        samples: The samples, ``[1 + edit, sample]``, the unedited model first.
        weights: The weights of the samples, ``[sample]``, or None.
        cells: The place of each edit in the tables.
        shape: The shape of the tables; a place without an edit is NaN.

    Returns:
        The mean of the unedited model, and a table for each of the :data:`SUFFIXES`.
    """
    tables = {suffix: np.full(shape, np.nan) for suffix in SUFFIXES}
    for cell, values in zip(cells, samples[1:], strict=True):
        row = mean_row(values, 0, weights)
        for suffix, name in SUFFIXES.items():
            tables[suffix][cell] = row[name]
    return mean_row(samples[0], 0, weights)["mean"], tables
