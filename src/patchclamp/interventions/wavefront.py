"""The wavefront: every run of a sweep walks the layers once, together, on the model's own modules.

At each layer the live rows of all groups are run, group after group, so that a layer's weights are read from memory
once. Rows are born at their first edit from the recorded clean state, positions before it exist only as recorded keys
and values, and only the positions that a read needs go through the head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from patchclamp.core.errors import NotFiredError
from patchclamp.interventions.actions import Action, Tally, instructions
from patchclamp.interventions.base import Base, PrefixCache, embedded_states
from patchclamp.interventions.forward import call, make_tap
from patchclamp.interventions.hooks import Instruction, Port, Session, bypassed, ports_of
from patchclamp.interventions.job import Job, index_like, layer_of
from patchclamp.interventions.trie import CLEAN, EMBEDDED, ROW, Group, Step
from patchclamp.models.inputs import Batch
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.models.tensors import fetch, first_tensor, input_keys, replace_at


@dataclass(eq=False)
class Front:
    """A group under way."""

    group: Group
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    """Arguments of each layer's call at these positions, as the model itself makes them."""
    cache: PrefixCache | None
    hidden: Tensor | None = None
    """``[row, position, d]`` after the last step."""
    seen: dict[Site, Tensor] = field(default_factory=dict)
    """``[run, position, d]`` at the sites that reads want, all positions."""


@dataclass(eq=False)
class Walk:
    """Groups of one base on their way through the layers."""

    job: Job
    base: Base
    fronts: list[Front]

    @classmethod
    def begin(cls, job: Job, base: Base, groups: Sequence[Group]) -> "Walk":
        """Prepare the layer calls of every group; those that start at the same position share them."""
        captured: dict[tuple[int, int], tuple[list[Any], PrefixCache | None]] = {}
        fronts = []
        for group in groups:
            key = (group.start, group.length)
            if key not in captured:
                captured[key] = capture_calls(job.model, base, group)
            fronts.append(Front(group, *captured[key]))
        return cls(job, base, fronts)

    @property
    def model(self) -> OpenModel:
        """The model."""
        return self.job.model

    def through_layers(self, advance: Callable[[int], None]) -> None:
        """Run every group through every layer.

        Args:
            advance: Told how many rows passed a layer.
        """
        sites, layers = self.model.sites, self.model.sites.layers
        wanted = {site: layer_of(site, layers) for line in self.base.lines for site in self.job.lines[line].sites}
        actions = (a for front in self.fronts for step in front.group.steps[:-1] for row in step.inside for a in row)
        ports = [sites.access(action.site).port for action in actions]
        ports += [sites.access(site).port for site in wanted if site.component != "resid_post"]
        with torch.no_grad(), Session(sites.modules, 1, 1) as session:
            for port in dict.fromkeys(ports):
                session.watch(port)
            for depth in range(self.job.depth):
                here = [site for site, layer in wanted.items() if layer == depth and site.component != "resid_post"]
                for front in self.fronts:
                    step = front.group.steps[depth]
                    if step.rows:
                        hidden = self.enter(front, depth)
                        session.rows, session.width = step.rows, front.group.width
                        session.instructions = self._instructions(step.inside, front.group)
                        session.taps = ports_of(
                            make_tap(self.model, site, self._keeper(front, step, site)) for site in here
                        )
                        session.calls.clear()
                        front.hidden = self._run_layer(front, step, depth, hidden)
                        _check_fired(session)
                        advance(step.rows)

    def enter(self, front: Front, depth: int) -> Tensor:
        """Hidden states of a step's rows on entry to its layer, with the edits of the stream between layers done."""
        step = front.group.steps[depth]
        hidden = self._assemble(front, step, depth)
        previous = Site("resid_post", depth - 1)
        todo = self._instructions(step.entry, front.group)
        for port in sorted(todo, key=lambda port: port[1] == "in"):
            if port[1] == "out":
                hidden = _apply(todo[port], hidden)
        if any(previous in self.job.lines[line].sites for line in self.base.lines):
            self._keeper(front, step, previous)(hidden)
        for port in todo:
            if port[1] == "in":
                hidden = _apply(todo[port], hidden)
        return hidden

    def _assemble(self, front: Front, step: Step, depth: int) -> Tensor:
        """Rows carried over from the layer below, and rows that are born here."""
        start = front.group.start
        by_kind = {
            kind: [i for i, parent in enumerate(step.parents) if parent[0] == kind] for kind in (ROW, CLEAN, EMBEDDED)
        }
        chosen = {kind: [step.parents[i][1] for i in places] for kind, places in by_kind.items()}
        pieces: list[Tensor] = []
        if chosen[ROW]:
            assert front.hidden is not None
            kept = chosen[ROW] == list(range(len(front.hidden)))
            pieces.append(front.hidden if kept else front.hidden[index_like(chosen[ROW], front.hidden.device)])
        if chosen[CLEAN]:
            recorded = self.base.hidden[depth][:, start:]
            lines = [self.base.row(line) for line in chosen[CLEAN]]
            one = len(recorded) == 1
            pieces.append(recorded.expand(len(lines), -1, -1) if one else recorded[index_like(lines, recorded.device)])
        if chosen[EMBEDDED]:
            pieces.append(embedded_states(self.job, chosen[EMBEDDED])[:, start:])
        hidden = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        order = [*by_kind[ROW], *by_kind[CLEAN], *by_kind[EMBEDDED]]
        if order == sorted(order):
            return hidden
        back = sorted(range(len(order)), key=order.__getitem__)
        return hidden[index_like(back, hidden.device)]

    def _instructions(self, rows: Sequence[tuple[Action, ...]], group: Group) -> dict[Port, list[Instruction]]:
        if not any(rows):
            return {}
        starts = [group.start] * len(rows)
        return instructions(self.model.sites, rows, starts, group.width, self.model.device, Tally.empty())

    def _run_layer(self, front: Front, step: Step, depth: int, hidden: Tensor) -> Tensor:
        """Call the layer on the rows, with the arguments that the model itself would give it."""
        args, kwargs = front.calls[depth]
        if front.cache is not None:
            rows = [self.base.row(line) for line in step.lines]
            front.cache.lines = None if len(self.base.lines) == 1 else index_like(rows, hidden.device)
        repeated = self.model.sites.family.row_kwargs
        kwargs = {
            name: _repeat(v, step.rows) if name in repeated else _spread(v, step.rows) for name, v in kwargs.items()
        }
        args = tuple(_spread(value, step.rows) for value in args)
        keys = input_keys(args, kwargs)
        assert keys is not None
        args, kwargs = replace_at((args, kwargs), keys, hidden)
        output = self.model.sites.modules[self.model.sites.layers[depth]](*args, **kwargs)
        found: Tensor = fetch(output, first_tensor(output) or ())
        return found

    def _keeper(self, front: Front, step: Step, site: Site) -> Callable[[Tensor], None]:
        """Keeps what a read wants of this step: each run's own row, from its first computed position on."""

        def keep(view: Tensor) -> None:
            values = self.seen(front, site)
            for place, run in enumerate(front.group.runs):
                if run in step.row_of:
                    values[place, front.group.start :] = view[step.row_of[run]]

        return keep

    def seen(self, front: Front, site: Site) -> Tensor:
        """Activations of a front's runs at a site, ``[run, position, d]``; the line's own where a run is no row."""
        if site not in front.seen:
            rows = [self.base.row(self.job.runs[run].line) for run in front.group.runs]
            front.seen[site] = self.base.activations[site][rows].clone()
        return front.seen[site]


