"""The wavefront: every run of a sweep walks the layers once, together, on the model's own modules.

Called by ``part_runner.py`` once the lines were recorded. At each layer the live rows of all groups are run, small groups packed
into one call, so that a layer's weights are read from memory once. Rows are born at their first edit from the recorded clean state,
positions before it exist only as recorded keys and values, and only the positions that a read needs go through the head.
In the example of ``docs/engine.md`` layer 0 runs one row of four positions; layers 1 and 2 run two of four and one of one.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from patchclamp.core.errors import NotFiredError
from patchclamp.core.interrupts import within
from patchclamp.interventions.actions import Action, from_position, instructions
from patchclamp.interventions.hooks import Instruction, Port, Session, bypassed, ports_of
from patchclamp.interventions.packing import Layout, Packer, UnpackableError, layout_at, pack, unpack
from patchclamp.interventions.parts import Part
from patchclamp.interventions.passes import call, make_tap
from patchclamp.interventions.prefix import Base, PrefixCache, embedded_states
from patchclamp.interventions.shared_rows import CLEAN, EMBEDDED, ROW, Group, Step
from patchclamp.interventions.sweep_task import index_like, layer_of
from patchclamp.models.inputs import Batch
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.models.tensors import Keys, fetch, first_tensor, input_keys, replace_at


@dataclass(eq=False)
class GroupState:
    """A group under way."""

    group: Group
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    """Arguments of each layer's call at these positions, as the model itself makes them."""
    cache: PrefixCache | None
    hidden: Tensor | None = None
    """``[row, position, d]`` after the last step."""
    seen: dict[tuple[int, Site], Tensor] = field(default_factory=dict)
    """By run and site ``[position, d]``, at the positions that reads want."""


