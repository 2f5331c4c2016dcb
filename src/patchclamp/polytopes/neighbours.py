"""Distances and nearest neighbours of packed binary codes, exact, by products of small integers.

The inner product of two codes is the number of bits set in both. With the numbers of bits set in each it gives the Hamming and
the Jaccard distance, so one matrix product of 8-bit integers compares all pairs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.core.errors import InputError, check_choice

Metric = Literal["hamming", "jaccard"]
Engine = Literal["int8", "float32"]
Packed = NDArray[np.uint8]
"""Codes ``[row, byte]``, the first bit of a byte its highest; bits that fill up the last byte are 0."""

QUERIES = 512
BASE = 4096
"""Rows of a block of distances, the fastest of those tried."""
UNPACKED_BYTES = 2**25
"""The size of a block of codes, one byte a bit."""
MOST_BITS = 2**22
"""Above, the keys that order neighbours would not fit 63 bits."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest rows of each query, the nearest first; of equally near ones the first rows are taken, in their order."""

    index: Tensor
    """``[query, k]`` int64, rows of the codes that were searched."""
    distance: Tensor
    """``[query, k]``: bits that differ (int64), or the Jaccard distance (float64)."""


@cache
def engine() -> Engine:
    """What products are made with: 8-bit integers where torch multiplies them on this machine, else float32.

    Both are exact: a float32 product of codes of fewer than 2**24 bits holds whole numbers only.
    """
    ones = torch.ones(32, 32, dtype=torch.int8)
    try:
        has_int8 = bool((torch._int_mm(ones, -ones) == -32).all())
    except (RuntimeError, AttributeError):
        has_int8 = False
    return "int8" if has_int8 else "float32"


def _bits(codes: Packed, kind: Engine) -> Tensor:
    """``[row, bit]`` of 0 and 1, in the type that the engine multiplies."""
    bits = torch.from_numpy(np.unpackbits(codes, axis=1)).view(torch.int8)
    return bits if kind == "int8" else bits.float()


def _products(one: Tensor, other: Tensor) -> Tensor:
    if one.dtype == torch.int8:
        return torch._int_mm(one, other.T)
    return (one @ other.T).to(torch.int32)


def counts(codes: Packed) -> Tensor:
    """Set bits of each row, ``[row]`` int64."""
    return torch.from_numpy(np.bitwise_count(codes).sum(axis=1, dtype=np.int64))


def hamming(one: Packed, other: Packed, kind: Engine | None = None) -> Tensor:
    """Bits that differ, ``[row of one, row of the other]`` int32.

    Args:
        one: Codes ``[row, byte]``.
        other: Codes of as many bytes.
        kind: The engine of the products; the fastest of this machine by default.

    Raises:
        InputError: The codes differ in their number of bytes, or have too many bits.
    """
    _check(one, other)
    row_counts, other_counts = counts(one).int()[:, None], counts(other).int()
    distances = torch.empty(len(one), len(other), dtype=torch.int32)
    for part, block, common in _blocks(one, other, kind):
        distances[part, block] = common.mul_(-2).add_(row_counts[part]).add_(other_counts[block])
    return distances


def jaccard(one: Packed, other: Packed, kind: Engine | None = None) -> Tensor:
    """1 - (bits set in both) / (bits set in either), ``[row of one, row of the other]`` float64; 0 where neither has any.

    The codes, the engine and the errors are those of :func:`hamming`.
    """
    return _jaccard_distance(hamming(one, other, kind), counts(one)[:, None] + counts(other))


def _jaccard_distance(differing: Tensor, set_bits: Tensor) -> Tensor:
    """The Jaccard distance, of the bits that differ and the sum of those set in each."""
    return 2 * differing / (set_bits + differing).double().clamp_(min=1)


