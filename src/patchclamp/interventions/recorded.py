"""Buffers that a recording fills: one tensor a requested name, allocated when its first batch arrives.

Called by ``recording.py`` and ``running.py``, whose forward passes fill them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from patchclamp.core.errors import InputError, PositionError
from patchclamp.models.sites import Site


@dataclass(eq=False)
class Buffers:
    """Where each site's values go.

    ``where`` holds the recorded positions of each prompt, or None where inputs have no tokens and all is recorded.
    """

    names: dict[str, list[Site]]
    where: list[tuple[int, ...] | None]
    lengths: list[int | None]
    """Tokens of each prompt: beyond them attention has no keys."""
    grad: bool = False
    values: dict[str, Tensor] = field(default_factory=dict)
    """``[site, prompt, position, ...]``; NaN where a prompt is shorter than the longest."""
    _pieces: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)
    _pooled: set[str] = field(default_factory=set)
    _shapes: dict[tuple[str, int], torch.Size] = field(default_factory=dict)

    def sinks(self, members: Sequence[int]) -> dict[Site, Callable[[Tensor], None]]:
        """For a batch of the given prompts: what to do with each site's ``[row, position, d]``."""
        places: dict[Site, list[tuple[str, int]]] = {}
        for name, sites in self.names.items():
            for index, site in enumerate(sites):
                places.setdefault(site, []).append((name, index))

        def sink_for(targets: list[tuple[str, int]]) -> Callable[[Tensor], None]:
            def sink(view: Tensor) -> None:
                for name, index in targets:
                    self._check(name, members, view)
                    self._put(name, index, members, view)

            return sink

        return {site: sink_for(targets) for site, targets in places.items()}

    def _check(self, name: str, members: Sequence[int], view: Tensor) -> None:
        """A site has one row a prompt, and the layers of a name have one shape."""
        if view.ndim < 3 or len(view) != len(members):
            raise InputError(
                f"{name!r} has shape {tuple(view.shape)} for {len(members)} prompts; [row, position, d] is what can be recorded. "
                "Where prompts lie along another axis, record them one by one"
            )
        self._check_pooled(name, members, view)
        first_shape = self._shapes.setdefault((name, members[0]), view.shape)
        if first_shape[1:] != view.shape[1:]:
            raise InputError(
                f"{name!r} has other shapes in other layers ({tuple(first_shape[1:])} and {tuple(view.shape[1:])}), so they "
                f"do not fit one tensor; record layers one by one, as {name.split('.')[0]}.0"
            )

    def _check_pooled(self, name: str, members: Sequence[int], view: Tensor) -> None:
        """A site above the layers may have one vector for a whole prompt."""
        for member in members:
            where, length = self.where[member], self.lengths[member]
            if where is None or length is None or view.shape[1] > max(where):
                continue
            if view.shape[1] > 1 or where not in (tuple(range(length)), (length - 1,)):
                raise PositionError(
                    f"{name!r} has {view.shape[1]} vectors for a prompt of {length} tokens; if it is one, record it at='all'"
                )
            self._pooled.add(name)

    def _put(self, name: str, index: int, members: Sequence[int], view: Tensor) -> None:
        if self.grad:
            for row, member in enumerate(members):
                self._pieces[name, index, member] = self._of(member, view, row)
            return
        target = self._buffer(name, view, len(members))[index]
        first = members[0]
        alike = len({(self.where[m], self.lengths[m]) for m in members}) == 1
        if alike and list(members) == list(range(first, first + len(members))):
            _fill(target[first : first + len(members)], self._of(first, view, slice(None)), name)
            return
        for row, member in enumerate(members):
            _fill(target[member], self._of(member, view, row), name)

    def _of(self, member: int, view: Tensor, row: int | slice) -> Tensor:
        """What is recorded of one prompt, or of several that are alike; attention has no keys beyond the prompt."""
        where, length = self.where[member], self.lengths[member]
        if where is not None and view.shape[1] <= max(where):
            return view[row]
        if length is not None and _over_tokens(view):
            view = view[..., :length]
        if where is None or where == tuple(range(view.shape[1])):
            return view[row]
        return view[row, list(where)]

    def _buffer(self, name: str, view: Tensor, rows: int) -> Tensor:
        """The buffer of a name: as large as the tokens tell, or as the inputs seen so far need."""
        lengths = [n for n in self.lengths if n is not None]
        size = [max(view.shape[1] if w is None else len(w) for w in self.where), *view.shape[2:]]
        ragged = len({None if w is None else len(w) for w in self.where}) > 1
        if lengths and _over_tokens(view):
            size[-1] = max(lengths)
            ragged = ragged or len(set(lengths)) > 1
        old = self.values.get(name)
        if old is not None:
            size = [max(pair) for pair in zip(size, old.shape[2:], strict=True)]
            if size == list(old.shape[2:]):
                return old
        shape = (len(self.names[name]), len(self.where), *size)
        ragged = ragged or old is not None or (not lengths and rows < len(self.where))
        blank = ragged and view.is_floating_point()
        new = torch.full(shape, torch.nan, dtype=view.dtype) if blank else torch.empty(shape, dtype=view.dtype)
        if old is not None:
            _fill(new, old, name)
        self.values[name] = new
        return new

    def finish(self) -> dict[str, Tensor]:
        """The filled buffers; under ``grad`` they are stacked here, with their graph."""
        if self.grad:
            for name, sites in self.names.items():
                count = len(self.where)
                pieces = padded([self._pieces[name, i, p] for i in range(len(sites)) for p in range(count)], name)
                self.values[name] = torch.stack(pieces).unflatten(0, (len(sites), count))
        return {name: value[:, :, :1] if name in self._pooled else value for name, value in self.values.items()}


def _over_tokens(view: Tensor) -> bool:
    """Whether a view is an attention pattern from every token to every token."""
    return view.ndim == 4 and view.shape[1] == view.shape[3]


def _fill(target: Tensor, value: Tensor, name: str) -> None:
    """Write a value into the corner of a buffer; what it does not reach stays NaN."""
    if value.shape != target.shape:
        _check_nan(value, name)
    target[tuple(slice(0, n) for n in value.shape)].copy_(value)


def _check_nan(value: Tensor, name: str) -> None:
    if not value.is_floating_point():
        raise InputError(
            f"{name!r} holds {str(value.dtype).removeprefix('torch.')} values, which have no NaN to fill up shorter prompts "
            "with; run prompts of equal length"
        )


def padded(pieces: list[Tensor], name: str) -> list[Tensor]:
    """Tensors of different shapes, made as large as the largest in every axis with NaN.

    Raises:
        InputError: They have no NaN, or other axes.
    """
    if len({piece.ndim for piece in pieces}) > 1:
        raise InputError(
            f"{name!r} has {sorted({p.ndim for p in pieces})} axes in different prompts; run them one by one"
        )
    size = [max(n) for n in zip(*(piece.shape for piece in pieces), strict=True)]
    result = []
    for piece in pieces:
        if list(piece.shape) != size:
            _check_nan(piece, name)
            room = [
                n
                for size_here, whole in zip(reversed(piece.shape), reversed(size), strict=True)
                for n in (0, whole - size_here)
            ]
            piece = torch.nn.functional.pad(piece, room, value=torch.nan)
        result.append(piece)
    return result
