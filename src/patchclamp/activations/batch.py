"""Rows of activations with the tokens they are of, and what a stream asks of whatever they come from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ActivationBatch:
    """Some rows of activations, and which token each is of, where that is known."""

    rows: Float[Tensor, "row d"]
    documents: Int[Tensor, " row"] | None = None
    """The number of the document in its corpus, or of the prompt in its recording."""
    positions: Int[Tensor, " row"] | None = None
    """The token's position in the document, from 0; -1 of a token that packing put in."""
    tokens: Int[Tensor, " row"] | None = None
    """The token's id."""
    special: Bool[Tensor, " row"] | None = None
    """Whether it is a special token or the first of its sequence, where models put their attention sinks, or another sink."""

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, begin: int, end: int) -> Self:
        """The rows ``begin..end-1``, as views."""
        return self._each(lambda values: values[begin:end])

    def picked(self, numbers: Int[Tensor, " picked"]) -> Self:
        """The rows of these numbers, in this order."""
        return self._each(lambda values: values.index_select(0, numbers.to(values.device)))

    @classmethod
    def joined(cls, batches: Sequence["ActivationBatch"]) -> "ActivationBatch":
        """The rows of several batches, one after the other; what one of them does not know of its tokens, none does."""
        if len(batches) == 1:
            return batches[0]
        columns = [[getattr(batch, field.name) for batch in batches] for field in fields(cls)]
        return cls(*(None if any(part is None for part in column) else torch.cat(column) for column in columns))  # type: ignore[arg-type]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        columns = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(None if column is None else change(column) for column in columns))  # type: ignore[arg-type]


class RowSource(Protocol):
    """Where rows come from: equal rows in an equal order whenever they are asked for."""

    d: int
    """The width of a row."""
    count: int | None
    """The number of rows of one pass, or None if that is not known or there is no end."""
    mixed: bool
    """Whether the order of a pass is random row by row, so that a stream needs no buffer to shuffle."""
    omits_special: bool
    """Whether rows that are marked as special have a place in the order of a pass, and come in no batch."""

    def digest(self) -> str:
        """A digest of the content: that of other rows is another."""

    def chunks(self, seed: int | None, begin: int, size: int) -> Iterator[ActivationBatch]:
        """The rows of one pass from row ``begin`` on, in chunks.

        Args:
            seed: What the order of the pass is drawn from; None for the order in which the rows stand.
            begin: The number of rows of this order that are left out at its beginning.
            size: The number of rows of a chunk that suits the stream; any other number is right too.
        """
