"""Patchscopes: a hidden state put into another prompt, and what the model then says of it.

Source: Ghandeharioun et al. 2024, arXiv 2401.06102. The logit lens is the case without a prompt, so both give one kind of data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, PositionError, SiteError, unknown
from patchclamp.core.progress import Listener, task
from patchclamp.interventions import (
    Action,
    Activation,
    At,
    Cell,
    Edit,
    Patch,
    Put,
    Source,
    SweepTask,
    generate,
    make_lines,
    positions,
    provenance,
    record_source,
    run_cells,
)
from patchclamp.lenses.logit import STREAM, LogitLens
from patchclamp.lenses.measure import Final, measure
from patchclamp.lenses.result import Lens, Table
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    pass

IDENTITY = "cat -> cat; 135 -> 135; hello -> hello; ?"
"""A prompt that asks for its last token again: the paper's token identity prompt."""
_BATCH_CELLS = 256  # logits alive at once
_BATCH_TEXTS = 32  # generations that run together


@dataclass(eq=False)
class Patchscope(Lens):
    """What a model says of its own states, layer by layer and position by position.

    ``data`` is that of a :class:`Lens`, with the same metrics against the source's own final distribution, but each
    distribution is the next token's in the target prompt. ``text`` (if tokens were generated) is what follows it.
    """

    kind: ClassVar[str] = "patchscope"
    drawn_by: ClassVar[str] = "lens"

    def __repr__(self) -> str:
        return f"{super().__repr__()}\ntarget {self.record['target']['text']!r}, patched at {self.record['target']['token']!r}"


@dataclass(frozen=True, eq=False)
class _States:
    """States for an edit, one a prompt of the call."""

    states: Tensor
    """The states, ``[prompt, d]``."""

    def vectors(self, site: Site, prompt: int, positions: Sequence[int] | None) -> Tensor:
        """The state of one prompt, ``[1, d]``."""
        del site, positions
        return self.states[prompt : prompt + 1]


@dataclass(frozen=True, eq=False)
class _Target:
    """The prompt that states are put into, and where."""

    prompt: Prompt
    position: int
    site: Site | None
    """None for the site that the state comes from."""

    @classmethod
    def of(cls, model: OpenModel, target: Any, into: str | None, into_at: Any) -> "_Target":
        target_prompts = model.prompts(target)
        if len(target_prompts) != 1:
            raise InputError(f"a Patchscope has one target prompt; {len(target_prompts)} were given")
        into_at = positions.read_at(into_at)
        target_positions = positions.resolve(into_at, target_prompts[0], 0, 1, model.tokenizer) or ()
        if len(target_positions) != 1:
            raise PositionError(
                f"a state is put into one position of the target, and into_at={into_at!r} gives {len(target_positions)}, at tokens "
                f"{[target_prompts[0].tokens[i] for i in target_positions]} of {list(target_prompts[0].tokens)}"
            )
        sites = [] if into is None else _stream_sites(model, into)
        if len(sites) > 1:
            raise SiteError(f"a state is put into one site, and into={into!r} names {len(sites)}; or None for its own")
        return cls(target_prompts[0], target_positions[0], sites[0] if sites else None)

    def edit(self, site: Site, states: Tensor) -> Edit:
        """Make the edit that puts states ``[prompt, d]`` in, one for each prompt of the call."""
        return Patch(_States(states), site=str(self.site or site), at=self.position)

    def action(self, site: Site, state: Tensor) -> Action:
        """Make the action that puts one state ``[d]`` in."""
        return Action(self.site or site, (self.position,), Put(state[None]))


