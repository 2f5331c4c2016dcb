"""What every direction's estimator does alike: read rows and labels, keep what was found, erase it."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from patchclamp.core.arguments import check_held, checked_methods
from patchclamp.core.errors import InputError, PatchclampWarning, warn
from patchclamp.core.kinds import Array, Groups, Labels, Numbers
from patchclamp.directions.concept import Concept, Kind
from patchclamp.directions.direction import SINK, Direction
from patchclamp.directions.moments import Moments, blocks
from patchclamp.interventions import Edit

FEW = "{} rows of width {}: what is gone on these rows is not gone on others; measure on held-out rows"
EQUAL = "the class means are equal: no direction tells the classes apart on average"
SAME = 1e-13
"""A distance of class means that is rounding, as a share of a typical vector's length."""
RARE = 10
"""Rows of a class below which its mean is hardly known."""


@dataclass(eq=False)
class Rows:
    """Activations and their concept, checked."""

    x: Tensor
    """``[row, d]`` in the type they came in."""
    z: Tensor
    """``[row, column]`` float64: one-hot classes, or numbers."""
    concept: Concept
    weights: Tensor | None = None
    """``[row]`` float64."""
    groups: Any = None
    """``[row]`` of any labels."""
    known: Moments | None = None
    """Their means and covariances, if they come from elsewhere."""

    def moments(self, second: bool = False) -> Moments:
        """Their means and covariances."""
        if self.known is not None and (self.known.second is not None or not second):
            return self.known
        found = Moments.empty(self.x.shape[1], self.z.shape[1], second, self.x.device)
        return found.update(self.x, self.z, self.weights)

    @cached_property
    def labels(self) -> Any:
        """``[row]`` index of the class."""
        return self.z.argmax(1)

    @cached_property
    def lengths(self) -> Tensor:
        """``[row]`` norms."""
        return torch.cat([block.norm(dim=1) for block in blocks(self.x)])


@dataclass(eq=False)
class Found:
    """What a method finds."""

    directions: Tensor
    """``[rank, d]`` orthonormal rows, float64."""
    moments: Moments
    readers: Tensor | None = None
    gap: Tensor | None = None
    """What ``add(1)`` adds; by default the way between two class means along the directions."""
    report: dict[str, Any] = field(default_factory=dict)
    mean: Tensor | None = None
    """From where edits measure, if not from the mean of the rows."""


