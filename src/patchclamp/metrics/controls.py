"""What stands beside a probe: a task with nothing to find, and a projection that knows nothing."""

from typing import Any

import numpy as np
import torch

from patchclamp.core.errors import InputError


def rank_of(change: Any, rounding: Any = 0.0) -> int:
    """Count the directions that an affine map changes: the rank of its changes about their mean, at least 1.

    Args:
        change: The changes, ``[row, d]``.
        rounding: The rounding error of each feature, ``[d]``; what is no larger counts for nothing.
    """
    centred = change - change.mean(0)
    values = np.linalg.eigvalsh(centred.T @ centred)
    noise = len(change) * float(np.square(rounding).sum())
    return max(1, int((values > max(1e-10 * values.max(), noise)).sum()))


def rounding_of(output: Any, rows: Any) -> Any:
    """The rounding error of each feature of ``rows``, ``[row, d]``, in the type in which an erasure gave them back."""
    if isinstance(output, torch.Tensor):
        eps = torch.finfo(output.dtype if output.is_floating_point() else torch.float64).eps
    else:
        kind = np.asarray(output).dtype
        eps = float(np.finfo(kind if kind.kind == "f" else np.float64).eps)
    return eps * np.abs(rows).max(0)


def random_projection(rows: Any, about: Any, rank: int, generator: np.random.Generator) -> Any:
    """Remove from ``rows`` what lies along ``rank`` random directions, about a point.

    Raises:
        InputError: There are not so many directions.
    """
    if not 1 <= rank <= rows.shape[1]:
        raise InputError(f"rank={rank} is outside 1..{rows.shape[1]}")
    basis = np.linalg.qr(generator.standard_normal((rows.shape[1], rank)))[0]
    return rows - (rows - about) @ basis @ basis.T


def control_labels(labels: Any, types: Any, train: Any, test: Any, generator: np.random.Generator) -> Any:
    """Labels that say nothing of the rows: shuffled on each side of the split, or one a type, from the labels' frequencies.

    Raises:
        InputError: There are too few types for each label to be drawn.
    """
    if types is None:
        controls = labels.copy()
        for side in (train, test):
            controls[side] = generator.permutation(labels[side])
        return controls
    if len(types) != len(labels):
        raise InputError(f"types are one a row: got {len(types)} for {len(labels)} rows")
    _, type_index = np.unique(np.asarray(types), return_inverse=True)
    type_labels = generator.choice(labels, size=int(type_index.max()) + 1)
    controls = type_labels[type_index]
    counts = np.unique(controls[train], return_counts=True)[1]
    if len(counts) < 2 or counts.min() < 2:
        raise InputError(
            f"the control task needs more than {len(type_labels)} types: too few of them drew one of the labels"
        )
    return controls
