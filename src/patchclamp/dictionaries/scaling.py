"""The coordinates in which a dictionary is trained: rows centred, scaled, and whitened if that is asked for."""

from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError

Whiten = Literal["none", "pca", "zca"]


@checked
class RowScaling(nn.Module):
    """``scale * (x - mean) @ whitening``, and its inverse.

    Centring removes what all rows share. The scale makes the mean squared length of a row ``d``, so that learning rates and
    penalties mean the same for every model. Whitening makes the covariance the identity.
    """

    mean: Tensor
    """The mean of the rows, ``[d]``."""
    scale: Tensor
    """The factor, ``[]``."""
    whitening: Tensor | None
    """A matrix ``[d, d]``, or None."""
    unwhitening: Tensor | None
    """The inverse of that matrix."""

    def __init__(
        self,
        mean: Float[Tensor, " d"],
        scale: float = 1.0,
        whitening: Float[Tensor, "d d"] | None = None,
        unwhitening: Float[Tensor, "d d"] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.tensor(float(scale), dtype=mean.dtype))
        self.register_buffer("whitening", whitening)
        self.register_buffer(
            "unwhitening", torch.linalg.inv(whitening) if unwhitening is None and whitening is not None else unwhitening
        )

    @classmethod
    def identity(cls, d: int, dtype: torch.dtype = torch.float32) -> Self:
        """A scaling that changes nothing."""
        return cls(torch.zeros(d, dtype=dtype))

    @classmethod
    def of(
        cls,
        rows: Float[Tensor, "row d"],
        *,
        centre: bool = True,
        scale: bool = True,
        whiten: Whiten = "none",
        ridge: float = 1e-4,
    ) -> Self:
        """Measure rows, in float64.

        Args:
            rows: A sample of activations.
            centre: Subtract the mean.
            scale: Make the mean squared length of a row ``d``.
            whiten: ``"pca"`` turns to the principal axes and divides by their spread, ``"zca"`` turns back after it.
            ridge: What is added to each axis's variance before whitening, as a share of their mean.

        Raises:
            InputError: All rows are equal, not finite, or of a length that their type cannot be scaled from.
        """
        x = rows.detach().to(torch.float64)
        if not bool(torch.isfinite(x).all()):
            raise InputError("rows hold NaN or infinite values")
        mean = x.mean(0) if centre else torch.zeros_like(x[0])
        x = x - mean
        whitening = unwhitening = None
        if whiten != "none":
            variances, axes = torch.linalg.eigh(x.T @ x / len(x))
            spread = (variances.clamp_min(0) + ridge * variances.mean()).sqrt()
            turn_back = axes.T if whiten == "zca" else torch.eye(len(mean), dtype=torch.float64, device=x.device)
            whitening, unwhitening = axes / spread @ turn_back, turn_back.T @ (axes * spread).T
            x = x @ whitening
        square = float(x.square().sum(1).mean())
        if not square > 0:
            raise InputError("all rows are equal: there is nothing for a dictionary to learn")
        factor = (x.shape[1] / square) ** 0.5 if scale else 1.0
        dtype = rows.dtype if rows.dtype == torch.float64 else torch.float32
        limit = torch.finfo(dtype).max
        if not max(factor, 1 / factor, square**0.5) < limit:
            raise InputError(
                f"rows whose mean length is {square**0.5:.3g} cannot be scaled in {dtype}: multiply them by a number before, or "
                "take dtype='float64'"
            )
        cast = [None if value is None else value.to(dtype) for value in (mean, whitening, unwhitening)]
        return cls(cast[0], factor, cast[1], cast[2])  # type: ignore[arg-type]

    @property
    def changes(self) -> bool:
        """Whether it changes any row."""
        return bool(self.mean.any()) or float(self.scale) != 1 or self.whitening is not None

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Rows in the coordinates of the dictionary."""
        x = x - self.mean
        return self.scale * (x if self.whitening is None else x @ self.whitening)

    def undo(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Rows in the coordinates of the model."""
        return self.undo_linear(x) + self.mean

    def undo_linear(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Differences of rows in the coordinates of the model: the inverse without its mean."""
        return (x if self.unwhitening is None else x @ self.unwhitening) / self.scale
