"""The recorded runs that cells fork from: hidden states where forks happen, keys and values before them, logits.

Called by ``part_runner.py`` at the beginning of each part, and for the source of a patch. In the example of ``docs/engine.md``
the one line runs once; kept are its states on entry to layers 0 and 1, where rows are born, and all keys and values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from patchclamp.interventions.parts import Part
from patchclamp.interventions.passes import Row, forward, outputs_at
from patchclamp.interventions.sweep_task import PromptRun
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site


@dataclass(eq=False)
class Base:
    """One forward pass over some lines of equal length."""

    lines: tuple[int, ...]
    hidden: dict[int, Tensor]
    """Depth -> ``[line, position, d]`` on entry (the number of layers: on exit from the last)."""
    cache: Any
    """Keys and values of every layer, or None."""
    logits: dict[int, Tensor]
    """Number of a prompt's run -> ``[position, vocabulary]`` at the line's read positions."""
    activations: dict[Site, Tensor]
    """``[line, position, d]`` at the sites that reads want."""

    def row(self, line: int) -> int:
        """Where a line stands in the batch."""
        return self.lines.index(line)


def record_base(
    model: OpenModel,
    lines: Mapping[int, PromptRun],
    depths: Iterable[int] = (),
    *,
    cached_layers: int = 0,
    sites: Iterable[Site] = (),
) -> Base:
    """Run lines once, keeping what their cells will need.

    Args:
        model: The model.
        lines: Lines by their numbers, whose prompts have one length (or no tokens).
        depths: Where cells fork.
        cached_layers: How many layers cells will walk that share the positions before an edit; 0 if none do, and no keys and
            values are kept.
        sites: More sites to keep, beside those that reads want.
    """
    count = model.sites.n_layers
    hidden: dict[int, Tensor] = {}
    activations: dict[Site, Tensor] = {}
    taps = {}
    # with a cache every layer that will be walked must run to its end, or its keys and values would be missing
    for depth in {*depths, cached_layers} if cached_layers else depths:
        site = Site("resid_pre", depth) if depth < count else Site("resid_post", count - 1)
        taps[site] = _keep(hidden, depth)
    for site in dict.fromkeys((*sites, *(site for line in lines.values() for site in line.sites))):
        taps[site] = _both(taps.get(site), _keep(activations, site))
    cache = DynamicCache() if cached_layers else None
    rows = [Row(line.prompt, line.base) for line in lines.values()]
    positions = [line.positions for line in lines.values()]
    width = max((len(w) for w in positions), default=0)
    keep = None
    if width and may_narrow(model, lines.values()):
        table = [[*w, *(w[-1:] or (0,)) * (width - len(w))] for w in positions]
        keep = torch.tensor(table, device=model.device)
    extra = {"past_key_values": cache, "use_cache": True} if cached_layers else None
    result = forward(model, rows, taps=taps, logits=width > 0, keep=keep, extra=extra)
    logits = {}
    for index, (number, where) in enumerate(zip(lines, positions, strict=True)):
        if result.logits is not None:
            length = lines[number].prompt.length
            whole = result.logits
            logits[number] = whole[index, : len(where)] if keep is not None else outputs_at(whole, index, where, length)
    return Base(tuple(lines), hidden, cache, logits, activations)


def may_narrow(model: OpenModel, lines: Iterable[PromptRun]) -> bool:
    """Whether unread positions can be kept out of the head: nothing that all cells share is edited there."""
    shared = (action.site.component for line in lines for action in line.base)
    return model.capabilities.narrows and not any(name in ("final_norm", "logits") for name in shared)


def _keep(store: dict[Any, Tensor], key: Any) -> Any:
    def sink(value: Tensor) -> None:
        store[key] = value.detach().clone()

    return sink


def _both(first: Any, second: Any) -> Any:
    if first is None:
        return second

    def sink(value: Tensor) -> None:
        first(value)
        second(value)

    return sink


@dataclass(eq=False)
class _Chosen:
    """What the layers of a cache share; were it the cache itself, a cycle would keep its tensors alive."""

    lines: Tensor | None = None


class PrefixLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that holds the first positions of each line and remembers nothing of the rows that use it."""

    def __init__(self, selection: _Chosen, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.chosen = selection
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Each row's line before it, its own positions after: ``[row, head, position, d_head]``."""
        lines = self.chosen.lines
        if lines is None:
            keys, values = (t.expand(len(key_states), -1, -1, -1) for t in (self.keys, self.values))
        else:
            keys, values = self.keys[lines], self.values[lines]
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self) -> int:
        """Positions before the rows' own."""
        return int(self.keys.shape[2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of keys and values."""
        return self.get_seq_length() + query_length, 0


class PrefixCache(Cache):  # type: ignore[misc]
    """The keys and values of positions before an edit, shared by every row that forks after them."""

    def __init__(self, recorded: Any, start: int) -> None:
        super().__init__(layers=[])
        self._chosen = _Chosen()
        self.layers = [
            PrefixLayer(self._chosen, layer.keys[:, :, :start], layer.values[:, :, :start]) for layer in recorded.layers
        ]
        self.device: torch.device = recorded.layers[0].keys.device

    @property
    def lines(self) -> Tensor | None:
        """``[row]`` line of each row of the call under way; None if there is one line only."""
        return self._chosen.lines

    @lines.setter
    def lines(self, rows: Tensor | None) -> None:
        self._chosen.lines = rows


def embedded_states(model: OpenModel, part: Part, runs: Sequence[int]) -> Tensor:
    """Hidden states on entry to the first layer for runs that edit the embedding, ``[run, position, d]``."""
    states: dict[int, Tensor] = {}
    rows = []
    for run in runs:
        line = part.lines[part.runs[run].line]
        embed_actions = tuple(action for action in part.runs[run].actions if action.site.component == "embed")
        before = tuple(
            action for action in line.base if action.site.component == "embed" or action.site == Site("resid_pre", 0)
        )
        rows.append(Row(line.prompt, (*before, *embed_actions)))
    forward(model, rows, taps={Site("resid_pre", 0): _keep(states, 0)}, logits=False)
    return states[0]


def prefix_is_supported(model: OpenModel) -> bool:
    """Whether the model's forward takes keys and values of earlier positions."""
    return model.causal and not model.sites.family.recurrent and "past_key_values" in model.parameters_of_forward
