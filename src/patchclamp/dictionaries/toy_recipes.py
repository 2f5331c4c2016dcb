"""Which features of toy data fire together: rules that draw, for each row, the features that are on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from patchclamp.core.errors import InputError
from patchclamp.core.plain import savable

Magnitude = Literal["uniform", "product", "half-normal", "one"]
"""How much a feature that is on is active: U[0, 1], the product of two of these, abs(N(0, 1)), or always 1."""
Entries = tuple[Int[Tensor, " active"], Int[Tensor, " active"]]
"""The row and the feature of each entry, ordered by row and then by feature."""
_CELLS = 2**22
"""The number of (row, feature) pairs that are drawn at once."""


class Firing(ABC):
    """A rule by which features fire. Subclasses are frozen dataclasses, marked ``@savable``."""

    @property
    @abstractmethod
    def marginals(self) -> Float[Tensor, " G"]:
        """The probability with which each feature is on in a row."""

    @abstractmethod
    def draw(self, count: int, generator: Generator) -> Entries:
        """Draw ``count`` rows, on the device of the generator."""


@savable
@dataclass(frozen=True, eq=False)
class IndependentFiring(Firing):
    """Every feature fires by itself."""

    probabilities: Float[Tensor, " G"]

    @property
    def marginals(self) -> Float[Tensor, " G"]:
        """The probabilities themselves."""
        return self.probabilities

    def draw(self, count: int, generator: Generator) -> Entries:
        """Draw rows in time proportional to what is on, not to rows times features.

        Hits fall on cells (row, feature) as a Poisson process of rate ``-log(1 - p)`` a cell, so that a cell is hit at least
        once with probability ``p``, and cells are independent.
        """
        device = generator.device
        rates = -torch.log1p(-self.probabilities.to(device, torch.float64))
        ladder = rates.cumsum(0)
        hits = int(torch.poisson(ladder[-1:] * count, generator=generator))
        places = torch.rand(hits, generator=generator, device=device, dtype=torch.float64) * ladder[-1]
        features = torch.searchsorted(ladder, places, right=True).clamp_max(len(rates) - 1)
        rows = torch.randint(count, (hits,), generator=generator, device=device)
        cells = torch.unique(rows * len(rates) + features)
        return cells // len(rates), cells % len(rates)


@savable
@dataclass(frozen=True, eq=False)
class CovarianceFiring(Firing):
    """The post's correlated features: ``z ~ N(0, C)``, and feature i fires with probability ``c * weight_i * Phi(z_i)``.

    Source: Sharkey, Braun & Millidge 2022, "Taking features out of superposition with sparse autoencoders" (an interim research
    report), and its replication, HoagyC/sparse_coding, ``replicate_toy_models.py``.
    """

    factor: Float[Tensor, "G G"]
    """``L`` with ``L @ L.T = C``."""
    weights: Float[Tensor, " G"]
    """How likely each feature is beside the others, in 0..1."""
    active: float
    """The mean number of features that are on in a row."""
    per: Literal["batch", "sample"]
    """Whether z is drawn once for all rows of a call, as the replication does, which leaves features independent given the
    batch; then ``c`` makes the mean number active exact in every batch. Otherwise each row has its z, and ``c`` is constant."""

    @property
    def marginals(self) -> Float[Tensor, " G"]:
        """The probabilities on average over z."""
        return self.weights * (self.active / self.weights.sum())

    def draw(self, count: int, generator: Generator) -> Entries:
        """Draw rows."""
        factor, weights = self.factor.to(generator.device), self.weights.to(generator.device)
        if self.per == "batch":
            p = torch.special.ndtr(_normal((1, len(weights)), generator) @ factor.T)[0] * weights
            return IndependentFiring(p * (self.active / p.sum())).draw(count, generator)
        scale = 2 * self.active / weights.sum()  # Phi(z) is 1/2 on average

        def probabilities(rows: int) -> Tensor:
            share: Tensor = torch.special.ndtr(_normal((rows, len(weights)), generator) @ factor.T) * weights * scale
            return share

        return _draw_cells(count, len(weights), probabilities, generator)


@savable
@dataclass(frozen=True, eq=False)
class LowRankFiring(Firing):
    """Features that share causes: a Gaussian copula of low rank, whose marginals are exactly those that are asked for.

    Feature i is on where ``loadings_i @ f + sqrt(1 - |loadings_i|^2) * e_i`` exceeds the quantile of its probability; ``f`` are a
    row's common causes and ``e`` is its own noise, all N(0, 1).
    """

    probabilities: Float[Tensor, " G"]
    loadings: Float[Tensor, "G rank"]
    """What each common cause does to each feature; rows are shorter than 1."""

    @property
    def marginals(self) -> Float[Tensor, " G"]:
        """The probabilities themselves."""
        return self.probabilities

    def draw(self, count: int, generator: Generator) -> Entries:
        """Draw rows: given the common causes features fire by themselves."""
        device = generator.device
        loadings = self.loadings.to(device)
        thresholds = torch.special.ndtri(self.probabilities.to(device, torch.float64)).float()
        spread = (1 - loadings.square().sum(1)).sqrt()

        def probabilities(rows: int) -> Tensor:
            causes = _normal((rows, loadings.shape[1]), generator)
            share: Tensor = torch.special.ndtr((thresholds + causes @ loadings.T) / spread)
            return share

        return _draw_cells(count, len(thresholds), probabilities, generator)


@savable
@dataclass(frozen=True, eq=False)
class HierarchicalFiring(Firing):
    """A forest of features: a child can be on only where its parent is."""

    parents: Int[Tensor, " G"]
    """The parent of each feature, which stands before it; -1 for a root."""
    probabilities: Float[Tensor, " G"]
    """The probability of a root, and that of a child where its parent is on."""

    @property
    def marginals(self) -> Float[Tensor, " G"]:
        """The products of the probabilities along the path from each root."""
        marginals = self.probabilities.clone()
        for feature, parent in enumerate(self.parents.tolist()):
            if parent >= 0:
                marginals[feature] *= marginals[parent]
        return marginals

    def draw(self, count: int, generator: Generator) -> Entries:
        """Draw roots, then the children of what is on, level by level."""
        device = generator.device
        parents, probabilities = self.parents.to(device), self.probabilities.to(device)
        children = torch.argsort(parents, stable=True)
        counts = torch.bincount(parents + 1, minlength=len(parents) + 1)
        first = counts.cumsum(0) - counts  # of the children of feature i: at i + 1
        rows, features = IndependentFiring(torch.where(parents < 0, probabilities, 0.0)).draw(count, generator)
        cells = [rows * len(parents) + features]
        while len(rows):
            sizes = counts[features + 1]
            origin = torch.repeat_interleave(torch.arange(len(rows), device=device), sizes)
            rank = torch.arange(len(origin), device=device) - (sizes.cumsum(0) - sizes)[origin]
            child = children[first[features[origin] + 1] + rank]
            fires = torch.rand(len(child), generator=generator, device=device) < probabilities[child]
            rows, features = rows[origin][fires], child[fires]
            cells.append(rows * len(parents) + features)
        ordered = torch.cat(cells).sort().values
        return ordered // len(parents), ordered % len(parents)


def draw_magnitudes(kind: Magnitude, count: int, generator: Generator) -> Float[Tensor, " count"]:
    """Draw how much features that are on are active, never exactly 0."""
    device = generator.device
    if kind == "one":
        return torch.ones(count, device=device)
    if kind == "half-normal":
        drawn = _normal((count,), generator).abs()
    else:
        drawn = torch.rand(count, generator=generator, device=device)
        if kind == "product":
            drawn = drawn * torch.rand(count, generator=generator, device=device)
    return drawn.clamp_min(torch.finfo(drawn.dtype).tiny)


def check_probabilities(probabilities: Tensor) -> None:
    """Refuse what is no probability, or a feature that is always on.

    Raises:
        InputError: Names the first such feature.
    """
    wrong = ~((probabilities >= 0) & (probabilities < 1))
    if bool(wrong.any()):
        feature = int(wrong.nonzero()[0])
        raise InputError(
            f"feature {feature} would fire with probability {float(probabilities[feature]):.4g}; probabilities are in 0..1, and a "
            f"feature that is always on is a bias: ask for fewer active features, or for a flatter distribution"
        )


def scaled_probabilities(weights: Sequence[float] | Tensor, active: float) -> Float[Tensor, " G"]:
    """Firing probabilities in proportion to weights, with ``active`` features on in a row on average.

    Raises:
        InputError: One would have to be 1 or more.
    """
    weight = torch.as_tensor(weights, dtype=torch.float64)
    probabilities = (weight * (active / weight.sum())).float()
    check_probabilities(probabilities)
    return probabilities


def _normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _draw_cells(count: int, features: int, probabilities: Callable[[int], Tensor], generator: Generator) -> Entries:
    """Draw rows whose features fire by themselves, given the probabilities ``[row, feature]`` of some rows at a time."""
    rows, chosen = [], []
    block = max(1, _CELLS // features)
    for start in range(0, count, block):
        p = probabilities(min(block, count - start))
        row, feature = (torch.rand(p.shape, generator=generator, device=p.device) < p).nonzero().T
        rows.append(row + start)
        chosen.append(feature)
    return torch.cat(rows), torch.cat(chosen)
