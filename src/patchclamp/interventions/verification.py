"""What a model really does, checked on the user's own checkpoint when it is opened.

Every site of the architecture's table is looked at in one short forward pass; sums that must hold are checked; and a
small sweep is run with each strategy, so that the fast ways are used only where they were seen to be exact.

Called by ``pc.load`` and ``pc.wrap``, or when a model that was in training mode is first used.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.errors import ModelError, PatchclampError, warn
from patchclamp.core.interrupts import within
from patchclamp.core.tolerances import ARCHITECTURE, EXACT
from patchclamp.interventions.actions import Action
from patchclamp.interventions.execute import execute
from patchclamp.interventions.finite import readable
from patchclamp.interventions.hooks import Port, Tap, Tolerant, after_each_call
from patchclamp.interventions.operations import Add
from patchclamp.interventions.options import RunOptions
from patchclamp.interventions.part_runner import run_rows
from patchclamp.interventions.passes import Row, call, forward, logits_of
from patchclamp.interventions.planning import schedule_on
from patchclamp.interventions.prefix import prefix_is_supported, record_base
from patchclamp.interventions.reads import Bound
from patchclamp.interventions.sweep_task import Cell, PromptRun, SweepTask
from patchclamp.interventions.wavefront import make_packer
from patchclamp.models.capabilities import Ladder
from patchclamp.models.components import COMPONENTS
from patchclamp.models.inputs import Prompt
from patchclamp.models.loading import first_line, without_names
from patchclamp.models.opened import OpenModel
from patchclamp.models.sitemap import SiteMap
from patchclamp.models.sites import Site

PROBE_TOKENS = 8
_FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, PatchclampError)
_SENSES = re.compile(r"image|video|audio|vision|boi|eoi|boa|eoa|speech")
Key = tuple[str, int | None]


def verify(model: OpenModel) -> None:
    """Measure a model: drop sites that are not what their name says, and find its strategy.

    Only ``model.sites`` and ``model.capabilities`` are set; the module is not changed.
    An architecture whose short pass fails, in whatever way, keeps its module paths alone; one that fails later keeps the
    sites that were seen and runs one forward a cell.
    """
    if not model.sites.layers:
        return
    sites_by_name = model.sites
    try:
        _look(model)
    except Exception as error:
        if model.sites is sites_by_name:
            model.sites = without_names(model.module, error)
            return
        capabilities = model.capabilities
        capabilities.narrows = capabilities.pads = capabilities.together = False
        capabilities.ladder = Ladder("cell", f"looking at it failed with {type(error).__name__}: {first_line(error)}")


def _look(model: OpenModel) -> None:
    probe, capabilities = _probe(model), model.capabilities
    if probe is None and not model.sites.family.model_types:
        raise ModelError(
            f"{type(model.module).__name__} could not be looked at, as no short input could be made up for it"
        )
    if probe is None:
        capabilities.ladder = Ladder("rows", "no short input could be made up to look at this model")
        return
    survey = _Survey.of(model, probe)
    capabilities.arity = survey.arity
    model.sites = _checked(model, survey)
    if survey.overflow is not None:
        capabilities.overflow = survey.overflow
        capabilities.ladder = Ladder("rows", f"{survey.overflow} held NaN or infinity when the model was opened")
        warn(
            f"{type(model.module).__name__} in {str(model.dtype).removeprefix('torch.')} gives NaN or infinity for a short "
            f"input, first at {survey.overflow}; nothing more could be checked when it was opened",
        )
        return
    if not probe.ids:
        capabilities.ladder = Ladder("rows", "the inputs are not tokens")
        return
    capabilities.seen_causal = _is_causal(model, probe)
    capabilities.narrows = _head_is_separate(model, probe)
    capabilities.pads = model.causal and (capabilities.narrows or _pads(model, probe))
    capabilities.together = capabilities.narrows or _takes_rows(model, probe)
    capabilities.ladder = _ladder(model, probe)


def _probe(model: OpenModel) -> Prompt | None:
    """A made-up input: scattered token ids, or a random image."""
    config = model.config
    if getattr(model.module, "main_input_name", "") == "input_ids" and model.vocabulary:
        count = min(PROBE_TOKENS, model.context or PROBE_TOKENS)
        scattered = ((7919 * i + 11) % model.vocabulary for i in range(1, model.vocabulary + 1))
        ids = tuple(islice((i for i in scattered if i not in _stand_ins(config)), count))
        return Prompt(ids, None, tuple(map(str, ids)))
    channels, size = getattr(config, "num_channels", None), getattr(config, "image_size", 64)
    if isinstance(channels, int) and isinstance(size, int):
        generator = torch.Generator().manual_seed(0)
        return Prompt(tensors={"pixel_values": torch.randn(1, channels, size, size, generator=generator)})
    return None


def _stand_ins(config: Any) -> set[int]:
    """Ids in the place of which a model expects a picture or a sound."""
    settings = vars(config).items() if config is not None else ()
    return {
        i
        for name, i in settings
        if isinstance(i, int) and name.endswith(("_token_id", "_token_index")) and _SENSES.match(name)
    }


@dataclass(eq=False)
class _Survey:
    """One tolerant pass over every port of the table."""

    values: dict[Key, Tensor] = field(default_factory=dict)
    """Component and layer -> the site's tensor, or ``[batch, query, head, key]``."""
    missing: dict[Port, str] = field(default_factory=dict)
    calls: dict[Port, int] = field(default_factory=dict)
    arity: int | None = None
    overflow: str | None = None
    """The first site with NaN or infinity."""
    tokens: int = 0
    """Positions of the input; 0 if it is not made of tokens."""

    @classmethod
    def of(cls, model: OpenModel, probe: Prompt) -> "_Survey":
        survey = cls(tokens=len(probe.ids))
        batch = model.batch([probe])
        taps: dict[Port, list[Tap]] = {}
        for key, access in model.sites.accesses.items():
            if key not in model.sites.refused:
                taps.setdefault(access.port, []).append(
                    Tap(access, access.columns if not access.attention else None, survey._sink(key))
                )
        session = Tolerant(model.sites.modules, 1, batch.width or 1, taps=taps)
        last = model.sites.modules[model.sites.layers[-1]]
        output = within((torch.no_grad(), session, after_each_call(last, survey._look)), call, model, batch)
        survey.missing, survey.calls = session.missing, dict(session.calls)
        try:
            model.capabilities.width_of_logits = logits_of(output).shape[-1]
        except PatchclampError:
            model.capabilities.width_of_logits = None
        return survey

    def _look(self, output: Any) -> None:
        self.arity = len(output) if isinstance(output, tuple) else None

    def _sink(self, key: Key) -> Any:
        def sink(value: Tensor) -> None:
            self.values[key] = value.detach().clone()
            site = Site(*key)
            if self.overflow is None and not bool(readable(value, site).all()):
                self.overflow = str(site)

        return sink