@dataclass(eq=False)
class LayerLoop:
    """Groups of one base on their way through the layers."""

    model: OpenModel
    part: Part
    base: Base
    fronts: list[GroupState]
    packer: Packer | None = None

    @classmethod
    def begin(cls, model: OpenModel, part: Part, base: Base) -> "LayerLoop":
        """Prepare the layer calls of every group; those that start at the same position share them.

        Args:
            model: The model.
            part: What to run.
            base: The recorded run of its lines, which have one length.
        """
        captured: dict[int, tuple[list[Any], PrefixCache | None]] = {}
        for group in part.groups:
            if group.start not in captured:
                captured[group.start] = capture_calls(model, base, group.start, group.length)
        fronts = [GroupState(group, *captured[group.start]) for group in part.groups]
        packer = make_packer(model, base, part.groups[0].length) if part.waste and len(captured) > 1 else None
        return cls(model, part, base, fronts, packer)

    def through_layers(self, advance: Callable[[int], None]) -> None:
        """Run every group through every layer.

        Args:
            advance: Told how many rows passed a layer.
        """
        sites, layers = self.model.sites, self.model.sites.layers
        layer_by_site = {
            site: layer_of(site, layers) for line in self.base.lines for site in self.part.lines[line].sites
        }
        actions = (a for front in self.fronts for step in front.group.steps[:-1] for row in step.inside for a in row)
        ports = [sites.access(action.site).port for action in actions]
        ports += [sites.access(site).port for site in layer_by_site if site.component != "resid_post"]
        session = Session(sites.modules, 1, 1, {port: [] for port in ports})
        within((torch.no_grad(), session), self._walk, session, layer_by_site, advance)

    def _walk(self, session: Session, layer_by_site: Mapping[Site, int], advance: Callable[[int], None]) -> None:
        groups = [front.group for front in self.fronts]
        for depth in range(self.part.depth):
            sites = [site for site, layer in layer_by_site.items() if layer == depth and site.component != "resid_post"]
            layout = layout_at(depth, groups, self.part.waste if self.packer and not sites else 0.0)
            if layout.places:
                self._run_packed(session, layout, depth)
            for front in self.fronts:
                step = front.group.steps[depth]
                if step.rows and front.group.start not in layout.starts:
                    hidden = self.enter(front, depth)
                    session.rows, session.width = step.rows, front.group.width
                    session.instructions = self._instructions(step.inside, front.group)
                    session.taps = ports_of(
                        make_tap(self.model, site, self._keeper(front, step, site)) for site in sites
                    )
                    front.hidden = self._run_layer(session, front, step, depth, hidden)
                advance(step.rows)

    def _run_packed(self, session: Session, layout: Layout, depth: int) -> None:
        """Run the groups of a layout through a layer in one call."""
        assert self.packer is not None
        length = self.packer.length
        fronts = {front.group.start: front for front in self.fronts if front.group.start in layout.starts}
        entered = {start: self.enter(front, depth) for start, front in fronts.items()}
        rows: list[tuple[Action, ...]] = []
        starts: list[int] = []
        batch_rows: list[int] = []
        for place in layout.places:
            inside = fronts[place.start].group.steps[depth].inside[place.rows]
            rows += [tuple(from_position(action, place.start) for action in row_actions) for row_actions in inside]
            starts += [place.start - place.column] * len(inside)
            batch_rows += range(place.packed.start, place.packed.stop)
        session.rows, session.width, session.taps = len(layout.kinds), length, {}
        session.instructions = instructions(self.model.sites, rows, starts, length, self.model.device, None, batch_rows)
        args, kwargs = self.packer.call(depth, layout)
        self._choose_lines(self.packer.cache, layout.lines)
        after = unpack(layout, self._call_layer(session, depth, args, kwargs, pack(layout, entered, length)), length)
        for start, front in fronts.items():
            front.hidden = after[start]

    def enter(self, front: GroupState, depth: int) -> Tensor:
        """Hidden states of a step's rows on entry to its layer, with the edits of the stream between layers done."""
        step = front.group.steps[depth]
        hidden = self._assemble(front, step, depth)
        previous = Site("resid_post", depth - 1)
        todo = self._instructions(step.entry, front.group)
        for port in sorted(todo, key=lambda port: port[1] == "in"):
            if port[1] == "out":
                hidden = _apply(todo[port], hidden)
        if any(previous in self.part.lines[line].sites for line in self.base.lines):
            self._keeper(front, step, previous)(hidden)
        for port in todo:
            if port[1] == "in":
                hidden = _apply(todo[port], hidden)
        return hidden

    def keep_last(self, front: GroupState) -> None:
        """Keep what is read of the stream after the last walked layer, where that is not the model's last."""
        if front.group.steps[self.part.depth].rows:
            self.enter(front, self.part.depth)

    def _assemble(self, front: GroupState, step: Step, depth: int) -> Tensor:
        """Rows carried over from the layer below, and rows that are born here."""
        start = front.group.start
        by_kind = {
            kind: [i for i, parent in enumerate(step.parents) if parent[0] == kind] for kind in (ROW, CLEAN, EMBEDDED)
        }
        indices = {kind: [step.parents[i][1] for i in places] for kind, places in by_kind.items()}
        pieces: list[Tensor] = []
        if indices[ROW]:
            assert front.hidden is not None
            unchanged = indices[ROW] == list(range(len(front.hidden)))
            pieces.append(front.hidden if unchanged else front.hidden[index_like(indices[ROW], front.hidden.device)])
        if indices[CLEAN]:
            recorded = self.base.hidden[depth][:, start:]
            lines = [self.base.row(line) for line in indices[CLEAN]]
            one = len(recorded) == 1
            pieces.append(recorded.expand(len(lines), -1, -1) if one else recorded[index_like(lines, recorded.device)])
        if indices[EMBEDDED]:
            pieces.append(embedded_states(self.model, self.part, indices[EMBEDDED])[:, start:])
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
        return instructions(self.model.sites, rows, starts, group.width, self.model.device, None)

    def _run_layer(self, session: Session, front: GroupState, step: Step, depth: int, hidden: Tensor) -> Tensor:
        """Call the layer on the rows, with the arguments that the model itself would give it."""
        args, kwargs = front.calls[depth]
        if front.cache is not None:
            self._choose_lines(front.cache, step.lines)
        repeated = self.model.sites.family.row_kwargs
        kwargs = {
            name: _repeat(v, step.rows) if name in repeated else _spread(v, step.rows) for name, v in kwargs.items()
        }
        args = tuple(_spread(value, step.rows) for value in args)
        return self._call_layer(session, depth, args, kwargs, hidden)

    def _choose_lines(self, cache: PrefixCache, lines: Sequence[int]) -> None:
        rows = [self.base.row(line) for line in lines]
        cache.lines = None if len(self.base.lines) == 1 else index_like(rows, self.model.device)

    def _call_layer(
        self, session: Session, depth: int, args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor
    ) -> Tensor:
        keys = input_keys(args, kwargs)
        assert keys is not None
        args, kwargs = replace_at((args, kwargs), keys, hidden)
        session.calls.clear()
        output = self.model.sites.modules[self.model.sites.layers[depth]](*args, **kwargs)
        _check_fired(session)
        hidden_out: Tensor = fetch(output, first_tensor(output) or ())
        return hidden_out

    def _keeper(self, front: GroupState, step: Step, site: Site) -> Callable[[Tensor], None]:
        """Keeps what a read wants of this step: each run's own row, where it was computed."""

        def keep(view: Tensor) -> None:
            for run, row in step.row_of.items():
                line = self.part.lines[self.part.runs[run].line]
                late = [i for i, p in enumerate(line.wanted(site)) if p >= front.group.start]
                if late:
                    where = [line.wanted(site)[i] - front.group.start for i in late]
                    self.seen(front, run, site)[late] = view[row, where]

        return keep

    def seen(self, front: GroupState, run: int, site: Site) -> Tensor:
        """Activations of a run where its reads want them, ``[position, d]``; the line's own where the run is no row."""
        if (run, site) not in front.seen:
            number = self.part.runs[run].line
            baseline = self.base.activations[site][self.base.row(number)]
            front.seen[run, site] = self.part.lines[number].states(site, baseline.unsqueeze(0))[0].clone()
        return front.seen[run, site]

    def release(self) -> None:
        """Let go of what only the layers needed."""
        self.base.cache = self.packer = None
        self.base.hidden = {depth: state for depth, state in self.base.hidden.items() if depth == self.part.depth}
        for front in self.fronts:
            front.cache, front.calls = None, []


