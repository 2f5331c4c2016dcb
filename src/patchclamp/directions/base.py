"""What every estimator of directions does alike: read rows and labels, make a direction of a subspace, erase it."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar, dataclass_transform

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from patchclamp.core.arguments import check_held, checked_methods
from patchclamp.core.errors import InputError, warn
from patchclamp.core.kinds import Array, Groups, Labels, Numbers
from patchclamp.directions.concept import Concept, Kind
from patchclamp.directions.direction import SINK, Direction
from patchclamp.directions.moments import EQUAL, Moments
from patchclamp.directions.report import fit_report
from patchclamp.directions.rows import Rows, check_tensor, read_weights
from patchclamp.interventions import Edit

Method = TypeVar("Method", bound="type[DirectionEstimator]")
SAME = 1e-13
"""A distance of class means that is rounding, as a share of a typical vector's length."""


@dataclass(eq=False)
class ConceptSubspace:
    """The result of a method: the directions along which the concept moves rows, and how to measure how far."""

    directions: Tensor
    """The directions, ``[rank, d]`` orthonormal rows in float64."""
    moments: Moments
    read_vectors: Tensor | None = None
    """The vectors ``[rank, d]`` along which coordinates are read, if not along the directions; biorthogonal to them."""
    gap: Tensor | None = None
    """The vector that ``add(1)`` adds; by default the way between two class means along the directions."""
    report: dict[str, Any] = field(default_factory=dict)
    mean: Tensor | None = None
    """The point from which edits measure, if not the mean of the rows."""


class DirectionEstimator(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the estimators: ``fit(X, y)`` finds directions, ``transform(X)`` erases them about the mean.

    A method is a subclass with one function, :meth:`_find`: rows in, a :class:`ConceptSubspace` out. What lies before it
    (:meth:`_read` checks the rows) and after it (:meth:`_keep` makes the direction and its report) is the same for all.

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
            sample_weight: The weights of the rows, ``[row]``, 0 or more.
            groups: The group of each row, ``[row]``: rows that belong together (a pair, a prompt), for methods that use it.

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
        with _library_errors():
            table = validate_data(self, X, reset=False, dtype="numeric")
        return self.direction_.transform(_tensor(table)).numpy()

    @abstractmethod
    def _find(self, rows: Rows) -> ConceptSubspace:
        """The method itself."""

    @property
    def directions_(self) -> Any:
        """The directions, ``[rank, d]`` orthonormal rows, as numpy or torch like the rows they were fitted on."""
        return self._like_input(self.direction_.directions)

    @property
    def reference_(self) -> Any:
        """The mean ``[d]``, about which the directions are erased."""
        return self._like_input(self.direction_.mean)

    @property
    def report_(self) -> dict[str, Any]:
        """The report of the fit."""
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
        """The tags of scikit-learn: labels are needed, with one output type a row."""
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
            with _library_errors():
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
        weights = read_weights(sample_weight, len(x), x.device)
        if weights is not None and concept.classes is not None:
            has_weight = (z * weights.unsqueeze(1)).sum(0) > 0
            if int(has_weight.sum()) < 2 and classes is None:
                raise InputError("after weighting, one class only is left (the others' sample_weight is 0)")
        if groups is not None and len(groups) != len(x):
            raise InputError(f"{len(x)} rows and {len(groups)} groups were given; there is one group a row")
        return Rows(x, z, concept, weights, None if groups is None else np.asarray(groups))

    def _keep(self, rows: Rows, subspace: ConceptSubspace) -> None:
        """Make the direction, with its report."""
        moments = subspace.moments
        read_vectors = subspace.directions if subspace.read_vectors is None else subspace.read_vectors
        typical_length = float(rows.lengths.median())
        if float(moments.effects().norm()) <= SAME * typical_length:
            raise InputError(EQUAL)
        classes = rows.concept.names
        means = moments.class_means() @ read_vectors.T if classes else read_vectors.new_zeros(0, len(read_vectors))
        gap = subspace.gap
        if gap is None and len(classes) == 2:
            gap = (means[1] - means[0]) @ subspace.directions
        if gap is None and not classes and len(moments.mean_z) == 1:
            gap = (moments.effects() @ read_vectors.T @ subspace.directions)[0]
        limit = SINK * typical_length
        direction = Direction(
            subspace.directions.cpu().contiguous(),
            read_vectors=None if subspace.read_vectors is None else subspace.read_vectors.cpu().contiguous(),
            mean=(moments.mean if subspace.mean is None else subspace.mean).cpu(),
            median=None if rows.partial else rows.median(read_vectors).cpu(),
            class_means=means.cpu(),
            gap=None if gap is None else gap.cpu(),
            limit=limit if limit > 0 else float("inf"),
            classes=classes,
            method=type(self).__name__,
            parameters=self.get_params(deep=False),
        )
        report = fit_report(rows, moments, direction)
        texts = [*([] if self.few else report["warnings"]), *subspace.report.get("warnings", ())]
        self.direction_ = replace(direction, report={**report, **subspace.report, "warnings": texts})
        if classes:
            self.classes_ = rows.concept.classes
        for text in self.direction_.report["warnings"]:
            warn(text)


@contextmanager
def _library_errors() -> Iterator[None]:
    """Raise what scikit-learn says of wrong data as an error of this library."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from None


def _tensor(table: Any) -> Tensor:
    """Make a tensor of the same floating type; float64 for whole numbers."""
    return torch.from_numpy(np.require(table, table.dtype if table.dtype.kind == "f" else np.float64, ["W"]))


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(field,))
def estimator(method: Method) -> Method:
    """Make the constructor that scikit-learn asks for: it keeps the options that the class names, and does nothing else."""
    dataclass(kw_only=True, eq=False, repr=False)(method)
    for option in fields(method):
        if option.name in vars(method):
            delattr(method, option.name)  # a default is the constructor's; the class has no such attribute
    return method


checked_methods(DirectionEstimator)