@recorded
def patchscope(
    model: OpenModel,
    prompts: Any,
    sites: Sites = "resid_post",
    at: At = "all",
    *,
    target: Any = IDENTITY,
    into: str | None = None,
    into_at: At = "last",
    k: int = 5,
    max_new_tokens: int = 0,
    progress: bool | Listener | None = None,
) -> Patchscope:
    """Patchscopes: put each state into another prompt, and see what the model says of it.

    The numbers are those of :meth:`patchclamp.Model.lens`, against the same final distribution, so the two can be laid side
    by side.

    Source: Ghandeharioun et al. 2024, arXiv 2401.06102.

    Args:
        model: The model.
        prompts: The texts whose states are taken.
        sites: ``resid_post``, ``resid_pre`` or ``resid_mid``, with layers or without, or a list of them.
        at: The positions in them.
        target: The prompt that states are put into; by default the paper's token identity prompt.
        into: Site in the target, as ``"resid_post.2"``; by default the one that the state comes from.
        into_at: The one position in the target, as ``pc.token("x")``; its last token by default.
        k: The number of the likeliest next tokens to keep.
        max_new_tokens: The number of tokens to generate (greedily) after the target, for each state.
        progress: True for a bar, a function for events.

    Raises:
        ModelError: The model has no final distribution to compare with, as for :meth:`patchclamp.Model.lens`.
        PositionError: The position is not in the target, or not one token; the message shows its tokens.
        InputError: A site, a position or ``k`` does not fit; raised before any work.
    """
    lens = LogitLens(model)
    rows = _stream_sites(model, sites)
    aim = _Target.of(model, target, into, into_at)
    at = positions.read_at(at)
    _check_counts(model, k, max_new_tokens)
    prompts = model.prompts(prompts)
    prompt_positions = [
        positions.resolve(at, p, i, len(prompts), model.tokenizer, repeats=True) or () for i, p in enumerate(prompts)
    ]
    model.check_predicts(token for prompt in prompts for token in prompt.ids[1:])
    nexts = [
        [p.ids[i + 1] if i + 1 < len(p.ids) else -1 for i in row]
        for p, row in zip(prompts, prompt_positions, strict=True)
    ]
    table = Table.empty(rows, prompt_positions, k, torch.float64 if model.dtype == torch.float64 else torch.float32)
    texts = np.full((len(prompts), len(rows), max(map(len, prompt_positions))), "", dtype=object)
    last = Site("resid_post", model.sites.n_layers - 1)
    size = max(1, _BATCH_CELLS // len(rows))
    with task("patchscope", sum(map(len, prompt_positions)), "positions", show=progress) as bar:
        for indices in _groups(prompt_positions, size):
            recordings = record_source(model, Source([prompts[i] for i in indices]), list(dict.fromkeys([*rows, last])))
            states = {
                site: torch.cat([value[list(prompt_positions[i])] for i, value in zip(indices, values, strict=True)])
                for site, values in recordings.items()
            }
            cells = [(i, j) for i in indices for j in range(len(prompt_positions[i]))]
            for cell_slice in _slices(len(cells), size):
                places, slice_states = cells[cell_slice], {site: states[site][cell_slice] for site in rows}
                final = Final.of(lens.logits(states[last][cell_slice]))
                ids = torch.tensor([nexts[i][j] for i, j in places], device=model.device)
                for site, logits in _target_logits(lens, aim, rows, slice_states).items():
                    table.put(site, places, measure(logits, final, ids, k))
                if max_new_tokens:
                    for (i, j), column in zip(places, _texts(model, aim, slice_states, max_new_tokens).T, strict=True):
                        texts[i, :, j] = column
                bar.advance(len(places))
    table.check()
    names = [str(site) for site in rows]
    record, tensors = provenance(model, prompts, sites=names, at=at, target=aim.prompt, into_at=into_at)
    record["target"] = {"text": aim.prompt.name, "ids": list(aim.prompt.ids), "token": aim.prompt.tokens[aim.position]}
    result = Patchscope.build(model, prompts, table, nexts, record, tensors)
    return _with_texts(result, texts) if max_new_tokens else result


def _check_counts(model: OpenModel, k: int, max_new_tokens: int) -> None:
    if not 1 <= k <= model.outputs:
        raise InputError(f"k={k} is outside 1..{model.outputs}, the size of the vocabulary")
    if max_new_tokens < 0:
        raise InputError(f"max_new_tokens must be 0 or more, got {max_new_tokens}")


def _with_texts(result: Patchscope, texts: Any) -> Patchscope:
    """Put the texts beside the other variables, before the coordinates, where they are when a saved result is opened."""
    import xarray as xr

    data = result.dataset
    variables: dict[str, Any] = {str(name): array.variable for name, array in data.data_vars.items()}
    variables["text"] = (("prompt", "layer", "position"), texts)
    result.dataset = xr.Dataset(variables, {name: array.variable for name, array in data.coords.items()})
    return result


def _stream_sites(model: OpenModel, sites: Any) -> list[Site]:
    """The sites of whole states of the residual stream, in the order of the forward pass."""
    stream_sites = dict.fromkeys(model.sites.expand(sites))
    for site in stream_sites:
        if site.component not in STREAM or site.unit is not None:
            raise SiteError(
                unknown("site for a Patchscope", str(site), STREAM) + "; it reads the whole residual stream"
            )
    if not stream_sites:
        raise InputError("no site to take states from was given")
    return sorted(stream_sites, key=lambda site: site.sort_key)


def _groups(prompt_positions: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Group consecutive prompts that together have about ``size`` positions."""
    group: list[int] = []
    for index in range(len(prompt_positions)):
        group.append(index)
        if sum(len(prompt_positions[i]) for i in group) >= size:
            yield group
            group = []
    if group:
        yield group


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _target_logits(
    lens: LogitLens, aim: _Target, rows: Sequence[Site], states: dict[Site, Tensor]
) -> dict[Site, Tensor]:
    """Logits after the target prompt with each state in it, ``[position, vocabulary]`` a site."""
    model = lens.model
    final = Activation(f"resid_post.{model.sites.n_layers - 1}")  # its logits are wide, the model's own may be rounded
    lines = make_lines(model, [aim.prompt], (final,))
    cells = [Cell(0, (aim.action(site, state),)) for site in rows for state in states[site]]
    job = SweepTask(model, lines, cells)
    outcome, _ = run_cells(job)
    values = [outcome.of_cell(number)[0] for number in range(len(cells))]
    logits = lens.logits(torch.stack(values).to(model.device))
    return dict(zip(rows, logits.chunk(len(rows)), strict=True))


def _texts(model: OpenModel, aim: _Target, states: dict[Site, Tensor], count: int) -> Any:
    """Generate after the target prompt with each state in it: the texts, ``[site, position]``."""
    rows = []
    for site, site_states in states.items():
        texts: list[str] = []
        for group in _slices(len(site_states), _BATCH_TEXTS):
            edit = aim.edit(site, site_states[group])
            texts += generate(model, [aim.prompt] * len(site_states[group]), edit, max_new_tokens=count).texts
        rows.append(texts)
    return np.array(rows, dtype=object)
