"""From edits to actions: concrete sites and positions in one prompt, with every value filled in.

Every call with edits comes here: ``recording.place`` for runs and recordings, ``axes.py`` for the cells of a sweep,
``stepping.py`` for generation; and ``passes.py`` and ``wavefront.py`` turn actions into the instructions of one call.
In the example of ``docs/engine.md``, cell 1 has two actions: one at ``mlp_out.0`` and one at ``mlp_out.1``, both at position 1.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.digest import digest
from patchclamp.core.errors import EditError, PositionError, SiteError
from patchclamp.interventions import positions
from patchclamp.interventions.edit import Edit, gate_content, gate_key
from patchclamp.interventions.gates import Gate
from patchclamp.interventions.hooks import Instruction, Port
from patchclamp.interventions.operations import Operation
from patchclamp.interventions.positions import GENERATED
from patchclamp.interventions.sources import Scene, Source, Unbound
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sitemap import SiteMap, columns_of
from patchclamp.models.sites import Site


@dataclass(frozen=True, eq=False)
class Action:
    """One operation at one site and some positions of one prompt."""

    site: Site
    positions: tuple[int, ...] | None
    """Unpadded positions, in the order of the operation's values; None for all of an input without tokens."""
    operation: Operation
    _: KW_ONLY
    gate: Callable[[Tensor], Tensor] | None = None
    edit: int = 0
    """Which of the user's edits this is."""
    everywhere: bool = False
    """Whether it is for every vector, also where these are not the prompt's positions."""

    def __str__(self) -> str:
        numbers = {item.name: getattr(self.operation, item.name) for item in fields(self.operation)}
        settings = ", ".join(f"{name}={value:g}" for name, value in numbers.items() if isinstance(value, float))
        where = "all" if self.positions is None else ", ".join(map(str, self.positions))
        return f"{type(self.operation).__name__}({settings}) at {self.site}, position {where}"

    @cached_property
    def key(self) -> str:
        """What tells it from other actions of one job: equal actions do the same thing to the same place."""
        return digest(str(self.site), self.positions, self.operation.key, gate_key(self.gate))

    def known_by(self) -> Any:
        """For a checkpoint; see :mod:`patchclamp.core.content`."""
        return str(self.site), self.positions, self.operation, gate_content(self.gate)

    def only(self, indices: Sequence[int]) -> "Action":
        """The action at some of its positions, by their places in its list."""
        if self.positions is None or len(indices) == len(self.positions):
            return self
        where = tuple(self.positions[i] for i in indices)
        return Action(self.site, where, self.operation.select(indices), gate=self.gate, edit=self.edit)


@dataclass(frozen=True, eq=False)
class SourceRun:
    """A source, and every site at which some edit takes its values."""

    source: Source
    sites: tuple[Site, ...]


SourceRuns = Mapping[str, SourceRun]
"""What has to be recorded, by the keys of the sources' runs."""
Recordings = Mapping[str, Mapping[Site, Sequence[Tensor]]]
"""The values of sources, ``[position, d]`` a prompt at each site, by the keys of their runs."""


def merge_runs(several: Iterable[SourceRuns]) -> SourceRuns:
    """Each source once, with the sites of all who take its values."""
    merged: dict[str, SourceRun] = {}
    for key, run in (item for runs in several for item in runs.items()):
        before = merged[key].sites if key in merged else ()
        sites = sorted({*before, *run.sites}, key=lambda site: site.sort_key)
        merged[key] = SourceRun(run.source, tuple(sites))
    return merged


