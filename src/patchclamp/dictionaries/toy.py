"""Toy data: rows that are sparse sums of features which are known, so that a dictionary can be held against the truth."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from patchclamp.activations.stream import ActivationStream
from patchclamp.core import folders
from patchclamp.core.arguments import checked, checked_methods
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Folder, Seed
from patchclamp.core.plain import from_plain, to_plain
from patchclamp.core.tensors import read_tensors, write_tensors
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.superposition import train_encoders
from patchclamp.dictionaries.toy_recipes import (
    CovarianceFiring,
    Firing,
    HierarchicalFiring,
    IndependentFiring,
    LowRankFiring,
    Magnitude,
    check_probabilities,
    draw_magnitudes,
    scaled_probabilities,
)

_TENSORS = "toy.safetensors"
_REPRESENTED = 0.1
"""Features that a trained encoder gives a shorter direction than this are not in its activations."""


@checked
@dataclass(frozen=True, eq=False)
class ToyData:
    """Rows ``sum_i coefficient_i * feature_i + noise``, drawn without end; the truth travels with them.

    Make one with :meth:`post`, :meth:`zipf`, :meth:`correlated`, :meth:`hierarchical` or :meth:`trained_encoder`.
    """

    features: Float[Tensor, "G d"]
    """The directions, of length 1."""
    firing: Firing
    """The rule by which features are on together."""
    magnitude: Magnitude = "uniform"
    """How much a feature that is on is active."""
    lengths: Float[Tensor, " G"] | None = None
    """What each feature's coefficients are multiplied by; 1 by default."""
    noise: float = 0.0
    """The standard deviation of the noise of each coordinate."""
    fill_empty: bool = False
    """Whether a row in which nothing is on gets one feature, drawn evenly, with the coefficient 1."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, as plain JSON."""

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not self.features.numel():
            raise InputError(f"features are [G, d]; got {tuple(self.features.shape)}")
        if not bool(torch.isfinite(self.features).all()):
            raise InputError("features hold NaN or infinite values")
        for name, value in {"probabilities": self.probabilities, "lengths": self.lengths}.items():
            if value is not None and len(value) != self.G:
                raise InputError(f"{name} are one a feature, {self.G}; got {len(value)}")
        if not self.noise >= 0:
            raise InputError(f"noise is a standard deviation, 0 or more; got {self.noise}")

    @property
    def G(self) -> int:
        """The number of true features."""
        return len(self.features)

    @property
    def d(self) -> int:
        """The width of a row."""
        return self.features.shape[1]

    @property
    def probabilities(self) -> Float[Tensor, " G"]:
        """The probability with which each feature is on in a row; without what :attr:`fill_empty` adds."""
        return self.firing.marginals

    @property
    def active(self) -> float:
        """The mean number of features that are on in a row."""
        return float(self.probabilities.sum())

    def sample(self, count: int, seed: Seed, step: int = 0) -> tuple[Float[Tensor, "count d"], Codes]:
        """Draw rows and the coefficients that make them, on the device of the features.

        The same count, seed and step give the same rows, whatever was drawn before.

        Args:
            count: The number of rows.
            seed: Where random numbers begin.
            step: Which batch of that seed.

        Raises:
            InputError: A count or a step below 0.
        """
        if count < 1 or step < 0:
            raise InputError(f"rows are drawn from 1 on, and steps counted from 0; got count={count}, step={step}")
        generator = Generator(self.features.device).manual_seed(int(digest("toy", seed, step), 16) % 2**32)
        rows, features = self.firing.draw(count, generator)
        values = draw_magnitudes(self.magnitude, len(rows), generator)
        counts = torch.bincount(rows, minlength=count)
        if self.fill_empty:
            empty = (counts == 0).nonzero()[:, 0]
            extra = torch.randint(self.G, (len(empty),), generator=generator, device=rows.device)
            order = torch.argsort(torch.cat([rows, empty]), stable=True)
            features = torch.cat([features, extra])[order]
            values = torch.cat([values, torch.ones_like(extra, dtype=values.dtype)])[order]
            counts = counts.clamp_min(1)
        if self.lengths is not None:
            values = values * self.lengths.to(values)[features]
        codes = Codes(features, values.to(self.features), torch.cat([counts.new_zeros(1), counts.cumsum(0)]), self.G)
        x = codes.decode(self.features)
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, generator=generator, device=x.device).to(x)
        return x, codes

    def stream(self, batch_size: int = 4096, seed: Seed = 0, rows: int | None = None) -> ActivationStream:
        """Batches of fresh rows, each drawn by :meth:`sample` for the next step.

        Args:
            batch_size: The number of rows of a batch.
            seed: Where random numbers begin.
            rows: The number of rows in all; without end by default.
        """

        def make(seed: int, step: int, count: int) -> Tensor:
            return self.sample(count, seed, step)[0]

        return ActivationStream.from_function(make, self.d, count=rows, batch_size=batch_size, seed=seed)

    def to(self, device: str | torch.device) -> "ToyData":
        """The same data on another device, where it draws other numbers."""
        lengths = None if self.lengths is None else self.lengths.to(device)
        return replace(self, features=self.features.to(device), lengths=lengths)

    @classmethod
    def post(
        cls,
        *,
        mode: Literal["correlated", "uncorrelated", "corrected"] = "correlated",
        G: int = 512,
        d: int = 256,
        active: float = 5.0,
        decay: float = 0.99,
        seed: Seed = 0,
    ) -> Self:
        """The toy data of "Taking features out of superposition with sparse autoencoders", exactly.

        ``"uncorrelated"`` gives feature i the probability ``decay ** i * active / G``, which is not rescaled: 0.97 features are on
        in a row, not 5. ``"correlated"`` draws z once a batch, so within a batch features are independent; rows in which nothing
        is on get one feature at 1. ``"corrected"`` draws z for every row, and makes the mean number active exactly ``active``.

        Source: Sharkey, Braun & Millidge 2022 (an interim research report, alignmentforum.org); numbers and both modes as in its
        replication, HoagyC/sparse_coding, ``replicate_toy_models.py``.

        Args:
            mode: How features fire together.
            G: The number of features.
            d: The width of rows.
            active: The mean number of features that are on, which ``"uncorrelated"`` does not reach.
            decay: How much rarer each feature is than the one before it.
            seed: Of the features and their covariance.

        Raises:
            InputError: A feature would be always on.
        """
        generator = _generator(seed)
        features = _directions(G, d, generator)
        weights = decay ** torch.arange(G, dtype=torch.float64)
        firing: Firing
        if mode == "uncorrelated":
            firing = IndependentFiring((weights * (active / G)).float())
        else:
            factor = _covariance_factor(G, generator)
            firing = CovarianceFiring(factor, weights.float(), active, "batch" if mode == "correlated" else "sample")
            check_probabilities(2 * firing.marginals)  # where z is large
        check_probabilities(firing.marginals)
        card = {"recipe": "post", "mode": mode, "active": active, "decay": decay, "seed": seed}
        return cls(features, firing, fill_empty=mode == "correlated", card=card)

    @classmethod
    def zipf(
        cls,
        G: int,
        d: int,
        *,
        active: float,
        exponent: float = 0.7,
        magnitude: Magnitude = "uniform",
        noise: float = 0.0,
        seed: Seed = 0,
    ) -> Self:
        """Random features that fire independently, feature i with a probability in proportion to ``(i + 1) ** -exponent``.

        Args:
            G: The number of features.
            d: The width of rows.
            active: The mean number of features that are on in a row.
            exponent: 0 for equal probabilities.
            magnitude: How much a feature that is on is active.
            noise: The standard deviation of the noise of each coordinate.
            seed: Of the features.

        Raises:
            InputError: A feature would be always on.
        """
        firing = IndependentFiring(_zipf(G, active, exponent))
        card = {"recipe": "zipf", "active": active, "exponent": exponent, "seed": seed}
        return cls(_directions(G, d, _generator(seed)), firing, magnitude, noise=noise, card=card)

    @classmethod
    def correlated(
        cls,
        G: int,
        d: int,
        *,
        active: float,
        rank: int = 16,
        strength: float = 0.5,
        exponent: float = 0.7,
        magnitude: Magnitude = "uniform",
        noise: float = 0.0,
        seed: Seed = 0,
    ) -> Self:
        """Random features that share causes: they fire together by a Gaussian copula of low rank, and as often as Zipf's.

        Args:
            G: The number of features.
            d: The width of rows.
            active: The mean number of features that are on in a row.
            rank: The number of common causes.
            strength: The share of each feature's variance in the copula that comes from the causes, 0..1 (1 left out).
            exponent: As for :meth:`zipf`.
            magnitude: How much a feature that is on is active.
            noise: The standard deviation of the noise of each coordinate.
            seed: Of the features and of what causes do.

        Raises:
            InputError: A feature would be always on, or a strength outside its range.
        """
        if not 0 <= strength < 1 or rank < 1:
            raise InputError(
                f"causes are 1 or more, of a strength in 0..1 (1 left out); got rank={rank}, strength={strength}"
            )
        generator = _generator(seed)
        features = _directions(G, d, generator)
        loadings = strength**0.5 * _directions(G, rank, generator)
        card = {
            "recipe": "correlated",
            "active": active,
            "exponent": exponent,
            "rank": rank,
            "strength": strength,
            "seed": seed,
        }
        return cls(features, LowRankFiring(_zipf(G, active, exponent), loadings), magnitude, noise=noise, card=card)

    @classmethod
    def hierarchical(
        cls,
        G: int,
        d: int,
        *,
        active: float,
        branching: int = 4,
        depth: int = 3,
        child: float = 0.3,
        exponent: float = 0.7,
        magnitude: Magnitude = "uniform",
        noise: float = 0.0,
        seed: Seed = 0,
    ) -> Self:
        """Random features in trees: a child is on only where its parent is.

        Args:
            G: The number of features.
            d: The width of rows.
            active: The mean number of features that are on in a row.
            branching: The number of children of each feature above the last level.
            depth: The number of levels, the roots' included.
            child: The probability that a child is on where its parent is.
            exponent: Of the roots, as for :meth:`zipf`.
            magnitude: How much a feature that is on is active.
            noise: The standard deviation of the noise of each coordinate.
            seed: Of the features.

        Raises:
            InputError: A root would be always on, or there is no such tree.
        """
        if branching < 1 or depth < 1 or not 0 <= child <= 1:
            raise InputError(
                f"a tree has branching and depth of 1 or more and a probability of children in 0..1; got branching={branching}, "
                f"depth={depth}, child={child}"
            )
        parents, levels = _forest(G, branching, depth)
        roots = parents < 0
        weights = torch.zeros(G, dtype=torch.float64)
        weights[roots] = (torch.arange(int(roots.sum())) + 1.0).double() ** -exponent
        for feature in range(int(roots.sum()), G):
            weights[feature] = child * weights[parents[feature]]
        scale = active / float(weights.sum())
        probabilities = torch.where(roots, weights * scale, child).float()
        check_probabilities(probabilities[roots])
        card = {
            "recipe": "hierarchical", "active": active, "branching": branching, "depth": depth, "child": child,
            "exponent": exponent, "levels": levels, "seed": seed,
        }  # fmt: skip
        features = _directions(G, d, _generator(seed))
        return cls(features, HierarchicalFiring(parents, probabilities), magnitude, noise=noise, card=card)

    @classmethod
    def trained_encoder(
        cls,
        G: int,
        d: int,
        *,
        active: float,
        exponent: float = 0.0,
        steps: int = 2000,
        batch_size: int = 512,
        lr: float = 1e-2,
        noise: float = 0.0,
        seed: Seed = 0,
    ) -> Self:
        """The features that a toy model of superposition arranges by itself: hidden activations of a trained encoder.

        ``G / d`` decides how they interfere. At 2 most are in antipodal pairs; from 4 on they are spread about evenly, and each
        interferes with many. The lengths of the directions are put into the coefficients. A feature that the encoder does not
        represent (a direction shorter than 0.1) is left out, and the card says how many.

        Source: Elhage et al. 2022, "Toy models of superposition", arXiv 2209.10652.

        Args:
            G: The number of features.
            d: The width of rows.
            active: The mean number of features that are on in a row.
            exponent: As for :meth:`zipf`.
            steps: Of training.
            batch_size: Of training.
            lr: Of training.
            noise: The standard deviation of the noise of each coordinate.
            seed: Of training.

        Raises:
            InputError: A feature would be always on, or the encoder represents none.
        """
        probabilities = _zipf(G, active, exponent)
        weights = train_encoders(probabilities[None], d, seeds=[seed], steps=steps, batch_size=batch_size, lr=lr)[0]
        lengths = weights.norm(dim=1)
        kept = lengths >= _REPRESENTED
        if not bool(kept.any()):
            raise InputError(f"after {steps} steps the encoder represents none of {G} features; train longer")
        card = {
            "recipe": "trained_encoder", "active": active, "exponent": exponent, "steps": steps, "batch_size": batch_size,
            "lr": lr, "left_out": int((~kept).sum()), "seed": seed,
        }  # fmt: skip
        features = weights[kept] / lengths[kept, None]
        return cls(features, IndependentFiring(probabilities[kept]), lengths=lengths[kept], noise=noise, card=card)

    def save_pretrained(self, folder: Folder, *, overwrite: bool = False) -> Path:
        """Write ``toy.json`` (the recipe) and ``toy.safetensors``; the folder then holds them, or what it held before.

        Args:
            folder: The folder to write, in which files of others are left alone.
            overwrite: Take the place of another thing of patchclamp's too.

        Raises:
            InputError: Something else is in the way.
            StorageError: The system refused; the folder is as it was.
        """
        tensors: dict[str, Tensor] = {}
        names = ("features", "firing", "magnitude", "lengths", "noise", "fill_empty", "card")
        values = {name: to_plain(getattr(self, name), tensors) for name in names}
        record = {"format_version": folders.TOY.version, "kind": folders.TOY.kind, **values}
        return folders.save(
            folder, folders.TOY, record, lambda into: write_tensors(into / _TENSORS, tensors), overwrite=overwrite
        )

    @classmethod
    def from_pretrained(cls, folder: Folder) -> Self:
        """Read what :meth:`save_pretrained` wrote: data that draw the same rows.

        Raises:
            InputError: The folder holds no toy data, or of a newer format; or a file was changed, is damaged or missing.
        """
        path = Path(folder)
        with folders.opened(path, folders.TOY) as record:
            tensors = read_tensors(path / _TENSORS)
            names = ("features", "firing", "magnitude", "lengths", "noise", "fill_empty")
            values = {name: from_plain(record[name], tensors) for name in names}
            if not isinstance(values["firing"], Firing):
                raise ValueError("its firing is no rule by which features fire")
            return cls(**values, card=record["card"])


