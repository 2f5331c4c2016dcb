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
from patchclamp.interventions import Action, Operation, Row, Sink, forward
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

BATCH_TOKENS = 4096
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4}
"""The error that pattern times values may have, relative to the largest ``z``; some models compute attention in float32."""
HALF_TOLERANCE = 3e-2

Visit = Callable[[int, int, Tensor], None]
"""Takes a layer, the first key, and attention ``[prompt, head, query, key]`` to the keys from there on."""


@dataclass(frozen=True, eq=False)
class Keys:
    """The keys that one pass reads off."""

    prompts: int
    """Rows of the batch that stay as they are; groups of as many probing rows follow."""
    first: int
    count: int
    size: int
    """The number of coordinates of a head: keys that one group of probing rows reads."""

    @property
    def groups(self) -> int:
        """The number of groups of probing rows."""
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
        z = x[: self.keys.prompts]
        probes = x[self.keys.prompts :].unflatten(0, (self.keys.groups, -1)).unflatten(-1, (self.heads, -1))
        pattern = probes.permute(1, 3, 2, 0, 4).flatten(3)  # [prompt, head, query, group * coordinate]
        self.show(pattern[..., : self.keys.count].detach())
        return z.repeat(1 + self.keys.groups, 1, 1)

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
        prompts: The prompts, all of one length.
        visit: The function that is called in every layer with part of its pattern; only that part is alive.
        taps: The sites to show of the clean run, each ``[prompt, position, d]``, once.
        batch_tokens: The number of positions in a forward pass: the memory knob. (A pass takes at least twice the prompts' own.)

    Raises:
        ModelError: The model has no attention over tokens, or its heads are no weighted sums of their values.
    """
    layers, size = readable(model)
    length = len(prompts[0].ids)
    prompt_taps = {site: _prompt_sink(sink, len(prompts)) for site, sink in (taps or {}).items()}
    _check_sums(model, prompts[0], layers, size)
    keys_in_pass = max(1, batch_tokens // (len(prompts) * length) - 1) * size
    for first in range(0, length, keys_in_pass):
        keys = Keys(len(prompts), first, min(keys_in_pass, length - first), size)
        _pass(model, prompts, keys, layers, visit, prompt_taps if first == 0 else {})


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
    """Run one forward pass that reads off the pattern of some keys."""
    all_positions = tuple(range(len(prompts[0].ids)))
    actions: list[Action] = []
    for layer in layers:
        value_site, z_site = Site("v", layer), Site("z", layer)
        probe = UnitValues(keys, model.sites.access(value_site).units or 1)
        read = ReadOff(keys, model.sites.access(z_site).units or 1, _pattern_visitor(visit, layer, keys.first))
        actions += [
            Action(value_site, all_positions, probe, edit=len(actions)),
            Action(z_site, all_positions, read, edit=len(actions) + 1),
        ]
    rows = [Row(prompt, tuple(actions)) for _ in range(1 + keys.groups) for prompt in prompts]
    forward(model, rows, taps=taps, logits=False)


def _pattern_visitor(visit: Visit, layer: int, first: int) -> Callable[[Tensor], None]:
    return lambda pattern: visit(layer, first, pattern)


def _prompt_sink(sink: Sink, count: int) -> Sink:
    return lambda value: sink(value[:count])


def _check_sums(model: OpenModel, prompt: Prompt, layers: Sequence[int], size: int) -> None:
    """Multiply the values by the pattern on the prompt's beginning: that must be ``z``."""
    beginning = prompt.head(size)
    patterns: dict[int, Tensor] = {}
    z_values: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}
    taps = {
        Site(name, layer): _recorder(store, layer)
        for name, store in (("z", z_values), ("v", values))
        for layer in layers
    }
    keys = Keys(1, 0, len(beginning.ids), size)
    _pass(model, [beginning], keys, layers, lambda layer, _, part: patterns.update({layer: part[0]}), taps)
    tolerance = TOLERANCES.get(model.dtype, HALF_TOLERANCE)
    for layer in layers:
        layer_values = values[layer][0].unflatten(-1, (-1, size))
        head_values = layer_values.repeat_interleave(len(patterns[layer]) // layer_values.shape[1], dim=1)
        product = torch.einsum("hqk,khd->qhd", patterns[layer].double(), head_values).flatten(1)
        error = (product - z_values[layer][0]).abs().max() / z_values[layer][0].abs().max().clamp(min=1e-30)
        if not error <= tolerance:
            raise ModelError(
                f"the heads of layer {layer} of {type(model.module).__name__} are no attention-weighted sums of v "
                f"(they miss z by {float(error):.1e} of it), so their patterns cannot be read"
            )


def _recorder(store: dict[int, Tensor], layer: int) -> Sink:
    def sink(value: Tensor) -> None:
        store[layer] = value.double()

    return sink