class Placer:
    """Edits on the prompts of one call: reads and checks them, says what has to be recorded, and makes actions."""

    recordings: Recordings
    """The values of ``sources``, once they were recorded."""

    def __init__(
        self, model: OpenModel, edits: Sequence[Edit], prompts: Sequence[Prompt], *, grad: bool = False
    ) -> None:
        self.model, self.prompts = model, tuple(prompts)
        # what is trained is taken as it is at this call: with its gradients, or as a copy that holds no graph
        self.edits = tuple(
            edit if not edit.operation.trained else edit.renewed() if grad else edit.frozen() for edit in edits
        )
        self.sites = [_sites_of(model, edit) for edit in self.edits]
        runs: list[SourceRuns] = []
        self._run_keys: dict[int, str] = {}
        for edit, sites in zip(self.edits, self.sites, strict=True):
            if self.prompts:
                _check_sources(model, edit.operation, len(self.prompts))
            for source in edit.operation.needs() if isinstance(edit.operation, Unbound) else ():
                key = self._run_keys[id(source)] = source.run_key
                runs.append({key: SourceRun(source, tuple(_read_at(model, source, sites)))})
        self.sources = merge_runs(runs)
        self.recordings = {}

    def positions(self, number: int, index: int, generating: bool = False) -> tuple[int, ...] | None:
        """Where an edit acts in a prompt."""
        prompt = self.prompts[index]
        return positions.resolve(
            self.edits[number].at, prompt, index, len(self.prompts), self.model.tokenizer, generating
        )

    def action(self, number: int, index: int, site: Site, where: tuple[int, ...] | None) -> Action:
        """One edit at one site and some positions of one prompt, with its values filled in."""
        edit = self.edits[number]
        operation = edit.operation
        if isinstance(operation, Unbound):
            operation = operation.bind(Scene(self.prompts[index], index, site, where, self._recorded, self._locate))
            check_width(self.model.sites, operation, site)
        everywhere = _is_all(edit.at, index)
        return Action(
            self.model.sites.in_stream(site), where, operation, gate=edit.where, edit=number, everywhere=everywhere
        )

    def rows(self, generating: bool = False) -> list[tuple[Action, ...]]:
        """The actions of each prompt, in the order of the edits."""
        for edit in self.edits:
            _check_sources(self.model, edit.operation, len(self.prompts))
        return [
            tuple(
                self.action(number, index, site, self.positions(number, index, generating))
                for number, sites in enumerate(self.sites)
                for site in sites
            )
            for index in range(len(self.prompts))
        ]

    def _recorded(self, source: Source, site: Site) -> Sequence[Tensor]:
        return self.recordings[self._run_keys[id(source)]][_read_at(self.model, source, [site])[0]]

    def _locate(self, at: Any, source: Source, number: int) -> tuple[int, ...]:
        prompts = self.model.prompts(source.inputs)
        return positions.resolve(at, prompts[number], number, len(prompts), self.model.tokenizer, repeats=True) or ()


def _check_sources(model: OpenModel, operation: Operation, count: int) -> None:
    """Refuse runs that no prompt would take its values from, and prompts without one.

    Raises:
        EditError: The source has several prompts, and not as many as there are.
    """
    if not isinstance(operation, Unbound) or not operation.paired:
        return
    source = getattr(operation, "source", None)
    sources = len(model.prompts(source.inputs)) if isinstance(source, Source) else len(getattr(source, "prompts", ()))
    if sources > max(1, count) or (
        isinstance(source, Source) and sources not in (1, count)
    ):  # recorded activations say themselves what they lack
        raise EditError(
            f"the source of {type(operation).__name__} has {sources} prompts and there are {count} to edit; give one source, or "
            "one a prompt"
        )


def _sites_of(model: OpenModel, edit: Edit) -> list[Site]:
    if not edit.sites:
        raise EditError(
            f"the edit {type(edit.operation).__name__} has no site; place it, as in edit.on('mlp_out.4', at=-1)"
        )
    if edit.origin is not None:
        edit.origin.check_model(model)
    sites = model.sites.expand(list(edit.sites))
    for site in sites:
        model.sites.check_writable(site)
        _check_stack(model, edit, site)
        if edit.origin is not None:
            edit.origin.check_site(site)
        check_width(model.sites, edit.operation, site)
        if isinstance(edit.where, Gate) and (width := model.sites.width(site)) is not None:
            edit.where.check_width(width, f" at {site}")
    return sites


def _is_all(at: Any, index: int) -> bool:
    prompt_at = at.each[index] if isinstance(at, positions.PerPrompt) else at
    return isinstance(prompt_at, str) and prompt_at == "all"


def _check_stack(model: OpenModel, edit: Edit, site: Site) -> None:
    """Refuse positions in a decoder that reads another text than the prompt.

    Raises:
        PositionError: The edit is not for all of them.
    """
    encoder = model.encoder
    if edit.at == "all" or encoder is None or f"{site.module}.".startswith(f"{encoder}."):
        return
    raise PositionError(
        f"at={edit.at!r} counts the tokens of input_ids, and {site} is outside the encoder {encoder!r} that reads them; edit it "
        "at='all'"
    )


def _read_at(model: OpenModel, source: Source, edit_sites: Sequence[Site]) -> Sequence[Site]:
    """Sites that a source is looked at for edits at some sites: the same ones, unless it names one."""
    if source.site is None:
        return edit_sites
    source_sites = model.sites.expand(source.site)
    if len(source_sites) != 1:
        raise SiteError(
            f"a source is looked at in one site, and {source.site!r} names {len(source_sites)}; write one, as in 'resid_post.5'"
        )
    return source_sites