def _checked(model: OpenModel, survey: _Survey) -> SiteMap:
    """The sites with their measured widths, and with a reason for each that did not hold."""
    sites = model.sites
    refused = dict(sites.refused)
    widths: dict[Key, int] = {}
    for key, access in sites.accesses.items():
        if key in refused:
            continue
        if access.port in survey.missing:
            refused[key] = _why_missing(model, key, survey.missing[access.port])
        elif survey.calls.get(access.port, 0) != 1:
            refused[key] = f"its module runs {survey.calls.get(access.port, 0)} times in one forward pass"
        elif key not in survey.values:
            refused[key] = "its module gave no tensor"
        elif len(survey.values[key]) != 1:
            refused[key] = f"its tensor {tuple(survey.values[key].shape)} has other axes than [row, position, d]"
        elif survey.tokens and key[0] != "logits" and survey.values[key].shape[1] != survey.tokens:
            refused[key] = f"it has {survey.values[key].shape[1]} positions for {survey.tokens} tokens"
        else:
            widths[key] = survey.values[key].shape[-1]
    for layer in range(sites.n_layers):
        refused |= _sums(model, survey, layer, refused)
        refused |= _heads(model, survey, layer, refused)
    return replace(sites, refused=refused, widths=widths)


def _why_missing(model: OpenModel, key: Key, message: str) -> str:
    if key[0] == "attn_pattern":
        implementation = getattr(model.text_config, "_attn_implementation", None)
        return f"{implementation} attention never forms the weights; load the model with attn_implementation='eager'"
    if key[0] == "logits":
        return f"{type(model.module).__name__} has no head; load the model with one (AutoModelForCausalLM)"
    return message


def _error(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max().clamp(min=1e-30))