def knn(base: Packed, queries: Packed, k: int, metric: Metric = "hamming", kind: Engine | None = None) -> Neighbours:
    """The ``k`` nearest rows of ``base`` for each query, exactly.

    Args:
        base: Codes to search, ``[row, byte]``.
        queries: Codes of as many bytes.
        k: The number of neighbours of each query.
        metric: ``"hamming"`` or ``"jaccard"``.
        kind: The engine of the products; the fastest of this machine by default.

    Raises:
        InputError: Unknown metric, ``k`` outside 1 to the number of rows, or codes that do not match.
    """
    _check(base, queries)
    check_choice("metric", metric, get_args(Metric))
    if not 1 <= k <= len(base):
        raise InputError(f"k = {k}: there are {len(base)} codes to find neighbours among")
    nearness = {"hamming": _by_hamming, "jaccard": _by_jaccard}[metric](queries, base)
    candidates: dict[int, list[Tensor]] = {}
    for part, block, common in _blocks(queries, base, kind):
        width = block.stop - block.start
        nearest = nearness(common, part, block).topk(min(k, width), dim=1).values
        place = width - 1 - nearest.remainder_(width).long()
        candidates.setdefault(part.start, []).append(place + block.start)
    rows = [_merge(queries[first:], base, torch.cat(places, dim=1), k, metric) for first, places in candidates.items()]
    if not rows:
        return Neighbours(torch.empty(0, k, dtype=torch.int64), torch.empty(0, k, dtype=torch.int64))
    return Neighbours(torch.cat([index for index, _ in rows]), torch.cat([distance for _, distance in rows]))


def _merge(queries: Packed, base: Packed, places: Tensor, k: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """The nearest of the best of every block, whose rows ``places`` ``[query, candidate]`` has in the order of the blocks."""
    query_codes = queries[: len(places)]
    differing = torch.stack([counts(query_codes ^ base[column]) for column in places.T.numpy()], dim=1)
    distance = differing
    if metric == "jaccard":
        distance = _jaccard_distance(differing, counts(query_codes)[:, None] + counts(base)[places])
    # stable, and within a block and from block to block equally near ones stand in the order of the rows
    sorted_ = distance.sort(dim=1, stable=True)
    return places.gather(1, sorted_.indices[:, :k]), sorted_.values[:, :k]


Nearness = Callable[[Tensor, slice, slice], Tensor]
"""Keys from the bits set in both, for some queries and a block: whole numbers, all different, larger for nearer rows and, among
equally near ones, for earlier rows; ``width - 1 - row`` is their remainder by the width of the block."""


def _reverse_order(block: slice) -> Tensor:
    return torch.arange(block.stop - block.start - 1, -1, -1)


def _by_hamming(_: Packed, base: Packed) -> Nearness:
    set_bits = counts(base)
    fits_int32 = 2 * 8 * base.shape[1] * BASE < 2**31  # topk of 32-bit numbers is faster

    def nearness(common: Tensor, _: slice, block: slice) -> Tensor:
        width = block.stop - block.start
        tie_break = _reverse_order(block) - width * set_bits[block]
        return (
            common.mul_(2 * width).add_(tie_break.int())
            if fits_int32
            else common.long().mul_(2 * width).add_(tie_break)
        )

    return nearness


def _by_jaccard(queries: Packed, base: Packed) -> Nearness:
    query_counts, base_counts = counts(queries)[:, None], counts(base)
    # two different fractions with denominators up to 2 * bits are further apart than one of these steps
    steps = 2.0 * (16 * base.shape[1]) ** 2

    def nearness(common: Tensor, part: slice, block: slice) -> Tensor:
        set_bits = query_counts[part] + base_counts[block]
        distance = _jaccard_distance(set_bits - 2 * common, set_bits)
        key: Tensor = ((1 - distance) * steps).long()
        return key.mul_(block.stop - block.start).add_(_reverse_order(block))

    return nearness


def _blocks(queries: Packed, base: Packed, kind: Engine | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """The number of bits set in both, block by block: which queries, which rows of the base, ``[query, row]`` int32."""
    engine_kind = engine() if kind is None else kind
    width = max(256, min(BASE, UNPACKED_BYTES // max(8 * base.shape[1], 1)))
    for start in range(0, len(base), width):
        block = slice(start, min(start + width, len(base)))
        rows = _bits(base[block], engine_kind)
        for first in range(0, len(queries), QUERIES):
            part = slice(first, min(first + QUERIES, len(queries)))
            yield part, block, _products(_bits(queries[part], engine_kind), rows)


def _check(one: Any, other: Any) -> None:
    for codes in (one, other):
        if not (isinstance(codes, np.ndarray) and codes.dtype == np.uint8 and codes.ndim == 2):
            shape = getattr(codes, "shape", None)
            raise InputError(f"packed codes [row, byte] of uint8 are wanted; got {type(codes).__name__} {shape}")
    if one.shape[1] != other.shape[1]:
        raise InputError(f"codes of {one.shape[1]} and of {other.shape[1]} bytes cannot be compared")
    if not 0 < 8 * one.shape[1] <= MOST_BITS:
        raise InputError(f"codes of 1 to {MOST_BITS} bits can be compared; these have {8 * one.shape[1]}")