def check_width(sites: SiteMap, operation: Operation, site: Site) -> None:
    """Refuse a vector that is not as wide as the site (where the width is known before a run).

    Raises:
        EditError: With both widths.
    """
    width = sites.width(site)
    for name, vector in operation.vectors():
        if width is not None and vector.shape[-1] != width:
            raise EditError(
                f"{type(operation).__name__}: {name} has width {vector.shape[-1]}, but {site} has width {width}"
            )


@dataclass(eq=False)
class Tally:
    """How often each edit was reached and how many vectors it changed."""

    reached: dict[int, int]
    changed: dict[int, list[Tensor]]

    @classmethod
    def empty(cls) -> "Tally":
        """Nothing counted yet."""
        return cls(defaultdict(int), defaultdict(list))

    def teller(self, edit: int, vectors: int) -> Callable[[Tensor], None]:
        """What an instruction calls when it fires."""

        def tell(counts: Tensor) -> None:
            self.reached[edit] += vectors
            self.changed[edit].append(counts)

        return tell

    def fired(self, edit: int) -> int:
        """How many vectors an edit changed."""
        return int(sum(int(n) for n in self.changed[edit]))


def instructions(
    sites: SiteMap,
    rows: Sequence[Sequence[Action]],
    start: Sequence[int],
    width: int,
    device: torch.device,
    tally: Tally | None,
    batch_rows: Sequence[int] | None = None,
    fresh: int = 0,
    whole: bool = False,
) -> dict[Port, list[Instruction]]:
    """What to do at each port of one call, with equal actions of many rows carried out together.

    Args:
        sites: The model's sites.
        rows: The actions of each batch row, in order.
        start: The unpadded position of column 0 in each row (negative under left padding).
        width: Columns of the call.
        device: Where index tensors live.
        tally: Counts what fires; None if nobody asks.
        batch_rows: The batch row of each entry of ``rows``, where several entries share one.
        fresh: Columns before this one were edited, and counted, in an earlier call on the same text.
        whole: Whether the call is one of the whole model on token ids, in which some modules may work on something else
            than these tokens.
    """
    grouped: dict[tuple[Port, int, str, int], tuple[Action, list[int], list[tuple[int, ...]]]] = {}
    for row, actions in enumerate(rows):
        order: dict[Port, int] = defaultdict(int)
        for action in actions:
            access = sites.access(action.site)
            number = order[access.port]
            order[access.port] += 1
            indices, columns = _columns_in(action, start[row], width)
            if indices == ():
                continue
            shared = digest(action.key, indices, action.everywhere)
            entry = grouped.setdefault(
                (access.port, number, shared, action.edit),
                (action if indices is None else action.only(indices), [], []),
            )
            entry[1].append(row if batch_rows is None else batch_rows[row])
            entry[2].append(columns)
    table: dict[Port, list[Instruction]] = defaultdict(list)
    for (port, _, _, edit), (action, members, cols) in sorted(grouped.items(), key=lambda item: item[0][1]):
        access = sites.access(action.site)
        every = batch_rows is None and len(members) == len(rows)
        open_ended = action.positions is None
        vectors = len(members) * (1 if open_ended else len(cols[0]))
        picked = None if open_ended else torch.tensor(cols, device=device)
        again = fresh > 0 and any(c < fresh for row in cols for c in row)
        same = picked is not None and all(c == cols[0] for c in cols)
        table[port].append(
            Instruction(
                access,
                columns_of(access, action.site.unit, sites.width(action.site.whole) or 0),
                action.operation,
                action.gate,
                None if every and (same or open_ended) else torch.tensor(members, device=device),
                picked,
                None if tally is None else tally.teller(edit, vectors),
                -1 if open_ended else max(max(c) for c in cols),
                picked >= fresh if again and picked is not None else None,
                (len(rows), width) if whole else None,
                every and action.everywhere and action.operation.select(()) is action.operation,
            )
        )
    return dict(table)


def _columns_in(action: Action, start: int, width: int) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Which of an action's positions lie in this call (as indices into its list), and at which columns."""
    if action.positions is None:
        return None, ()
    if GENERATED in action.positions:
        raise AssertionError("generated positions are made concrete by the generation")
    indices = tuple(i for i, position in enumerate(action.positions) if 0 <= position - start < width)
    return indices, tuple(action.positions[i] - start for i in indices)


def from_position(action: Action, first: int) -> Action:
    """The part of an action at a position and after it."""
    assert action.positions is not None
    return action.only(tuple(i for i, position in enumerate(action.positions) if position >= first))


def edited_sites(rows: Iterable[Iterable[Action]]) -> list[Site]:
    """Every site that some action writes, without repetition."""
    return list(dict.fromkeys(action.site for actions in rows for action in actions))