def _sums(model: OpenModel, survey: _Survey, layer: int, refused: dict[Key, str]) -> dict[Key, str]:
    """Check that the stream is the sum of what is said to be added to it."""
    have = {
        name: survey.values[name, layer]
        for name in COMPONENTS
        if (name, layer) in survey.values and (name, layer) not in refused
    }
    tolerance = ARCHITECTURE.of(model.dtype)
    bad: dict[Key, str] = {}
    following = survey.values.get(("resid_pre", layer + 1))
    if following is not None and "resid_post" in have and _error(have["resid_post"], following) > tolerance:
        bad["resid_post", layer] = (
            f"it is not what layer {layer + 1} reads: something changes the stream between the layers"
        )
    if model.sites.family.residual == "post_norm":
        return bad
    if {"resid_pre", "attn_out", "mlp_out", "resid_post"} <= set(have):
        whole = have["resid_pre"] + have["attn_out"] + have["mlp_out"]
        error = _error(whole, have["resid_post"])
        if error > tolerance:
            for name in ("attn_out", "mlp_out"):
                bad[name, layer] = (
                    f"resid_pre + attn_out + mlp_out misses resid_post by {error:.1e} of its largest value on this checkpoint"
                )
    if {"resid_pre", "attn_out", "resid_mid"} <= set(have):
        error = _error(have["resid_pre"] + have["attn_out"], have["resid_mid"])
        if error > tolerance:
            bad["resid_mid", layer] = (
                f"it misses resid_pre + attn_out by {error:.1e} of its largest value on this checkpoint"
            )
    return bad