def capture_calls(
    model: OpenModel, base: Base, start: int, length: int, cached: bool = False
) -> tuple[list[Any], PrefixCache | None]:
    """Let the model's own forward prepare each layer's call (masks, rotary tables) for positions from ``start`` on.

    Args:
        model: The model.
        base: Whose keys and values stand before ``start``.
        start: First position.
        length: The prompt has this many tokens.
        cached: Pass a cache even if it is empty.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    cache = PrefixCache(base.cache, start) if start or cached else None
    width = length - start
    layers = [model.sites.modules[path] for path in model.sites.layers]
    ids = torch.zeros(1, width, dtype=torch.long, device=model.device)
    extra = {"past_key_values": cache, "use_cache": True} if cache is not None else None
    last = make_tap(model, Site("resid_post", len(layers) - 1), lambda _: None)
    ending = Session(model.sites.modules, 1, width, taps=ports_of([last]), stop_early=True)
    around = (torch.no_grad(), bypassed(layers, model.capabilities.arity, calls=calls), ending)
    within(around, call, model, Batch((), {"input_ids": ids}, (width,)), extra)
    return calls, cache


def make_packer(model: OpenModel, base: Base, length: int) -> Packer | None:
    """What packs this model's layer calls; None if some argument of a layer is not understood."""
    calls, _ = capture_calls(model, base, 0, length, cached=True)
    causal = torch.ones(1, 1, length, length, dtype=torch.bool, device=model.device).tril()
    implicit = getattr(model.text_config, "_attn_implementation", None) == "sdpa"
    keys = _mask_keys(model.sites.modules[model.sites.layers[0]], *calls[0])
    packer = Packer(calls, PrefixCache(base.cache, length), length, causal if implicit else None, keys)
    try:
        for depth in range(len(calls)):
            packer.call(depth, Layout((), (0,), (0,)))
    except UnpackableError:
        return None
    return packer


def _mask_keys(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Keys | None:
    """Where a layer's call has its attention mask, which may be None."""
    name = "attention_mask"
    if name in kwargs:
        return (1, name)
    names = list(inspect.signature(layer.forward).parameters)
    return (0, names.index(name)) if name in names[: len(args)] else None


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
