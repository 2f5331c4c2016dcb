"""One interface from which everything trains: batches of activation rows, shuffled, replayable from a seed, and resumable."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.core.errors import InputError


@dataclass(frozen=True, eq=False)
class ActivationBatch:
    """Some rows of activations, and which token each is of."""

    rows: Float[Tensor, "row d"]
    documents: Int[Tensor, " row"] | None = None
    positions: Int[Tensor, " row"] | None = None
    tokens: Int[Tensor, " row"] | None = None


class RowSource(Protocol):
    """Where rows come from: equal chunks in an equal order whenever they are asked for."""

    d: int
    count: int | None
    """The number of rows of one pass, or None if that is not known or there is no end."""

    def chunks(self, passed: int) -> Iterator[ActivationBatch]:
        """The rows of one pass (0, 1, ...), in chunks of any size."""


class ActivationStream:
    """INTERFACE DRAFT: batches of rows.

    ``for batch in stream`` goes on from where the stream stands; ``stream.state()`` is plain JSON, and ``stream.restore(state)``
    puts it there; ``stream.restart()`` begins anew. ``stream.sample(n)`` returns the first n rows without moving the stream.
    """

    def __init__(
        self,
        source: RowSource,
        *,
        batch_size: int = 4096,
        passes: int | None = 1,
        shuffle: bool = True,
        buffer: int = 65_536,
        seed: int = 0,
    ) -> None:
        self.source, self.batch_size, self.passes, self.seed = source, batch_size, passes, seed

    @property
    def d(self) -> int:
        """The width of a row."""
        return self.source.d

    @classmethod
    def from_array(
        cls, rows: Any, *, batch_size: int = 4096, passes: int | None = 1, shuffle: bool = True, seed: int = 0
    ) -> Self: ...

    @classmethod
    def from_recording(cls, activations: Any, site: str | None = None, **options: Any) -> Self: ...

    @classmethod
    def from_function(cls, make: Any, d: int, **options: Any) -> Self:
        """Rows that ``make(seed, step, count) -> [count, d]`` makes (toy data): endless by default."""
        ...