def _heads(model: OpenModel, survey: _Survey, layer: int, refused: dict[Key, str]) -> dict[Key, str]:
    """Check values against heads where attention has one key only: at position 0 each head's z is its value's multiple."""
    heads, names = model.sites.heads, ("v", "z")
    if (
        heads is None
        or not model.causal
        or any((n, layer) not in survey.values or (n, layer) in refused for n in names)
    ):
        return {}
    v, z = (survey.values[name, layer][0, 0].double().reshape(-1, heads.size) for name in names)
    if len(v) != heads.key or len(z) != heads.query:
        return {(n, layer): f"{len(v)} value heads and {len(z)} query heads do not fit the config" for n in names}
    v = v.repeat_interleave(heads.query // heads.key, dim=0)
    cosine = torch.nn.functional.cosine_similarity(v, z, dim=-1).min()
    if cosine < 1 - max(1e-4, ARCHITECTURE.of(model.dtype)):
        reason = f"at position 0, where attention has one key, z is not a multiple of v (cosine {float(cosine):.4f})"
        return {(name, layer): reason for name in ("q", "k", "v", "z") if (name, layer) in survey.values}
    return {}


def _is_causal(model: OpenModel, probe: Prompt) -> bool:
    """Whether the last token leaves the states of all earlier positions alone."""
    last = Site("resid_post", model.sites.n_layers - 1)
    if ("resid_post", last.layer) in model.sites.refused or len(probe.ids) < 2:
        return False
    other = Prompt((*probe.ids[:-1], (probe.ids[-1] + 1) % (model.vocabulary or 2)), None, probe.tokens)
    states: list[Tensor] = []
    for prompt in (probe, other):
        forward(
            model, [Row(prompt)], taps={last: lambda value: states.append(value.clone())}, logits=False, check=False
        )
    if states[0].shape[1] != len(probe.ids):
        return False
    return _error(states[0][:, :-1], states[1][:, :-1]) <= ARCHITECTURE.of(model.dtype)


def _head_is_separate(model: OpenModel, probe: Prompt) -> bool:
    """Whether the model's own code after its last layer works position by position."""
    if ("logits", None) in model.sites.refused:
        return False
    positions = [1, len(probe.ids) - 1]
    whole = forward(model, [Row(probe)], check=False).logits
    if whole is None or whole.ndim != 3 or whole.shape[1] != len(probe.ids):
        return False
    try:
        part = forward(model, [Row(probe)], keep=torch.tensor([positions], device=model.device), check=False).logits
    except (RuntimeError, IndexError, TypeError, ValueError):
        return False
    return part is not None and _error(part, whole[:, positions]) <= ARCHITECTURE.of(model.dtype)


def _pads(model: OpenModel, probe: Prompt) -> bool:
    """Whether the output after a prompt is the same with padding behind it, position by position."""
    short = probe.head(len(probe.ids) - 1)
    try:
        alone, batch = (forward(model, [Row(p) for p in prompts]).logits for prompts in ([short], [short, probe]))
    except _FAILURES:
        return False
    if alone is None or batch is None or alone.ndim != 3 or batch.ndim != 3 or alone.shape[1] != len(short.ids):
        return False
    return _error(batch[:1, :-1], alone) <= ARCHITECTURE.of(model.dtype)


def _takes_rows(model: OpenModel, probe: Prompt) -> bool:
    """Whether two prompts in one call give what each gives alone; True where the model gives no logits at all."""
    other = Prompt(tuple(reversed(probe.ids)), None, probe.tokens)
    try:
        alone = forward(model, [Row(other)]).logits
    except _FAILURES:
        return True
    try:
        both = forward(model, [Row(probe), Row(other)]).logits
    except _FAILURES:
        return False
    assert alone is not None
    assert both is not None
    return both[1:].shape == alone.shape and _error(both[1:], alone) <= ARCHITECTURE.of(model.dtype)


def _ladder(model: OpenModel, probe: Prompt) -> Ladder:
    """The strategy that shares most and whose numbers are those of one forward a cell, on two prompts and a handful of cells."""
    if not model.capabilities.narrows:
        if not model.capabilities.together:
            return Ladder("cell", "this model takes one row at a time")
        headless = ("logits", None) in model.sites.refused
        return Ladder("rows", "it has no head" if headless else "its output is not a prediction for each position")
    job = _probe_job(model, probe)
    slow = [run_rows(model, [(job.lines[cell.line], cell)])[0][0] for cell in job.unique_cells]
    reason = ""
    supported = prefix_is_supported(model)
    if not supported:
        reason = "a layer's state is not only keys and values" if model.causal else "every position sees every other"
    for strategy in ("wavefront", "layers", "rows") if supported else ("layers", "rows"):
        try:
            worst = _worst(job, slow, strategy)
        except _FAILURES as error:
            reason = f"the {strategy} strategy failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
            continue
        if worst <= ARCHITECTURE.of(model.dtype):
            return Ladder(strategy, reason, strategy == "wavefront" and _packs(job, slow))
        reason = (
            f"the {strategy} strategy missed one forward a cell by {worst:.1e} of the largest logit on this checkpoint"
        )
    return Ladder("cell", reason)


def _packs(job: SweepTask, slow: Sequence[Tensor]) -> bool:
    """Whether rows that share a row of a call do not see each other, to the precision that sweeps promise.

    (Attention that sums in float32 within a float64 model sums other keys in another order, and does not.)
    """
    base = record_base(job.model, {0: job.lines[0]}, cached_layers=job.depth)
    try:
        if make_packer(job.model, base, len(job.lines[0].prompt.ids)) is None:
            return False
        return _worst(job, slow, "wavefront", waste=math.inf) <= EXACT.of(job.model.dtype)
    except _FAILURES:
        return False


def _worst(job: SweepTask, slow: Sequence[Tensor], strategy: str, waste: float = 0.0) -> float:
    """Largest difference of a strategy's logits from one forward a cell, relative to the largest logit."""
    scheduled = replace(schedule_on(job, strategy, "", RunOptions(budget="4GB")), waste=waste)
    outcome, _ = execute(scheduled, RunOptions(progress=False))
    return max(_error(outcome.values[run][0], slow[run].cpu()) for run in range(len(job.unique_cells)))


def _probe_job(model: OpenModel, probe: Prompt) -> SweepTask:
    """Edits of the stream at scattered layers and positions of two prompts."""
    other = Prompt(tuple(reversed(probe.ids)), None, probe.tokens)
    last = len(probe.ids) - 1
    generator = torch.Generator().manual_seed(0)
    width = model.sites.widths["resid_pre", 0]

    def whole(logits: Tensor, _: Tensor) -> Tensor:
        return logits

    read = Bound("logits", (last - 1, last), (), whole)
    lines = [PromptRun(prompt, (), (read,)) for prompt in (probe, other)]
    cells = []
    for layer, position in _scattered(model.sites.n_layers, last):
        vector = torch.randn(width, generator=generator)
        for line in range(len(lines)):
            action = Action(Site("resid_pre", layer), (position,), Add(vector))
            cells.append(Cell(line, (action,)))
    return SweepTask(model, lines, cells)


def _scattered(layers: int, last: int) -> Iterable[tuple[int, int]]:
    middle = layers // 2
    return dict.fromkeys(
        [(0, 0), (0, last // 2), (middle, last // 2), (middle, last), (layers - 1, 1), (layers - 1, last)]
    )
