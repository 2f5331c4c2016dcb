"""The logit lens: the model's own head, applied to the residual stream of every layer (nostalgebraist 2020)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, ModelError, SiteError, unknown
from patchclamp.core.interrupts import guarded
from patchclamp.core.progress import Listener, task
from patchclamp.interventions import At, Row, Tokens, batches, forward, positions, provenance, through_head
from patchclamp.lenses.measure import Final, measure
from patchclamp.lenses.result import Lens, Table
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    from patchclamp.lenses.tuned import TunedLens

STREAM = ("resid_pre", "resid_mid", "resid_post")
CHUNK = 48
BATCH_TOKENS = 512
_ROW_MULTIPLE = 8  # matrix products of so many rows give every row the same bits, however many rows there are


@dataclass(frozen=True, eq=False)
class LogitLens:
    """Final norm and unembedding, soft-capping and scale included: the model's own code after its last layer.

    Logits are float32 also for a model in half precision (float64 stays float64).

    Raises:
        ModelError: The model has no final norm or no head that works position by position, or is an encoder.
    """

    model: OpenModel

    def __post_init__(self) -> None:
        self.model.look()
        refusal = _refusal(self.model)
        if refusal:
            raise ModelError(f"the logit lens does not apply to {type(self.model.module).__name__}: {refusal}")

    def logits(self, states: Tensor) -> Tensor:
        """Logits of hidden states, ``[row, d] -> [row, vocabulary]``."""
        padding = -len(states) % _ROW_MULTIPLE
        padded = torch.cat([states, states[-1:].expand(padding, -1)]) if padding else states
        with guarded(torch.no_grad()):
            return through_head(self.model, padded.unsqueeze(1), wide=True)[: len(states), 0]


def _refusal(model: OpenModel) -> str:
    if model.capabilities.overflow is not None:
        return f"it gave NaN or infinity when it was opened, first at {model.capabilities.overflow}"
    if not model.sites.layers:
        return "it is a plain module, without layers or an unembedding that patchclamp knows"
    if not model.takes_tokens or ("logits", None) in model.sites.refused:
        return model.sites.refused.get(("logits", None), "its output is not a prediction of tokens")
    if not model.causal:
        return (
            "it is an encoder: each position sees the whole text, its token included, and predicts no next token, so "
            "there is nothing for early layers to converge to. A masked-LM head answers at the mask itself: "
            "model.run(text).logits, or pc.Probability(answers, at=pc.token('[MASK]'))"
        )
    if ("final_norm", None) in model.sites.refused or ("final_norm", None) not in model.sites.accesses:
        why = model.sites.refused.get(("final_norm", None), "none is known in this architecture")
        return f"it has no final norm ({why}), and states of early layers cannot be read without one"
    if not model.capabilities.narrows:
        return "its head was not seen to work position by position"
    return ""


@recorded
def lens(
    model: OpenModel,
    prompts: Any,
    sites: Sites = "resid_post",
    at: At = "all",
    *,
    k: int = 5,
    targets: Tokens = "next",
    tuned: "TunedLens | None" = None,
    chunk: int = CHUNK,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool | Listener | None = None,
) -> Lens:
    """The logit lens: what each layer would predict if it were the last one (nostalgebraist 2020); or a tuned lens.

    The model's own final norm and head are applied to the residual stream; logits are float32 also for a model in
    half precision. It streams: logits of ``chunk`` rows (8 at least) are alive at once, and only numbers are kept of them.

    Args:
        model: The model.
        prompts: As for :meth:`patchclamp.Model.run`.
        sites: ``resid_post``, ``resid_pre`` or ``resid_mid``, with layers or without, or a list of them.
        at: The positions.
        k: The number of the likeliest tokens to keep.
        targets: ``"next"`` for the prompt's own next tokens; or a token (text or id), or a list with one a prompt.
        tuned: A lens from :meth:`patchclamp.Model.tune_lens` or :meth:`patchclamp.TunedLens.from_pretrained`, whose
            translators stand between the stream and the head.
        chunk: Number of rows (positions times layers) that pass the head at once, 8 at least: the memory knob. (With fewer, a row's
            last bits would depend on how many pass beside it.)
        batch_tokens: Padded tokens a forward pass, whose states are held: the other one.
        progress: True for a bar, a function for events.

    Raises:
        ModelError: The model has no final norm or head, or is an encoder.
        InputError: A site, position, target or ``k`` does not fit; raised before any work.
    """
    head = LogitLens(model)
    rows = _stream_sites(model, sites)
    if tuned is not None:
        tuned.check(model, rows)
    at = positions.read_at(at)
    if chunk < 1:
        raise InputError(f"chunk={chunk}: at least one row must pass the head at once")
    if not 1 <= k <= model.outputs:
        raise InputError(f"k={k} is outside 1..{model.outputs}, the size of the vocabulary")
    prompts = model.prompts(prompts)
    prompt_positions = [
        positions.resolve(at, p, i, len(prompts), model.tokenizer, repeats=True) or () for i, p in enumerate(prompts)
    ]
    if any(prompt.length is None for prompt in prompts):
        raise InputError("a lens reads positions, and this input has no tokens; pass text or token ids")
    target_ids = _targets(model, prompts, prompt_positions, targets)
    table = Table.empty(rows, prompt_positions, k, torch.float64 if model.dtype == torch.float64 else torch.float32)
    with task("lens", sum(map(len, prompt_positions)), "positions", show=progress) as bar:
        for members in batches(prompts, batch_tokens, model.causal):
            states = _states(model, rows, prompts, prompt_positions, members)
            if tuned is not None:
                states = {site: tuned.translate(site, value) for site, value in states.items()}
            places = [(i, j) for i in members for j in range(len(prompt_positions[i]))]
            ids = torch.tensor([target_ids[i][j] for i, j in places], device=model.device)
            for part in _chunks(len(places), _ROW_MULTIPLE):
                for row, metrics in _layer_metrics(head, states, ids, part, k, chunk):
                    table.put(row, places[part], metrics)
                bar.advance(part.stop - part.start)
    table.check()
    record = provenance(model, prompts, sites=[str(site) for site in rows], at=at)
    return Lens.build(model, prompts, table, target_ids, *record)


def _stream_sites(model: OpenModel, sites: Any) -> list[Site]:
    """The rows of the lens, in the order of the forward pass."""
    stream_sites = dict.fromkeys(model.sites.expand(sites))
    for site in stream_sites:
        if site.component not in STREAM or site.unit is not None:
            raise SiteError(unknown("site for a lens", str(site), STREAM) + "; a lens reads the whole residual stream")
    if not stream_sites:
        raise InputError("no site to look at was given")
    return sorted(stream_sites, key=lambda site: site.sort_key)


def _targets(
    model: OpenModel, prompts: Sequence[Prompt], prompt_positions: Sequence[tuple[int, ...]], targets: Any
) -> list[list[int]]:
    """The target of every position of every prompt; -1 where there is none."""
    if isinstance(targets, str) and targets == "next":
        model.check_predicts(
            prompt.ids[i + 1]
            for prompt, at in zip(prompts, prompt_positions, strict=True)
            for i in at
            if i + 1 < len(prompt.ids)
        )
        return [
            [prompt.ids[i + 1] if i + 1 < len(prompt.ids) else -1 for i in at]
            for prompt, at in zip(prompts, prompt_positions, strict=True)
        ]
    target_list = [targets] * len(prompts) if isinstance(targets, str | int) else list(targets)
    if len(target_list) != len(prompts):
        raise InputError(f"{len(target_list)} targets for {len(prompts)} prompts; give one, or one a prompt, or 'next'")
    return [[model.output_id(target)] * len(at) for target, at in zip(target_list, prompt_positions, strict=True)]


def _states(
    model: OpenModel,
    rows: Sequence[Site],
    prompts: Sequence[Prompt],
    prompt_positions: Sequence[tuple[int, ...]],
    members: Sequence[int],
) -> dict[Site, Tensor]:
    """The residual stream at the chosen positions of some prompts, ``[row, d]`` a site; the last one always."""
    last = Site("resid_post", model.sites.n_layers - 1)
    batch = torch.tensor([place for place, i in enumerate(members) for _ in prompt_positions[i]], device=model.device)
    position = torch.tensor([p for i in members for p in prompt_positions[i]], device=model.device)
    states: dict[Site, Tensor] = {}

    def sink(site: Site) -> Any:
        return lambda value: states.update({site: value[batch, position]})

    taps = {site: sink(site) for site in dict.fromkeys([*rows, last])}
    forward(model, [Row(prompts[i]) for i in members], taps=taps, logits=False)
    return states


def _chunks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _layer_metrics(
    lens: LogitLens, states: dict[Site, Tensor], targets: Tensor, rows: slice, k: int, chunk: int
) -> Iterator[tuple[Site, dict[str, Tensor]]]:
    """Every layer's metrics at a few positions, the last layer's first; ``chunk`` rows pass the head at once."""
    last = Site("resid_post", lens.model.sites.n_layers - 1)
    sites = [last, *(site for site in states if site != last)]
    final = None
    for group in _chunks(len(sites), max(1, chunk // (rows.stop - rows.start))):
        stacked = torch.cat([states[site][rows] for site in sites[group]])
        logits = lens.logits(stacked).unflatten(0, (len(sites[group]), -1))
        for index, site in enumerate(sites[group]):
            final = final or Final.of(logits[index])
            yield site, measure(logits[index], final, targets[rows], k)
        del logits  # before the next ones are made
