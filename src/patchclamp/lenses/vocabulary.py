"""Token vectors, to decode directions of the residual stream with."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from patchclamp.core.errors import ModelError, check_choice
from patchclamp.lenses.frozen import Frozen
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.models.weights import weight

Through = Literal["embedding", "unembedding"]
_BLOCK_ROWS = 8192
_FLOOR = 1e-6  # eigenvalues of the covariance below this share of the largest count as no variance at all


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """One vector a token, read off the model's own table in blocks, never copied whole."""

    table: Tensor
    """The embedding or unembedding, ``[vocabulary, d_model]``."""
    gain: Tensor
    """The gain that multiplies every vector, ``[d_model]``."""
    centred: bool
    """Whether each vector loses its mean, because a norm before the unembedding takes that of the stream."""
    unit: bool
    """Whether each vector is scaled to a mean square of 1, as a norm does with what it reads."""

    @classmethod
    def writing(cls, model: OpenModel) -> "Vocabulary":
        """The unembedding behind the final norm's gain: what a direction added to the last state does to each logit."""
        norm = model.sites.modules[model.sites.access(Site("final_norm")).module]
        table = weight(model, "logits").detach().T
        _check_width(model, table, "unembedding")
        state = torch.ones(table.shape[1], dtype=model.dtype, device=model.device)
        state[1::2] = -1
        frozen = Frozen.of(norm, state)
        return cls(table, frozen.gain, frozen.centred, False)

    @classmethod
    def reading(cls, model: OpenModel, through: Through) -> "Vocabulary":
        """What the stream holds for a token: its embedding, or the direction that raises its logit; at a mean square of 1.

        Raises:
            InputError: There is no such table.
        """
        check_choice("through", through, ("embedding", "unembedding"))
        if through == "unembedding":
            vocabulary = cls.writing(model)
            return cls(vocabulary.table, vocabulary.gain, vocabulary.centred, True)
        table = weight(model, "embed").detach()
        _check_width(model, table, "embedding")
        return cls(table, torch.ones(table.shape[1], dtype=torch.float64, device=table.device), False, True)

    def vectors(self, index: Tensor | slice) -> Tensor:
        """Vectors of some tokens, ``[..., d_model]``; float32 unless the model is in float64."""
        dtype = torch.promote_types(self.table.dtype, torch.float32)
        rows = self.table[index].to(dtype) * self.gain.to(dtype)
        rows = rows - rows.mean(-1, keepdim=True) if self.centred else rows
        size: Tensor = rows.pow(2).mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
        return rows / size if self.unit else rows

    def top(self, directions: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` tokens with the largest products with each direction and with its negative.

        Args:
            directions: The directions, ``[direction, d_model]``.
            k: The number of tokens to return for each direction and sign.

        Returns:
            Ids and products, ``[direction, sign, k]`` each, sign + first.
        """
        ids, values = [], []
        for rows in self._blocks():
            block = self.vectors(rows)
            products = directions.to(block) @ block.T
            ends = [products.topk(min(k, len(block)), largest=largest) for largest in (True, False)]
            ids.append(torch.stack([end.indices + rows.start for end in ends], 1))
            values.append(torch.stack([ends[0].values, -ends[1].values], 1))
        best = torch.cat(values, 2).topk(k)
        return torch.cat(ids, 2).gather(2, best.indices), best.values

    def coherence(self, ids: Tensor) -> Tensor:
        """Measure how alike some tokens are, ``[..., k] -> [...]``: the mean cosine of two of their whitened vectors.

        Token vectors are centred and whitened over the vocabulary first: a few directions in which thousands of rare tokens
        agree would otherwise make any list that leans on them look alike.
        """
        mean, whiten = self._moments
        whitened = (self.vectors(ids).double() - mean) @ whiten
        whitened = whitened / whitened.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        k = ids.shape[-1]
        total: Tensor = (whitened @ whitened.mT).sum((-1, -2))
        return (total - k) / (k * (k - 1))

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, len(self.table), _BLOCK_ROWS):
            yield slice(start, min(start + _BLOCK_ROWS, len(self.table)))

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``[d_model]`` of the vectors, and the inverse square root ``[d_model, d_model]`` of their covariance."""
        count = len(self.table)
        mean = sum(self.vectors(rows).double().sum(0) for rows in self._blocks()) / count
        assert isinstance(mean, Tensor)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
        for rows in self._blocks():
            centred = self.vectors(rows) - mean.to(self.vectors(slice(0, 1)))
            covariance += (centred.T @ centred).double() / count
        values, basis = torch.linalg.eigh(covariance)
        has_variance = values > _FLOOR * values.max()
        scale = torch.where(has_variance, values.clamp(min=1e-300).rsqrt(), 0.0)
        return mean, (basis * scale) @ basis.T


def _check_width(model: OpenModel, table: Tensor, what: str) -> None:
    width = model.sites.width(Site("resid_post", 0))
    if width is not None and table.shape[1] != width:
        raise ModelError(
            f"the {what} of {type(model.module).__name__} is {table.shape[1]} wide and the stream {width}: a projection lies "
            "between them, so directions of the stream are not decoded by it"
        )
