"""Baselines that are no sparse codes: principal and independent components, non-negative factors, and clusters."""

from abc import abstractmethod
from typing import Any

import numpy as np
import sklearn.cluster
import sklearn.decomposition
import torch
from torch import Tensor

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Repeats, Seed
from patchclamp.core.plain import to_plain
from patchclamp.dictionaries.dictionary import Dictionary
from patchclamp.dictionaries.encoder import Encoder
from patchclamp.dictionaries.fista import FISTA
from patchclamp.dictionaries.fit import DictionaryFit
from patchclamp.dictionaries.scaling import RowScaling
from patchclamp.dictionaries.threshold import LinearCoordinates, NearestAtom


class HeldRowsFit(DictionaryFit):
    """Base of the fits that hold their rows in memory: the first ``rows`` of a stream, or all if there are fewer."""

    width: int
    rows: int
    random_state: int

    def _learn(self, stream: ActivationStream) -> Dictionary:
        if min(self.width, self.rows) < 1:
            raise InputError(f"width and rows are 1 or more; got width={self.width}, rows={self.rows}")
        for name in ("max_iter", "batch_size"):
            if getattr(self, name, 1) < 1:
                raise InputError(f"{name} is 1 or more; got {getattr(self, name)}")
        if not 0 <= getattr(self, "tol", 0) < float("inf"):
            raise InputError(f"tol is a finite number of 0 or more; got {getattr(self, 'tol')}")  # noqa: B009
        parts, held = [], 0
        for batch in stream:
            parts.append(batch.rows[: self.rows - held])
            held += len(parts[-1])
            if held == self.rows:
                break
        x = torch.cat(parts)
        if len(x) < max(self.width, 2):
            raise InputError(
                f"{type(self).__name__}(width={self.width}) needs at least as many rows; there are {len(x)}"
            )
        dictionary = self._decompose(x.to(torch.promote_types(x.dtype, torch.float32)))
        parameters = to_plain(self.get_params(deep=False), {})
        dictionary.card |= {"fit": type(self).__name__, "parameters": parameters, "rows": len(x)}
        return dictionary

    def _check_rank(self, x: Tensor) -> None:
        if self.width > x.shape[1]:
            raise InputError(
                f"{type(self).__name__}(width={self.width}): rows of width {x.shape[1]} have no more components than that"
            )

    @abstractmethod
    def _decompose(self, x: Tensor) -> Dictionary:
        """The method itself, on rows ``[row, d]``."""


class PCA(HeldRowsFit):
    """Principal components, with coordinates about the mean as codes; through ``sklearn.decomposition.PCA``.

    Args:
        width: The number of components, at most d.
        rows: The largest number of rows that are read.
        random_state: What the order of an array's rows is drawn from.
    """

    def __init__(self, *, width: int = 64, rows: int = 65_536, random_state: Seed = 0) -> None:
        self.width = width
        self.rows = rows
        self.random_state = random_state

    def _decompose(self, x: Tensor) -> Dictionary:
        self._check_rank(x)
        model = sklearn.decomposition.PCA(self.width, svd_solver="full").fit(_array(x))
        return _dictionary(model.components_, LinearCoordinates(), x, model.mean_)


class ICA(HeldRowsFit):
    """Independent components, with coordinates about the mean as codes; through ``sklearn.decomposition.FastICA``.

    Atoms are the columns of the mixing matrix, so that the codes have variance 1.

    Args:
        width: The number of components, at most d.
        rows: The largest number of rows that are read.
        max_iter: The largest number of iterations.
        tol: The change of the unmixing at which it has converged.
        random_state: What the order of an array's rows and the first components are drawn from.
    """

    def __init__(
        self, *, width: int = 64, rows: int = 65_536, max_iter: Repeats = 200, tol: float = 1e-4, random_state: Seed = 0
    ) -> None:
        self.width = width
        self.rows = rows
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def _decompose(self, x: Tensor) -> Dictionary:
        self._check_rank(x)
        model = sklearn.decomposition.FastICA(
            self.width,
            whiten="unit-variance",
            max_iter=self.max_iter,
            tol=float(self.tol),
            random_state=self.random_state,
        ).fit(_array(x))
        return _dictionary(model.mixing_.T, LinearCoordinates(), x, model.mean_)


class NMF(HeldRowsFit):
    """Factors of 0 or more of rows of 0 or more; through ``sklearn.decomposition.NMF``. Codes are non-negative least squares.

    Args:
        width: The number of factors.
        rows: The largest number of rows that are read.
        max_iter: The largest number of iterations.
        tol: The change of the objective at which it has converged.
        random_state: What the order of an array's rows and the first factors are drawn from.
    """

    def __init__(
        self, *, width: int = 64, rows: int = 65_536, max_iter: Repeats = 200, tol: float = 1e-4, random_state: Seed = 0
    ) -> None:
        self.width = width
        self.rows = rows
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def _decompose(self, x: Tensor) -> Dictionary:
        if bool((x < 0).any()):
            share = float((x < 0).double().mean())
            raise InputError(
                f"NMF needs rows of 0 or more; {share:.2%} of these numbers are negative (least {float(x.min()):.4g})"
            )
        model = sklearn.decomposition.NMF(
            self.width, init="nndsvda" if self.width <= min(x.shape) else "random", max_iter=self.max_iter,
            tol=float(self.tol), random_state=self.random_state,
        ).fit(_array(x))  # fmt: skip
        return _dictionary(model.components_, FISTA(0.0, iterations=2000), x)


class KMeans(HeldRowsFit):
    """Centres of clusters, each row coded by the nearest; through ``sklearn.cluster.MiniBatchKMeans``.

    Args:
        width: The number of clusters.
        rows: The largest number of rows that are read.
        batch_size: The number of rows of a batch of the method.
        max_iter: The largest number of passes.
        random_state: What the order of an array's rows and the first centres are drawn from.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        rows: int = 65_536,
        batch_size: int = 4096,
        max_iter: Repeats = 100,
        random_state: Seed = 0,
    ) -> None:
        self.width = width
        self.rows = rows
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.random_state = random_state

    def _decompose(self, x: Tensor) -> Dictionary:
        model = sklearn.cluster.MiniBatchKMeans(
            self.width, batch_size=self.batch_size, max_iter=self.max_iter, n_init=3, random_state=self.random_state
        ).fit(_array(x))
        return _dictionary(model.cluster_centers_, NearestAtom(), x)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def _dictionary(atoms: Any, encoder: Encoder, x: Tensor, mean: Any = None) -> Dictionary:
    table = torch.from_numpy(np.ascontiguousarray(atoms)).to(x)
    scaling = None if mean is None else RowScaling(torch.from_numpy(np.asarray(mean)).to(x))
    return Dictionary(table, encoder, scaling=scaling)
