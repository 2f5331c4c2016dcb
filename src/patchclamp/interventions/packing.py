"""Packing: short rows of different start positions share one call of a layer.

A row that starts at position s of a prompt of T tokens is T - s tokens long. A row that starts at T - s fits behind it, so
that the two are one row of T tokens whose attention mask keeps them apart; the prompt's recorded keys and values stand
before both, and each sees those before its own start. One matrix product then does the work of many thin ones, which on
every machine run at a fraction of its speed.

``planning.py`` counts what packed calls cost, ``wavefront.py`` makes them. In the example of ``docs/engine.md`` the row of cell 2,
which starts at position 4, fits behind one of cell 0 or 1, which start at position 1.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from transformers.cache_utils import Cache

from patchclamp.interventions.prefix import PrefixCache
from patchclamp.interventions.shared_rows import Group
from patchclamp.models.tensors import Keys, fetch, input_keys, replace_at

Call = tuple[tuple[Any, ...], dict[str, Any]]
ENOUGH = 256
"""Tokens of a call from which matrix products run at full speed, so that packing gains nothing."""
WASTE = 1.1
"""How many tokens a packed row may have for each token of the rows in it."""


@dataclass(frozen=True)
class Place:
    """Where some rows of one start position lie in the packed call."""

    start: int
    rows: slice
    """These rows are meant, counted among those of the start position alone."""
    packed: slice
    """The rows of the call that hold them."""
    column: int
    """Where they begin in those."""


@dataclass(frozen=True)
class Layout:
    """A packed call: which start positions each row holds, and the line it belongs to."""

    places: tuple[Place, ...]
    kinds: tuple[int, ...]
    """For each row of the call the start position of its first part (0: the whole row)."""
    lines: tuple[int, ...]

    @property
    def starts(self) -> set[int]:
        """Start positions whose rows are in it."""
        return {place.start for place in self.places}


def lay_out(length: int, rows: Mapping[int, Sequence[int]], waste: float = WASTE) -> Layout:
    """Pair start positions s and T - s.

    Args:
        length: T, positions of the prompt.
        rows: Start position -> the line of each of its rows.
        waste: Tokens allowed for each token in it; pairs that would need more are left out.
    """
    places: list[Place] = []
    kinds: list[int] = []
    lines: list[int] = []

    def put(start: int, part: slice, at: int, column: int) -> None:
        if part.stop > part.start:
            places.append(Place(start, part, slice(at, at + part.stop - part.start), column))

    for start in sorted(rows):
        rest = length - start
        row_lines, at = rows[start], len(lines)
        if start == 0:
            put(0, slice(0, len(row_lines)), at, 0)
            kinds += [0] * len(row_lines)
            lines += row_lines
        elif start == rest:
            half = (len(row_lines) + 1) // 2
            if (
                list(row_lines[half:]) != list(row_lines[: len(row_lines) - half])
                or half * length > waste * len(row_lines) * start
            ):
                continue
            put(start, slice(0, half), at, 0)
            put(start, slice(half, len(row_lines)), at, rest)
            kinds += [start] * half
            lines += row_lines[:half]
        elif start < rest or rest not in rows:
            long, short = (start, rest) if start < rest else (rest, start)
            first, second = rows.get(long, ()), rows.get(short, ())
            both, most = min(len(first), len(second)), max(len(first), len(second))
            tokens = len(first) * (length - long) + len(second) * (length - short)
            if list(first[:both]) != list(second[:both]) or most * length > waste * tokens:
                continue
            put(long, slice(0, len(first)), at, 0)
            put(short, slice(0, len(second)), at, length - long)
            kinds += [long] * most
            lines += first if len(first) == most else second
    return Layout(tuple(places), tuple(kinds), tuple(lines))


NOTHING = Layout((), (), ())


def layout_at(depth: int, groups: Sequence[Group], waste: float) -> Layout:
    """Which groups of one prompt length are packed at a layer: those too small to keep the machine busy alone."""
    alone = Counter(group.start for group in groups)
    small = {
        group.start: group.steps[depth].lines
        for group in groups
        if alone[group.start] == 1 and 0 < group.steps[depth].rows * group.width < ENOUGH
    }
    layout = lay_out(groups[0].length, small, waste) if waste and len(alone) > 1 else NOTHING
    return layout if len(layout.places) > 1 else NOTHING


class UnpackableError(Exception):
    """A layer takes an argument of which it is not known how it depends on the position."""


@dataclass(eq=False)
class Packer:
    """The layer calls of one base, turned into calls of packed rows."""

    calls: Sequence[Call]
    """As the model makes them for the whole prompt, behind an empty cache."""
    cache: PrefixCache
    """The whole prompt's keys and values."""
    length: int
    causal_mask: Tensor | None
    """``[1, 1, T, T]``, for a call without a mask (if that means a causal one)."""
    mask_keys: Keys | None
    """Where a layer takes its mask, in ``(args, kwargs)``."""
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def call(self, depth: int, layout: Layout) -> Call:
        """A layer's arguments for a layout, but for the hidden states.

        Raises:
            UnpackableError: An argument's shape is none that is known.
        """
        distinct_kinds = sorted(set(layout.kinds))
        index = torch.tensor([distinct_kinds.index(kind) for kind in layout.kinds], device=self.cache.device)
        positions = torch.stack([self._positions(kind) for kind in distinct_kinds])[index]
        masked = False

        def packed(value: Any) -> Any:
            nonlocal masked
            if isinstance(value, Cache):
                return self.cache
            if not isinstance(value, Tensor) or value.ndim == 1:
                return value
            if value.ndim == 4 and value.shape[0] == 1 and value.shape[2:] == (self.length, self.length):
                masked = True
                return torch.stack([self._mask(value, kind) for kind in distinct_kinds])[index]
            if value.shape[:2] == (1, self.length):
                return value[0][positions]
            raise UnpackableError(f"an argument of shape {tuple(value.shape)}")

        args, kwargs = self.calls[depth]
        keys = input_keys(args, kwargs)
        assert keys is not None
        args, kwargs = tree_map(packed, replace_at((args, kwargs), keys, torch.empty(0)))
        if not masked:
            if self.causal_mask is None or self.mask_keys is None or fetch((args, kwargs), self.mask_keys) is not None:
                raise UnpackableError("a layer without an attention mask")
            args, kwargs = replace_at((args, kwargs), self.mask_keys, packed(self.causal_mask))
        return args, kwargs

    def _positions(self, start: int) -> Tensor:
        """Position in the prompt of each column of a row whose first part starts at ``start``."""
        whole = torch.arange(self.length, device=self.cache.device)
        return torch.cat([whole[start:], whole[self.length - start :]])

    def _mask(self, mask: Tensor, start: int) -> Tensor:
        """The prompt's mask for a packed row, ``[head, T, 2T]``: positions before each part's start, then its own."""
        if (id(mask), start) not in self._masks:
            self._masks[id(mask), start] = self._widened(mask, start)
        return self._masks[id(mask), start]

    def _widened(self, mask: Tensor, start: int) -> Tensor:
        position = self._positions(start)
        part = torch.arange(self.length, device=mask.device) >= self.length - start
        begins = torch.where(part, self.length - start, start)
        rows = mask[0][:, position]
        before = torch.arange(self.length, device=mask.device) < begins.unsqueeze(1)
        visible = torch.cat([before, part.unsqueeze(1) == part], dim=1)
        wide = torch.cat([rows, rows[:, :, position]], dim=2)
        shut = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return torch.where(visible, wide, torch.full_like(wide, shut))


def pack(layout: Layout, hidden: Mapping[int, Tensor], length: int) -> Tensor:
    """Hidden states by start position, ``[row, T - s, d]``, as one ``[row, T, d]``."""
    some = next(iter(hidden.values()))
    packed = some.new_zeros(len(layout.kinds), length, some.shape[-1])
    for place in layout.places:
        packed[place.packed, place.column : place.column + length - place.start] = hidden[place.start][place.rows]
    return packed


def unpack(layout: Layout, packed: Tensor, length: int) -> dict[int, Tensor]:
    """The inverse of :func:`pack`."""
    pieces: dict[int, list[Tensor]] = {}
    for place in layout.places:
        part = packed[place.packed, place.column : place.column + length - place.start]
        pieces.setdefault(place.start, []).append(part)
    return {start: parts[0] if len(parts) == 1 else torch.cat(parts) for start, parts in pieces.items()}
