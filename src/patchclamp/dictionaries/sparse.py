"""What training computes on active latents alone: exact selection in two stages, sums of atoms, and their gradients.

The kernels are ATen's own embedding bags, on any device: a decode gathers the active atoms, the gradient of a value is one
dot product, and that of a matrix is a sum over the entries of each latent. Nothing of shape ``[row, width]`` but the
pre-activations is ever held, and no step waits for the device.
"""

import time
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

_aten = torch.ops.aten
_SUM = 0
"""The mode of an embedding bag that adds."""
_WORTH = 128
"""The number of latents for each one chosen, from which on two stages are faster than one."""


def top_latents(scores: Float[Tensor, "row width"], k: int) -> Int[Tensor, "row k"]:
    """The ``k`` highest latents of each row, in no order.

    Latents are split into groups. The ``k`` highest lie in the ``k`` groups of the highest maxima, so only these are searched.
    """
    width = scores.shape[1]
    size = _group_size(width, k)
    if size < 2:
        return scores.topk(k, dim=1, sorted=False).indices
    groups = width // size
    maxima = scores[:, : groups * size].unflatten(1, (size, groups)).amax(1)
    members = torch.arange(size, device=scores.device) * groups
    latents = (maxima.topk(k, dim=1, sorted=False).indices.unsqueeze(2) + members).flatten(1)
    rest = torch.arange(groups * size, width, device=scores.device).expand(len(scores), -1)
    latents = torch.cat([latents, rest], 1)
    return latents.gather(1, scores.gather(1, latents).topk(k, dim=1, sorted=False).indices)


def top_entries(scores: Float[Tensor, "row width"], count: int) -> Int[Tensor, " count"]:
    """The ``count`` highest entries of a whole matrix, as ``row * width + latent``, in ascending order.

    As :func:`top_latents`, with groups across rows, so that maxima are taken of vectors that lie in memory in order.
    """
    rows, width = scores.shape
    size = min(_group_size(rows * width, count), rows)
    if size < 2:
        return scores.reshape(-1).topk(count, sorted=False).indices.sort().values
    groups = rows // size * width
    maxima = scores[: rows // size * size].unflatten(0, (size, rows // size)).amax(0).reshape(-1)
    members = torch.arange(size, device=scores.device) * groups
    entries = (maxima.topk(count, sorted=False).indices.unsqueeze(1) + members).reshape(-1)
    if size * groups < rows * width:
        entries = torch.cat([entries, torch.arange(size * groups, rows * width, device=scores.device)])
    row = entries.div(width, rounding_mode="floor")
    chosen = scores[row, entries - row * width].topk(count, sorted=False).indices
    highest_entries: Tensor = entries[chosen].sort().values
    return highest_entries


def _group_size(width: int, k: int) -> int:
    """The size of groups that leaves the least to search in both stages."""
    return int((width / k) ** 0.5) if k and width >= _WORTH * k else 1


@dataclass(frozen=True, eq=False)
class Entries:
    """Which latents are active in which rows, in bags: one bag a row, or one for each row and group of latents."""

    latents: Int[Tensor, " entry"]
    bags: Int[Tensor, " entry"]
    """The bag of each entry, ascending."""
    starts: Int[Tensor, " bag"]
    """The entry at which each bag begins."""
    width: int

    @classmethod
    def of_top(cls, latents: Int[Tensor, "row k"], width: int) -> Self:
        """Equally many entries a row."""
        rows, k = latents.shape
        starts = torch.arange(rows, device=latents.device) * k
        return cls(latents.reshape(-1), torch.arange(rows, device=latents.device).repeat_interleave(k), starts, width)

    @classmethod
    def of_flat(cls, flat: Int[Tensor, " entry"], rows: int, width: int) -> Self:
        """Entries ``row * width + latent`` in ascending order."""
        row = flat.div(width, rounding_mode="floor")
        return cls(flat - row * width, row, _starts(row, rows), width)

    def in_groups(self, ends: Int[Tensor, " group"]) -> "Entries":
        """The same entries (sorted by row, then by latent) with a bag for each row and group; groups end before ``ends``."""
        group = torch.searchsorted(ends, self.latents, right=True)
        bags = self.bags * len(ends) + group
        return Entries(self.latents, bags, _starts(bags, len(self.starts) * len(ends)), self.width)

    @cached_property
    def _sizes(self) -> Int[Tensor, " bag"]:
        return torch.empty(0, dtype=self.latents.dtype, device=self.latents.device)  # which only other modes read

    def values(self, scores: Float[Tensor, "row width"]) -> Float[Tensor, " entry"]:
        """What a dense matrix holds at the entries, of which bags are rows."""
        values: Tensor = scores[self.bags, self.latents]
        return values

    def decode(self, values: Float[Tensor, " entry"], atoms: Float[Tensor, "width d"]) -> Float[Tensor, "bag d"]:
        """The weighted sum of each bag's atoms."""
        return embedding_bag(self.latents, atoms, self.starts, mode="sum", per_sample_weights=values)

    def products(self, left: Float[Tensor, "bag d"], matrix: Float[Tensor, "width d"]) -> Float[Tensor, " entry"]:
        """The dot product of each entry's row of ``left`` and of ``matrix``: the gradient of a decode's values."""
        result: Tensor = _aten._embedding_bag_per_sample_weights_backward(
            left, matrix, self.latents, self.starts, self.bags, _SUM, -1
        )
        return result

    def sum_rows(self, values: Float[Tensor, " entry"], left: Float[Tensor, "bag d"]) -> Float[Tensor, "width d"]:
        """For each latent the weighted sum of ``left`` over its entries: the gradient of a decode's atoms."""
        result: Tensor = _aten._embedding_bag_dense_backward(
            left, self.latents, self.bags, self._sizes, self._sizes, self.width, False, _SUM, values, -1
        )
        return result

    def sum_values(self, values: Float[Tensor, " entry"]) -> Float[Tensor, " width"]:
        """For each latent the sum of its entries' values."""
        return values.new_zeros(self.width).index_add_(0, self.latents, values)


def _starts(bags: Int[Tensor, " entry"], count: int) -> Int[Tensor, " bag"]:
    return torch.searchsorted(bags, torch.arange(count, device=bags.device))


@cache
def selection_dtype(device: torch.device, rows: int, d: int, width: int) -> torch.dtype:
    """The type in which latents are chosen fastest here: bfloat16 where that was measured to be so, else float32.

    Only where the hardware has products of bfloat16 is anything measured, once a process for each size.
    """
    if device.type == "cpu" and not (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.float32
    x, weight = torch.randn(rows, d, device=device), torch.randn(width, d, device=device)

    def seconds(dtype: torch.dtype) -> float:
        times = []
        for _ in range(4):
            _wait(device)
            began = time.perf_counter()
            x.to(dtype) @ weight.to(dtype).T
            _wait(device)
            times.append(time.perf_counter() - began)
        return min(times[1:])

    return torch.bfloat16 if seconds(torch.bfloat16) < 0.8 * seconds(torch.float32) else torch.float32


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