checked_methods(ToyData)


def _generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _directions(count: int, d: int, generator: Generator) -> Float[Tensor, "count d"]:
    """Directions drawn evenly from the sphere."""
    if count < 1 or d < 1:
        raise InputError(f"features and their width are 1 or more; got {count} of width {d}")
    return torch.nn.functional.normalize(torch.randn(count, d, generator=generator))


def _zipf(G: int, active: float, exponent: float) -> Float[Tensor, " G"]:
    if not active > 0:
        raise InputError(f"the mean number of active features is above 0; got active={active}")
    return scaled_probabilities((torch.arange(G, dtype=torch.float64) + 1) ** -exponent, active)


def _covariance_factor(G: int, generator: Generator) -> Float[Tensor, "G G"]:
    """The Cholesky factor of the post's covariance: even random numbers made symmetric, and positive by their diagonal."""
    even = torch.rand(G, G, generator=generator, dtype=torch.float64)
    symmetric = (even + even.T) / 2
    least = torch.linalg.eigvalsh(symmetric)[0].clamp_max(0)
    factor: Tensor = torch.linalg.cholesky(symmetric - 1.001 * least * torch.eye(G, dtype=torch.float64))
    return factor.float()


def _forest(G: int, branching: int, depth: int) -> tuple[Tensor, list[int]]:
    """The parent of each feature, level after level, and the size of each level; the last is cut so that there are ``G``."""
    roots = -(-G // sum(branching**level for level in range(depth)))
    parents, levels, level = [-1] * roots, [roots], range(roots)
    while len(parents) < G:
        children = [parent for parent in level for _ in range(branching)][: G - len(parents)]
        level = range(len(parents), len(parents) + len(children))
        parents += children
        levels.append(len(children))
    return torch.tensor(parents), levels
