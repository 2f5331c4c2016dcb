"""Buffers that a recording fills: one tensor a requested name, allocated when its first batch arrives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.models.sites import Site


@dataclass(eq=False)
class Buffers:
    """Where each site's values go.

    ``where`` holds the recorded positions of each prompt, or None where inputs have no tokens and all is recorded.
    """

    names: dict[str, list[Site]]
    where: list[tuple[int, ...] | None]
    grad: bool = False
    values: dict[str, Tensor] = field(default_factory=dict)
    """``[site, prompt, position, ...]``; NaN where a prompt is shorter than the longest."""
    _pieces: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)

    def sinks(self, members: Sequence[int]) -> dict[Site, Callable[[Tensor], None]]:
        """For a batch of the given prompts: what to do with each site's ``[row, position, d]``."""
        places: dict[Site, list[tuple[str, int]]] = {}
        for name, sites in self.names.items():
            for index, site in enumerate(sites):
                places.setdefault(site, []).append((name, index))

        def sink_for(targets: list[tuple[str, int]]) -> Callable[[Tensor], None]:
            def sink(view: Tensor) -> None:
                for name, index in targets:
                    self._put(name, index, members, view)

            return sink

        return {site: sink_for(targets) for site, targets in places.items()}

    def _put(self, name: str, index: int, members: Sequence[int], view: Tensor) -> None:
        if self.grad:
            for row, member in enumerate(members):
                where = self.where[member]
                self._pieces[name, index, member] = view[row] if where is None else view[row, list(where)]
            return
        target = self._buffer(name, view)[index]
        counts = {None if (w := self.where[m]) is None else w for m in members}
        first = members[0]
        if len(counts) == 1 and list(members) == list(range(first, first + len(members))):
            where = counts.pop()
            chosen = view if where is None or where == tuple(range(view.shape[1])) else view[:, list(where)]
            target[first : first + len(members)].copy_(chosen)
            return
        for row, member in enumerate(members):
            where = self.where[member]
            chosen = view[row] if where is None else view[row, list(where)]
            target[member, : len(chosen)].copy_(chosen)

    def _buffer(self, name: str, view: Tensor) -> Tensor:
        if name not in self.values:
            lengths = {view.shape[1] if w is None else len(w) for w in self.where}
            shape = (len(self.names[name]), len(self.where), max(lengths), *view.shape[2:])
            ragged = len(lengths) > 1
            make = torch.full(shape, torch.nan, dtype=view.dtype) if ragged else torch.empty(shape, dtype=view.dtype)
            self.values[name] = make
        found = self.values[name]
        if found.shape[3:] != view.shape[2:] or (self.where[0] is None and found.shape[2] != view.shape[1]):
            raise InputError(
                f"{name!r} has other shapes in other layers ({tuple(found.shape[2:])} and {tuple(view.shape[1:])}), so they "
                f"do not fit one tensor; record layers one by one, as {name.split('.')[0]}.0"
            )
        return found

    def finish(self) -> dict[str, Tensor]:
        """The filled buffers; under ``grad`` they are stacked here, with their graph."""
        if self.grad:
            for name, sites in self.names.items():
                rows = [
                    torch.stack(padded([self._pieces[name, index, prompt] for prompt in range(len(self.where))]))
                    for index in range(len(sites))
                ]
                self.values[name] = torch.stack(rows)
        return self.values


def padded(pieces: list[Tensor]) -> list[Tensor]:
    """Tensors of different lengths, made as long as the longest with NaN."""
    longest = max(len(piece) for piece in pieces)
    return [
        piece
        if len(piece) == longest
        else torch.cat([piece, piece.new_full((longest - len(piece), *piece.shape[1:]), torch.nan)])
        for piece in pieces
    ]
