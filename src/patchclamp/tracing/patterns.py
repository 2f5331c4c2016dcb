"""Attention patterns of any attention implementation, read off through the values.

A head's ``z`` at a query is its attention-weighted sum of values. So with the values replaced by unit vectors, one coordinate
a key, ``z`` *is* the row of the pattern. Beside each probing row runs the prompt itself, whose ``z`` is put back after the
reading: one pass shows all layers as they are in the clean run, with sdpa or flash attention as with eager, and with grouped
heads. A pattern is shown to a visitor layer by layer and never kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from patchclamp.core.digest import digest
from patchclamp.core.errors import ModelError, SiteError
from patchclamp.interventions.actions import Action
from patchclamp.interventions.forward import Row, Sink, forward
from patchclamp.interventions.operations import Operation
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

BATCH_TOKENS = 4096
ALLOWED = {torch.float64: 1e-5, torch.float32: 1e-4}
"""By how much pattern times values may miss ``z``, relative to the largest; some models compute attention in float32."""
ALLOWED_HALF = 3e-2

Visit = Callable[[int, int, Tensor], None]
"""Takes a layer, the first key, and attention ``[prompt, head, query, key]`` to the keys from there on."""


@dataclass(frozen=True, eq=False)
class Keys:
    """Which keys one pass reads off."""

    prompts: int
    """Rows of the batch that stay as they are; groups of as many probing rows follow."""
    first: int
    count: int
    size: int
    """Coordinates of a head: keys that one group of probing rows reads."""

    @property
    def groups(self) -> int:
        """How many groups of probing rows."""
        return -(-self.count // self.size)


@dataclass(frozen=True, eq=False)
class UnitValues(Operation):
    """Values of probing rows: the unit vector of its key at each position that is read, zero elsewhere."""

    keys: Keys
    heads: int

    @override
    def __call__(self, x: Tensor) -> Tensor:
        out = x.clone()
        probes = out[self.keys.prompts :].zero_().unflatten(0, (self.keys.groups, -1)).unflatten(-1, (self.heads, -1))
        for key in range(self.keys.count):
            probes[key // self.keys.size, :, self.keys.first + key, :, key % self.keys.size] = 1
        return out

    @override
    @cached_property
    def key(self) -> str:
        return digest("UnitValues", id(self))


@dataclass(frozen=True, eq=False)
class ReadOff(Operation):
    """Shows what the probing rows' ``z`` says, and puts the prompts' own ``z`` in its place."""

    keys: Keys
    heads: int
    show: Callable[[Tensor], None]

    @override
    def __call__(self, x: Tensor) -> Tensor:
        own = x[: self.keys.prompts]
        probes = x[self.keys.prompts :].unflatten(0, (self.keys.groups, -1)).unflatten(-1, (self.heads, -1))
        pattern = probes.permute(1, 3, 2, 0, 4).flatten(3)  # [prompt, head, query, group * coordinate]
        self.show(pattern[..., : self.keys.count].detach())
        return own.repeat(1 + self.keys.groups, 1, 1)

    @override
    @cached_property
    def key(self) -> str:
        return digest("ReadOff", id(self))


def attention(
    model: OpenModel,
    prompts: Sequence[Prompt],
    visit: Visit,
    *,
    taps: Mapping[Site, Sink] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> None:
    """Show the attention pattern of every layer.

    Args:
        model: The model.
        prompts: Of one length.
        visit: Called in every layer with part of its pattern; only that part is alive.
        taps: Sites to show of the clean run, each ``[prompt, position, d]``, once.
        batch_tokens: Positions a forward pass: the memory knob. (A pass takes at least twice the prompts' own.)

    Raises:
        ModelError: The model has no attention over tokens, or its heads are no weighted sums of their values.
    """
    layers, size = readable(model)
    length = len(prompts[0].ids)
    shown = {site: _of_prompts(sink, len(prompts)) for site, sink in (taps or {}).items()}
    _check_sums(model, prompts[0], layers, size)
    most = max(1, batch_tokens // (len(prompts) * length) - 1) * size
    for first in range(0, length, most):
        keys = Keys(len(prompts), first, min(most, length - first), size)
        _pass(model, prompts, keys, layers, visit, shown if first == 0 else {})


def readable(model: OpenModel) -> tuple[list[int], int]:
    """The layers that have attention, and the coordinates of a head.

    Raises:
        ModelError: The model has no attention heads.
    """
    try:
        values, sums = model.sites.expand("v"), model.sites.expand("z")
    except SiteError as error:
        raise ModelError(f"{type(model.module).__name__} has no attention heads to read patterns of: {error}") from None
    layers = [site.layer for site in sums if site.layer is not None]
    widths = {(model.sites.width(site) or 0) // (model.sites.access(site).units or 1) for site in (*values, *sums)}
    if len(widths) != 1 or not (size := widths.pop()) or [site.layer for site in values] != layers:
        raise ModelError(
            f"the values and sums of {type(model.module).__name__} differ in the size of their heads, so no pattern is read"
        )
    return layers, size


def _pass(
    model: OpenModel,
    prompts: Sequence[Prompt],
    keys: Keys,
    layers: Sequence[int],
    visit: Visit,
    taps: Mapping[Site, Sink],
) -> None:
    """One forward pass."""
    everywhere = tuple(range(len(prompts[0].ids)))
    actions: list[Action] = []
    for layer in layers:
        value, total = Site("v", layer), Site("z", layer)
        probe = UnitValues(keys, model.sites.access(value).units or 1)
        read = ReadOff(keys, model.sites.access(total).units or 1, _showing(visit, layer, keys.first))
        actions += [
            Action(value, everywhere, probe, edit=len(actions)),
            Action(total, everywhere, read, edit=len(actions) + 1),
        ]
    rows = [Row(prompt, tuple(actions)) for _ in range(1 + keys.groups) for prompt in prompts]
    forward(model, rows, taps=taps, logits=False)


def _showing(visit: Visit, layer: int, first: int) -> Callable[[Tensor], None]:
    return lambda pattern: visit(layer, first, pattern)


def _of_prompts(sink: Sink, count: int) -> Sink:
    return lambda value: sink(value[:count])


def _check_sums(model: OpenModel, prompt: Prompt, layers: Sequence[int], size: int) -> None:
    """Multiply the values by the pattern on the prompt's beginning: that must be ``z``."""
    start = prompt.head(size)
    patterns: dict[int, Tensor] = {}
    sums: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}
    taps = {Site(name, layer): _into(held, layer) for name, held in (("z", sums), ("v", values)) for layer in layers}
    keys = Keys(1, 0, len(start.ids), size)
    _pass(model, [start], keys, layers, lambda layer, _, part: patterns.update({layer: part[0]}), taps)
    allowed = ALLOWED.get(model.dtype, ALLOWED_HALF)
    for layer in layers:
        own = values[layer][0].unflatten(-1, (-1, size))
        shared = own.repeat_interleave(len(patterns[layer]) // own.shape[1], dim=1)
        made = torch.einsum("hqk,khd->qhd", patterns[layer].double(), shared).flatten(1)
        error = (made - sums[layer][0]).abs().max() / sums[layer][0].abs().max().clamp(min=1e-30)
        if not error <= allowed:
            raise ModelError(
                f"the heads of layer {layer} of {type(model.module).__name__} are no attention-weighted sums of v "
                f"(they miss z by {float(error):.1e} of it), so their patterns cannot be read"
            )


def _into(store: dict[int, Tensor], layer: int) -> Sink:
    def sink(value: Tensor) -> None:
        store[layer] = value.double()

    return sink
