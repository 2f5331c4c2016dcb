"""Training and held-out rows."""

from typing import Any

import numpy as np

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Groups, Labels, Seed

MIN_TRAINING_ROWS = 10
"""The number of training rows that a class must have."""
MIN_GROUPS = 3
"""The number of groups that a split needs: one to train on, one to stop the training, one to hold out."""


@checked
def split(z: Labels, groups: Groups = None, *, test_size: float = 0.3, seed: Seed = 0) -> tuple[Any, Any]:
    """Training and held-out rows, as :func:`patchclamp.metrics.probe` takes them: fit the erasure on the first only.

    Args:
        z: The class of each row.
        groups: Rows of one group are never on both sides; without groups, classes keep their shares.
        test_size: The share of the rows (or groups) that is held out.
        seed: The seed; another one gives another split.

    Returns:
        Two arrays of row numbers.

    Raises:
        InputError: Lengths differ, there is one class only, or a class has too few rows on one side.
    """
    from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit

    labels = np.asarray(z)
    try:
        classes, counts = np.unique(labels, return_counts=True)
    except TypeError:
        raise InputError("z holds labels of different kinds, which have no order; pass whole numbers or text") from None
    if labels.ndim != 1 or len(classes) < 2:
        raise InputError(
            f"a probe needs labels [row] of at least 2 classes; got shape {labels.shape}, classes {classes[:5]}"
        )
    if counts.min() < 2:
        raise InputError(
            f"class {classes[counts.argmin()]} has {counts.min()} row; a held-out split needs rows on both sides"
        )
    if groups is not None and len(groups) != len(labels):
        raise InputError(f"groups are one a row: got {len(groups)} for {len(labels)} rows")
    if groups is not None and len(np.unique(groups)) < MIN_GROUPS:
        raise InputError(f"{len(np.unique(groups))} groups cannot be split; at least {MIN_GROUPS} are needed")
    splitter = (StratifiedShuffleSplit if groups is None else GroupShuffleSplit)(
        1, test_size=test_size, random_state=seed
    )
    try:
        train, test = next(splitter.split(np.zeros(len(labels)), labels, groups))
    except ValueError as error:
        raise InputError(f"the rows cannot be split: {error}") from None
    for name, rows, least in (("training", train, MIN_TRAINING_ROWS), ("held-out", test, 1)):
        for label in classes:
            count = int((labels[rows] == label).sum())
            if count < least:
                raise InputError(f"class {label} has {count} {name} rows; at least {least} are needed")
    return np.sort(train), np.sort(test)
