"""What can be said of a fitted direction: how much of the concept is left, and what to be warned of."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from patchclamp.core.errors import PatchclampWarning, warn
from patchclamp.directions.direction import Direction
from patchclamp.directions.moments import Moments
from patchclamp.directions.rows import Rows

FEW = "{} rows of width {}: what is gone on these rows is not gone on others; measure on held-out rows"
RARE = 10
"""The number of rows of a class below which its mean is hardly known."""


def fit_report(rows: Rows, moments: Moments, direction: Direction) -> dict[str, Any]:
    """Report what can be said of the fit without other rows."""
    effects = moments.effects()
    counts = (
        {}
        if rows.concept.classes is None
        else dict(zip(map(str, rows.concept.names), (moments.weight * moments.mean_z).tolist(), strict=True))
    )
    sinks = int((rows.lengths > direction.limit).sum())
    texts = []
    if moments.rows <= rows.x.shape[1]:
        texts.append(FEW.format(moments.rows, rows.x.shape[1]))
    rare = [name for name, count in counts.items() if count < RARE]
    if rare:
        texts.append(f"class {rare[0]!r} has {counts[rare[0]]:g} rows only, so its mean is hardly known")
    return {
        "rows": moments.rows,
        "d": rows.x.shape[1],
        "rank": direction.rank,
        "classes": counts,
        "gap_before": float(effects.norm()),
        "gap_left": _share_left(effects, direction),
        "sinks": sinks,
        "warnings": texts,
    }


def gap_left(direction: Direction, x: Tensor, z: Tensor) -> float:
    """Measure how much of what moves with the concept is left after erasing, as a share: 0 is none, 1 all.

    Args:
        direction: The direction that is erased.
        x: Other rows ``[row, d]``.
        z: Their concept ``[row, column]``, as :meth:`Concept.encode` gives it.
    """
    moments = Moments.empty(x.shape[1], z.shape[1], False, x.device).update(x, z)
    return _share_left(moments.effects(), direction)


def _share_left(effects: Tensor, direction: Direction) -> float:
    read_vectors = direction.directions if direction.read_vectors is None else direction.read_vectors
    remainder = effects - effects @ read_vectors.to(effects.device).T @ direction.directions.to(effects.device)
    before_norm = float(effects.norm())
    return float(remainder.norm()) / before_norm if before_norm > 0 else 0.0


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the warnings of fits inside the block to their reports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchclampWarning)
        yield


def warn_once(directions: Sequence[Direction]) -> None:
    """Say each warning of several fits once."""
    for text in dict.fromkeys(text for direction in directions for text in direction.report["warnings"]):
        warn(text)
