"""The end of a forward pass, again and again with gradients: what an edit cannot reach is recorded once.

Called by methods that search for a vector (``rewriting``) or clean states layer by layer (``directions``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from patchclamp.core.interrupts import within
from patchclamp.interventions.actions import Action, instructions
from patchclamp.interventions.hooks import Session, bypassed, ports_of
from patchclamp.interventions.operations import Operation
from patchclamp.interventions.passes import Row, Sink, call, forward, last_logits, make_tap, through_head
from patchclamp.interventions.prefix import PrefixCache
from patchclamp.models.inputs import Batch, Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site


def resume(model: OpenModel, prompts: Sequence[Prompt], layer: int, states: Tensor, taps: Mapping[Site, Sink]) -> None:
    """Run a model from one of its layers on; the layers below stand aside, and the pass ends at the last tap.

    Args:
        model: The model.
        prompts: Whose states these are.
        layer: The first layer that runs.
        states: ``[row, position, d_model]`` on entry to it.
        taps: Sites to show, and who gets each ``[row, position, d]``.
    """
    below = [model.sites.modules[path] for path in model.sites.layers[:layer]]
    batch = model.batch(list(prompts))
    tapped = ports_of(make_tap(model, site, sink) for site, sink in taps.items())
    session = Session(model.sites.modules, len(prompts), batch.width or 1, {}, tapped, stop_early=True)
    within((torch.no_grad(), bypassed(below, model.capabilities.arity, inject=states), session), call, model, batch)


@dataclass(frozen=True, eq=False)
class PromptGroup:
    """Prompts whose edits begin at the same position, and what stands before it."""

    members: tuple[int, ...]
    start: int
    ids: Tensor
    """``[row, position]`` from the start on, padded on the right."""
    entry: Tensor
    """``[row, position, d_model]`` on entry to the edited layer, from the start on."""
    cache: PrefixCache | None
    """Keys and values before the start."""
    last: Tensor
    """``[row]`` column of each prompt's last token."""


@dataclass(frozen=True, eq=False)
class Tail:
    """Prompts that are edited at one position each, in one layer: the logits after each, with gradients.

    Layers below the edit and positions before it are recorded once; the model's own modules run the rest. Where a model
    cannot share that much (its ladder says so), each run is a whole forward pass with the same numbers.
    """

    model: OpenModel
    prompts: tuple[Prompt, ...]
    site: Site
    layer: int
    positions: tuple[int, ...]
    groups: tuple[PromptGroup, ...] | None

    @classmethod
    def record(
        cls, model: OpenModel, prompts: Sequence[Prompt], site: Site, layer: int, positions: Sequence[int]
    ) -> "Tail":
        """Run what no edit can reach.

        Args:
            model: The model.
            prompts: Made of tokens.
            site: What will be edited; inside ``layer``, or on its entry.
            layer: Where sharing ends.
            positions: Where, one a prompt.
        """
        groups = None
        if model.ladder.strategy == "wavefront":
            by_start: dict[int, list[int]] = {}
            for index, position in enumerate(positions):
                by_start.setdefault(position, []).append(index)
            groups = tuple(_group(model, prompts, layer, start, members) for start, members in by_start.items())
        return cls(model, tuple(prompts), site, layer, tuple(positions), groups)

    def logits(self, operation: Operation) -> Tensor:
        """Logits of the next token after each prompt, ``[prompt, vocabulary]``, under an operation at the positions."""
        acts = [(Action(self.site, (position,), operation),) for position in self.positions]
        if self.groups is None:
            return self._whole(acts)
        logits: dict[int, Tensor] = {}
        for group in self.groups:
            rows = self._run(group, [acts[i] for i in group.members])
            logits |= dict(zip(group.members, rows, strict=True))
        return torch.stack([logits[i] for i in range(len(self.prompts))])

    def _whole(self, acts: Sequence[tuple[Action, ...]]) -> Tensor:
        rows = [Row(prompt, row_actions) for prompt, row_actions in zip(self.prompts, acts, strict=True)]
        return last_logits(self.model, rows, grad=True)

    def _run(self, group: PromptGroup, acts: Sequence[tuple[Action, ...]]) -> Tensor:
        model, sites, (rows, width) = self.model, self.model.sites, group.ids.shape
        layers = [sites.modules[path] for path in sites.layers]
        todo = instructions(sites, acts, [group.start] * rows, width, model.device, None)
        states: list[Tensor] = []
        taps = ports_of([make_tap(model, Site("resid_post", len(layers) - 1), states.append)])
        extra = {"past_key_values": group.cache, "use_cache": True} if group.cache is not None else None
        below = bypassed(layers[: self.layer], model.capabilities.arity, inject=group.entry)
        session = Session(sites.modules, rows, width, todo, taps, stop_early=True)
        within((below, session), call, model, Batch((), {"input_ids": group.ids}, (width,) * rows), extra)
        ends = states[0][torch.arange(rows, device=model.device), group.last]
        return through_head(model, ends.unsqueeze(1))[:, 0]


def _group(model: OpenModel, prompts: Sequence[Prompt], layer: int, start: int, members: Sequence[int]) -> PromptGroup:
    """Record the prompts that share a start."""
    entry: list[Tensor] = []
    cache = DynamicCache() if start else None
    extra: dict[str, Any] | None = {"past_key_values": cache, "use_cache": True} if start else None
    first, last = Site("resid_pre", layer), Site("resid_post", model.sites.n_layers - 1)
    # every layer must run to its end, or its keys and values would be missing
    taps = {first: entry.append} | ({last: lambda _: None} if start else {})
    forward(model, [Row(prompts[i]) for i in members], taps=taps, logits=False, extra=extra)
    ids = model.batch([prompts[i] for i in members]).kwargs["input_ids"][:, start:]
    ends = torch.tensor([len(prompts[i].ids) - 1 - start for i in members], device=model.device)
    before = PrefixCache(cache, start) if start else None
    return PromptGroup(tuple(members), start, ids, entry[0][:, start:].clone(), before, ends)
