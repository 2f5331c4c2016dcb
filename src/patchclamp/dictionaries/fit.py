"""What every fit of a dictionary does alike: read rows from an array or a stream, and behave as scikit-learn expects."""

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.arguments import checked, checked_methods, settle_held
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Array
from patchclamp.dictionaries.dictionary import Dictionary


class DictionaryFit(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the fits: ``fit(X)`` learns ``dictionary_``, ``transform(X)`` gives the codes of rows.

    A method is a subclass with :meth:`_learn`: a stream in, a :class:`Dictionary` out. ``X`` is numpy or torch ``[row, d]``,
    or an :class:`ActivationStream`; what comes out of ``transform`` is of the kind that went in.
    """

    n_features_in_: int
    dictionary_: Dictionary

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        checked_methods(cls)

    @checked
    def fit(self, X: Array | ActivationStream, y: Any = None) -> Self:  # noqa: ARG002
        """Learn a dictionary.

        Args:
            X: Activations ``[row, d]``, or a stream of them.
            y: Not used; scikit-learn passes it.

        Raises:
            InputError: Too few rows, or numbers that are not finite.
        """
        settle_held(self)
        stream = self._stream(X)
        self.dictionary_ = self._learn(stream)
        self.n_features_in_ = self.dictionary_.d
        return self

    @checked
    def transform(self, X: Array) -> Any:
        """The codes ``[row, width]`` of rows ``[row, d]``."""
        return self._apply(self._fitted().encode, X)

    @checked
    def inverse_transform(self, X: Array) -> Any:
        """The rows ``[row, d]`` that codes ``[row, width]`` stand for."""
        return self._apply(self._fitted().decode, X)

    encode, decode = transform, inverse_transform

    @abstractmethod
    def _learn(self, stream: ActivationStream) -> Dictionary:
        """The method itself."""

    def _stream(self, X: Array | ActivationStream) -> ActivationStream:
        """Rows as a stream; an array is passed once, in an order drawn from ``random_state``."""
        if isinstance(X, ActivationStream):
            return X
        return ActivationStream.from_array(
            X,
            batch_size=getattr(self, "batch_size", 4096),
            seed=getattr(self, "random_state", 0),
            passes=getattr(self, "passes", 1),
        )

    def _fitted(self) -> Dictionary:
        check_is_fitted(self, "dictionary_")
        return self.dictionary_

    @staticmethod
    def _apply(function: Any, X: Any) -> Any:
        with torch.no_grad():
            if isinstance(X, Tensor):
                return function(X)
            array = np.asarray(X)
            if array.dtype.kind != "f":
                raise InputError(f"rows are floating point numbers; got {array.dtype}")
            return function(torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))).numpy()