class DirectionEstimator(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the estimators: ``fit(X, y)`` finds directions, ``transform(X)`` erases them about the mean.

    ``X`` is numpy or torch ``[row, d]`` of any floating type, on any device; what comes out is of the same kind, type and
    device, and everything between is float64. After ``fit``, ``direction_`` is the :class:`Direction`, whose edits
    (``erase swap scale add clamp``) can be called on the estimator, too.
    """

    second = False
    """Whether it needs the covariance of the rows."""
    few = False
    """Whether the method is meant for a handful of rows, so that their number is no reason to warn."""
    concept: Kind = "auto"
    n_features_in_: int
    direction_: Direction
    _concept: Concept

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        checked_methods(cls)

    def fit(self, X: Array, y: Labels | None, sample_weight: Numbers = None, groups: Groups = None) -> Self:
        """Find the directions of a concept.

        Args:
            X: Activations ``[row, d]``.
            y: The concept, ``[row]``: whole numbers, strings and truth values are classes, other numbers (or
                ``[row, number]``) a continuous concept.
            sample_weight: ``[row]``, 0 or more.
            groups: ``[row]``: rows that belong together (a pair, a prompt), for methods that use it.

        Raises:
            InputError: NaN or infinite values, one class only, too few rows, or lengths that differ.
        """
        rows = self._read(X, y, sample_weight, groups)
        self._keep(rows, self._find(rows))
        return self

    def transform(self, X: Array) -> Any:
        """``X`` with the directions erased about the mean."""
        check_is_fitted(self, "direction_")
        if isinstance(X, Tensor):
            check_tensor(X, self.n_features_in_)
            return self.direction_.transform(X)
        with _refusing():
            table = validate_data(self, X, reset=False, dtype="numeric")
        return self.direction_.transform(_tensor(table)).numpy()

    @abstractmethod
    def _find(self, rows: Rows) -> Found:
        """The method itself."""

    @property
    def directions_(self) -> Any:
        """``[rank, d]`` orthonormal rows, as numpy or torch like the rows they were fitted on."""
        return self._like_input(self.direction_.directions)

    @property
    def reference_(self) -> Any:
        """``[d]`` the mean, about which the directions are erased."""
        return self._like_input(self.direction_.mean)

    @property
    def report_(self) -> dict[str, Any]:
        """How the fit went."""
        return dict(self.direction_.report)

    def erase(self, *args: Any, **options: Any) -> Edit:
        """See :meth:`Direction.erase`."""
        return self._fitted().erase(*args, **options)

    def swap(self, *args: Any, **options: Any) -> Edit:
        """See :meth:`Direction.swap`."""
        return self._fitted().swap(*args, **options)

    def scale(self, *args: Any, **options: Any) -> Edit:
        """See :meth:`Direction.scale`."""
        return self._fitted().scale(*args, **options)

    def add(self, *args: Any, **options: Any) -> Edit:
        """See :meth:`Direction.add`."""
        return self._fitted().add(*args, **options)

    def clamp(self, *args: Any, **options: Any) -> Edit:
        """See :meth:`Direction.clamp`."""
        return self._fitted().clamp(*args, **options)

    def __sklearn_tags__(self) -> Any:
        """Labels are needed; one output type a row."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _fitted(self) -> Direction:
        check_is_fitted(self, "direction_")
        return self.direction_

    def _like_input(self, value: Tensor) -> Any:
        return value if self._torch_in else value.numpy()

    def _read(
        self, X: Array, y: Labels | None, sample_weight: Numbers, groups: Any, classes: Any = None, first: bool = True
    ) -> Rows:
        """Check what the user passed, and make tensors of it."""
        check_held(self)
        self._torch_in = isinstance(X, Tensor)
        if self._torch_in and y is None:  # scikit-learn's words, which it uses itself for arrays
            raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        if isinstance(X, Tensor):
            check_tensor(X, None if first else self.n_features_in_)
            self.n_features_in_ = X.shape[1]
            labels: Any = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
            x = X.detach()
        else:
            labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else y
            with _refusing():
                table, labels = validate_data(
                    self,
                    X,
                    labels,
                    reset=first,
                    multi_output=True,
                    dtype="numeric",
                    ensure_min_samples=2 if first else 1,
                )
            x = _tensor(table)
        if len(labels) != len(x):
            raise InputError(f"{len(x)} rows and {len(labels)} labels were given; there is one label a row")
        concept = Concept.of(labels, self.concept, classes) if first else self._concept
        self._concept = concept
        z = concept.encode(labels).to(x.device)
        weights = _weights(sample_weight, len(x), x.device)
        if weights is not None and concept.classes is not None:
            left = (z * weights.unsqueeze(1)).sum(0) > 0
            if int(left.sum()) < 2 and classes is None:
                raise InputError("after weighting, one class only is left (the others' sample_weight is 0)")
        if groups is not None and len(groups) != len(x):
            raise InputError(f"{len(x)} rows and {len(groups)} groups were given; there is one group a row")
        return Rows(x, z, concept, weights, None if groups is None else np.asarray(groups))

    def _keep(self, rows: Rows, found: Found, stream: bool = False) -> None:
        """Make the direction, with its report."""
        moments = found.moments
        reads = found.directions if found.readers is None else found.readers
        typical = float(rows.lengths.median())
        if float(moments.effects().norm()) <= SAME * typical:
            raise InputError(EQUAL)
        classes = rows.concept.names
        means = moments.class_means() @ reads.T if classes else reads.new_zeros(0, len(reads))
        gap = found.gap
        if gap is None and len(classes) == 2:
            gap = (means[1] - means[0]) @ found.directions
        if gap is None and not classes and len(moments.mean_z) == 1:
            gap = (moments.effects() @ reads.T @ found.directions)[0]
        median = None if stream else _median(rows, reads)
        limit = SINK * typical
        self.direction_ = Direction(
            found.directions.cpu().contiguous(), None if found.readers is None else found.readers.cpu().contiguous(),
            (moments.mean if found.mean is None else found.mean).cpu(), None if median is None else median.cpu(), means.cpu(),
            None if gap is None else gap.cpu(), limit if limit > 0 else float("inf"), classes, type(self).__name__,
            self.get_params(deep=False),
        )  # fmt: skip
        report = _report(rows, moments, self.direction_)
        said = [*([] if self.few else report["warnings"]), *found.report.get("warnings", ())]
        self.direction_ = replace(self.direction_, report={**report, **found.report, "warnings": said})
        if classes:
            self.classes_ = rows.concept.classes
        for text in self.direction_.report["warnings"]:
            warn(text)


@contextmanager
def _refusing() -> Iterator[None]:
    """What scikit-learn says of wrong data, as our own error."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from None


def _tensor(table: Any) -> Tensor:
    """Of the same floating type; float64 for whole numbers."""
    return torch.from_numpy(np.require(table, table.dtype if table.dtype.kind == "f" else np.float64, ["W"]))


checked_methods(DirectionEstimator)


def check_tensor(x: Tensor, width: int | None) -> None:
    """Refuse what is no ``[row, d]`` of finite floating numbers.

    Args:
        x: Activations.
        width: What they were fitted with.

    Raises:
        InputError: With what is wrong.
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise InputError(f"activations are [row, d] of a floating type; got {tuple(x.shape)} {x.dtype}")
    if width is not None and x.shape[1] != width:
        raise InputError(f"X has {x.shape[1]} features, but the direction was fitted with {width}")
    if len(x) < 1 or x.shape[1] < 1:
        raise InputError(f"there is nothing in activations of shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
        raise InputError(f"activations hold {int((~torch.isfinite(x)).sum())} NaN or infinite values of {x.numel()}")


def _weights(given: Any, count: int, device: torch.device) -> Tensor | None:
    if given is None:
        return None
    plain = given.detach().cpu() if isinstance(given, Tensor) else np.array(given, dtype=np.float64)
    weights = torch.as_tensor(plain, dtype=torch.float64, device=device)
    if weights.ndim == 0:
        weights = weights.expand(count)
    if weights.shape != (count,):
        raise InputError(
            f"{count} rows and sample weights of shape {tuple(weights.shape)} were given; one weight a row"
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()) or not bool(weights.sum() > 0):
        wrong = weights[~(torch.isfinite(weights) & (weights >= 0))]
        said = f"sample_weight holds {float(wrong[0]):g}" if len(wrong) else "every sample_weight is 0"
        raise InputError(f"{said}; every sample weight must be finite and 0 or more, and some above zero")
    return weights


def _median(rows: Rows, reads: Tensor) -> Tensor:
    """Of the coordinates, weights included."""
    values = torch.cat([block @ reads.T for block in blocks(rows.x)])
    ordered, order = values.sort(dim=0)
    weights = torch.ones_like(ordered) if rows.weights is None else rows.weights[order]
    half = weights.sum(0) / 2
    reached = weights.cumsum(0)
    low = (reached < half).sum(0).clamp(max=len(values) - 1)
    high = (reached <= half).sum(0).clamp(max=len(values) - 1)
    return (ordered.gather(0, low.unsqueeze(0)) + ordered.gather(0, high.unsqueeze(0)))[0] / 2


def _report(rows: Rows, moments: Moments, direction: Direction) -> dict[str, Any]:
    """What can be said of the fit without other rows."""
    effects = moments.effects()
    counts = (
        {}
        if rows.concept.classes is None
        else dict(zip(map(str, rows.concept.names), (moments.weight * moments.mean_z).tolist(), strict=True))
    )
    sinks = int((rows.lengths > direction.limit).sum())
    said = []
    if moments.rows <= rows.x.shape[1]:
        said.append(FEW.format(moments.rows, rows.x.shape[1]))
    rare = [name for name, count in counts.items() if count < RARE]
    if rare:
        said.append(f"class {rare[0]!r} has {counts[rare[0]]:g} rows only, so its mean is hardly known")
    return {
        "rows": moments.rows,
        "d": rows.x.shape[1],
        "rank": direction.rank,
        "classes": counts,
        "gap_before": float(effects.norm()),
        "gap_left": _left(effects, direction),
        "sinks": sinks,
        "warnings": said,
    }


def gap_left(direction: Direction, x: Tensor, z: Tensor) -> float:
    """How much of what moves with the concept is left after erasing, as a share: 0 is none, 1 all.

    Args:
        direction: What is erased.
        x: Other rows ``[row, d]``.
        z: Their concept ``[row, column]``, as :meth:`Concept.encode` gives it.
    """
    moments = Moments.empty(x.shape[1], z.shape[1], False, x.device).update(x, z)
    return _left(moments.effects(), direction)


def _left(effects: Tensor, direction: Direction) -> float:
    reads = direction.directions if direction.readers is None else direction.readers
    left = effects - effects @ reads.to(effects.device).T @ direction.directions.to(effects.device)
    before = float(effects.norm())
    return float(left.norm()) / before if before > 0 else 0.0


@contextmanager
def quietly() -> Iterator[None]:
    """Fits inside the block keep their warnings to their reports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchclampWarning)
        yield


def warn_once(directions: Sequence[Direction]) -> None:
    """Say each warning of several fits once."""
    for text in dict.fromkeys(text for direction in directions for text in direction.report["warnings"]):
        warn(text)