def capture_calls(model: OpenModel, base: Base, group: Group) -> tuple[list[Any], PrefixCache | None]:
    """Let the model's own forward prepare each layer's call (masks, rotary tables) for the group's positions."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    cache = PrefixCache(base.cache, group.start) if group.start else None
    layers = [model.sites.modules[path] for path in model.sites.layers]
    ids = torch.zeros(1, group.width, dtype=torch.long, device=model.device)
    extra = {"past_key_values": cache, "use_cache": True} if cache is not None else None
    last = make_tap(model, Site("resid_post", len(layers) - 1), lambda _: None)
    ending = Session(model.sites.modules, 1, group.width, taps=ports_of([last]), stop_early=True)
    with torch.no_grad(), bypassed(layers, model.arity, seen=seen), ending:
        call(model, Batch((), {"input_ids": ids}, (group.width,)), extra)
    return seen, cache


def _apply(todo: Sequence[Instruction], hidden: Tensor) -> Tensor:
    for instruction in todo:
        hidden = instruction.apply(hidden)
    return hidden


def _spread(value: Any, rows: int) -> Any:
    """One row's argument, for all rows (a view: nothing may write to it)."""

    def spread(item: Any) -> Any:
        single = isinstance(item, Tensor) and item.ndim > 1 and item.shape[0] == 1
        return item.expand(rows, *item.shape[1:]) if single else item

    return tree_map(spread, value)


def _repeat(value: Any, rows: int) -> Any:
    return value.repeat(rows, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value


def _check_fired(session: Session) -> None:
    for port in session.instructions:
        if session.calls[port] != 1:
            raise NotFiredError(
                f"the site at {port[0]}:{port[1]} was met {session.calls[port]} times in one layer call; nothing was returned"
            )
