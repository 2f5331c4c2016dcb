"""Recording activations: many prompts, many sites, into buffers that are allocated once; and the sources of edits.

``Model.record`` comes here; so does every call whose edits take their values from other runs, to have these run (``place``).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.interrupts import within
from patchclamp.core.progress import Listener, task
from patchclamp.interventions import positions
from patchclamp.interventions.actions import Action, Placer, Recordings, SourceRun, SourceRuns
from patchclamp.interventions.edit import Edit, Edits, as_edits
from patchclamp.interventions.passes import Row, forward, gradients
from patchclamp.interventions.positions import At
from patchclamp.interventions.recorded import Buffers
from patchclamp.interventions.result_record import provenance
from patchclamp.interventions.results import Activations
from patchclamp.interventions.shared_rows import depth_of
from patchclamp.interventions.sources import Source
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.models.sites import Site

BATCH_TOKENS = 2048


def place(
    model: OpenModel, edits: Sequence[Edit], prompts: Sequence[Prompt], *, grad: bool = False
) -> list[tuple[Action, ...]]:
    """Resolve edits on prompts: which actions each prompt gets, in the order of the edits. Their sources are run.

    Args:
        model: The model.
        edits: Placed edits.
        prompts: Where they act.
        grad: Whether values that require gradients keep them.

    Raises:
        EditError: An edit has no site, or the wrong width.
        SiteError: A site is unknown or read-only.
        PositionError: A position is outside a prompt.
    """
    return make_placer(model, edits, prompts, grad=grad).rows()


def make_placer(model: OpenModel, edits: Sequence[Edit], prompts: Sequence[Prompt], *, grad: bool = False) -> Placer:
    """A placer whose sources were run, for calls that learn later where edits act; see :func:`place`."""
    placer = Placer(model, edits, prompts, grad=grad)
    placer.recordings = record_sources(model, placer.sources, grad=grad)
    return placer


def record_sources(model: OpenModel, runs: SourceRuns, *, grad: bool = False) -> Recordings:
    """Run sources, each once."""
    return {key: record_source(model, run.source, run.sites, grad=grad) for key, run in runs.items()}


def placeholders(model: OpenModel, runs: SourceRuns) -> Recordings:
    """What stands for the values of sources in a plan, which runs none: of their shapes, and different in every place.

    Where a shape is only seen in a run (inputs without tokens, the vectors of a module path), the source is run.
    """
    return {key: _placeholder(model, run) for key, run in runs.items()}


def _placeholder(model: OpenModel, run: SourceRun) -> Mapping[Site, Sequence[Tensor]]:
    prompts = model.prompts(run.source.inputs)
    Placer(model, run.source.edits, prompts)  # refuses what cannot be placed
    values: dict[Site, list[Tensor]] = {}
    for site in run.sites:
        width = None if site.is_raw or model.sites.access(site).attention else model.sites.width(site)
        lengths = [prompt.length for prompt in prompts if prompt.length is not None]
        if width is None or len(lengths) < len(prompts) or model.encoder is not None:
            return record_source(model, run.source, run.sites)
        generator = torch.Generator().manual_seed(int(digest(run.source.run_key, str(site)), 16) % 2**63)
        values[site] = [torch.rand(length, width, generator=generator, dtype=model.dtype) for length in lengths]
    return values


def record_source(
    model: OpenModel, source: Source, sites: Sequence[Site], *, grad: bool = False
) -> dict[Site, list[Tensor]]:
    """Run a source and give its values at some sites, ``[position, d]`` a prompt.

    A source is a constant: only one whose own edits are trained keeps its graph, under ``grad``.
    """
    prompts = model.prompts(source.inputs)
    grad = grad and source.trained
    actions = place(model, source.edits, prompts, grad=grad)
    values_at: dict[Site, dict[int, Tensor]] = {site: {} for site in sites}
    for members in batches(prompts, BATCH_TOKENS, *may_share(model, sites)):
        activations: dict[Site, Tensor] = {}
        rows = [Row(prompts[i], actions[i]) for i in members]
        forward(model, rows, taps={site: _into(activations, site) for site in sites}, logits=False, grad=grad)
        for site in sites:
            for row, i in enumerate(members):
                values_at[site][i] = activations[site][row, : prompts[i].length].clone()
    return {site: [values[i] for i in range(len(prompts))] for site, values in values_at.items()}


def _into(store: dict[Site, Tensor], site: Site) -> Any:
    def sink(value: Tensor) -> None:
        store[site] = value.clone()  # some blocks go on to write into it (Falcon adds attention to the MLP's output)

    return sink


@recorded
def record(
    model: OpenModel,
    prompts: Any,
    sites: Sites,
    at: At = "all",
    *,
    edits: Edits = (),
    batch_tokens: int = BATCH_TOKENS,
    grad: bool = False,
    progress: bool | Listener | None = None,
) -> Activations:
    """Record activations; the pass ends at the last site asked for, and no logits are computed.

    Args:
        model: The model.
        prompts: As for :meth:`patchclamp.Model.run`.
        sites: Names such as ``"resid_post"`` (every layer), ``"z.5.h3"``, ``"model.layers.7.mlp:out"``.
        at: Positions; the result has a ``position`` dimension if there are several.
        edits: Record under edits.
        batch_tokens: Padded tokens a forward pass: the memory knob.
        grad: Keep the autograd graph.
        progress: True for a bar, a function for events.
    """
    return within((gradients(grad),), _record, model, prompts, sites, at, edits, batch_tokens, grad, progress)


def _record(
    model: OpenModel,
    inputs: Any,
    sites: Sites,
    at: At,
    edits: Edits,
    batch_tokens: int,
    grad: bool,
    progress: bool | Listener | None,
) -> Activations:
    prompts = model.prompts(inputs)
    names = [sites] if isinstance(sites, str) else list(sites)
    if not names:
        raise InputError("no site to record was given")
    sites_by_name = {str(name): model.sites.expand([name]) for name in names}
    at = positions.read_at(at)
    where = [positions.resolve(at, p, i, len(prompts), model.tokenizer, repeats=True) for i, p in enumerate(prompts)]
    edit_list = list(as_edits(edits))
    actions = place(model, edit_list, prompts, grad=grad)
    buffers = Buffers(sites_by_name, where, [p.length for p in prompts], grad)
    with task("record", len(prompts), "prompts", show=progress) as bar:
        for members in batches(
            prompts, batch_tokens, *may_share(model, [s for group in sites_by_name.values() for s in group])
        ):
            rows = [Row(prompts[i], actions[i]) for i in members]
            forward(model, rows, taps=buffers.sinks(members), logits=False, grad=grad)
            bar.advance(len(members))
    source = provenance(model, prompts, sites=list(sites_by_name), at=at, edits=edit_list)
    return Activations.build(model, prompts, sites_by_name, buffers.finish(), where, *source)


def batches(prompts: Sequence[Prompt], tokens: int, causal: bool, together: bool = True) -> Iterator[list[int]]:
    """Indices of prompts that run together: of similar length, at most ``tokens`` padded positions.

    Args:
        prompts: What to run.
        tokens: The most positions of a batch.
        causal: Whether padding changes nothing. Otherwise, and where prompts have inputs beside their tokens, only those
            of equal form run together.
        together: Whether several rows may run together at all.
    """
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].form, i))
    batch: list[int] = []
    for index in order:
        prompt = prompts[index]
        longest = len(prompt.ids) or 1
        if batch:
            first = prompts[batch[0]]
            padded = causal and not (first.tensors or prompt.tensors)
            other = not padded and first.form != prompt.form
            if other or not together or (len(batch) + 1) * longest > tokens:
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch


def may_share(model: OpenModel, sites: Sequence[Site] = ()) -> tuple[bool, bool]:
    """Whether padding changes nothing in what is looked at, and whether several rows may share a call.

    Args:
        model: The model.
        sites: What is looked at; none of them for the output. Above the layers the same holds as for the output.
    """
    above = [s for s in sites if s.layer is None and depth_of(s, model.sites.layers) in (None, model.sites.n_layers)]
    return (model.capabilities.pads, model.capabilities.together) if above or not sites else (model.causal, True)
