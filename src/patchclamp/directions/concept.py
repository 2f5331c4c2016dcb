"""What a direction stands for: classes, or numbers, given one a row."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.errors import InputError, check_choice, unknown

Kind = Literal["auto", "classes", "continuous"]
KINDS = ("auto", "classes", "continuous")


@dataclass(frozen=True, eq=False)
class Concept:
    """The encoding of labels as columns of numbers."""

    classes: Any
    """The distinct labels in order, or None for a continuous concept."""
    columns: int
    """The number of classes, or of numbers in each row."""

    @classmethod
    def of(cls, y: Any, kind: Kind = "auto", classes: Any = None) -> "Concept":
        """Read labels: whole numbers, truth values and strings are classes, other numbers are continuous.

        Args:
            y: The labels, ``[row]``, or ``[row, number]`` for a continuous concept of several numbers.
            kind: The kind of the labels, where that rule is not meant.
            classes: All classes that later rows may have, for streams.

        Raises:
            InputError: NaN, a single class, or nearly as many classes as rows.
        """
        check_choice("kind of concept", kind, KINDS)
        labels = np.asarray(y)
        if labels.ndim > 2 or labels.size == 0:
            raise InputError(f"labels are [row] or [row, number]; got shape {labels.shape}")
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise InputError(f"labels y hold {int((~np.isfinite(labels)).sum())} NaN or infinite values")
        if not _are_classes(labels, kind):
            if labels.dtype.kind not in "iufb":
                raise InputError(f"a continuous concept is made of numbers; got {labels.dtype}")
            return cls(None, 1 if labels.ndim == 1 else labels.shape[1])
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim == 2:
            raise InputError(f"class labels are one a row, [row]; got shape {labels.shape}")
        distinct = _distinct(labels if classes is None else np.asarray(classes))
        _check_classes(distinct, labels, classes is not None)
        return cls(distinct, len(distinct))

    def encode(self, y: Any) -> Float[Tensor, "row column"]:
        """One column a class (1 in its rows, 0 elsewhere), or the numbers, in float64.

        Raises:
            InputError: A class that was not there before.
        """
        labels = np.asarray(y)
        if self.classes is None:
            table = np.asarray(labels, dtype=np.float64).reshape(len(labels), -1)
            if table.shape[1] != self.columns:
                raise InputError(f"the concept has {self.columns} numbers a row; got {table.shape[1]}")
            return torch.from_numpy(table.copy())
        labels = labels.reshape(-1)
        unknown_classes = np.setdiff1d(labels, self.classes)
        if len(unknown_classes):
            raise InputError(unknown("class", unknown_classes.tolist()[0], self.classes.tolist()))
        index = torch.from_numpy(np.searchsorted(self.classes, labels))
        return torch.nn.functional.one_hot(index, self.columns).to(torch.float64)

    @property
    def names(self) -> tuple[Any, ...]:
        """Classes as plain Python values; empty for a continuous concept."""
        return () if self.classes is None else tuple(self.classes.tolist())


def _are_classes(labels: Any, kind: Kind) -> bool:
    if kind != "auto":
        return kind == "classes"
    if labels.dtype.kind == "f":
        return labels.ndim == 1 and bool((labels == np.round(labels)).all())
    return bool(labels.ndim == 1 or labels.shape[1] == 1)


def _distinct(labels: Any) -> Any:
    """The classes in order."""
    if labels.dtype.kind == "c":
        raise InputError("labels are complex numbers; pass whole numbers, text or truth values")
    try:
        return np.unique(labels)
    except TypeError:
        kinds = ", ".join(sorted({type(label).__name__ for label in labels.tolist()}))
        raise InputError(f"labels are of the kinds {kinds}, which have no order; pass whole numbers or text") from None


def _check_classes(classes: Any, labels: Any, announced: bool) -> None:
    if len(classes) < 2:
        raise InputError(
            f"the labels have one class only ({classes.tolist()[0]!r}, in {len(labels)} rows); a direction needs at least two"
        )
    if not announced and len(classes) > max(2, len(labels) // 2):
        raise InputError(
            f"the labels have {len(classes)} distinct values in {len(labels)} rows; if they are measurements, say "
            "concept='continuous'"
        )
