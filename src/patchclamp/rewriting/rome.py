"""Rank-one model editing: one fact, rewritten in one MLP (Meng et al. 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.activations.corpus import CORPORA
from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, ModelError, unknown
from patchclamp.core.kinds import Repeats, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.interventions import (
    Action,
    Operation,
    Row,
    Source,
    Tail,
    last_logits,
    operations,
    provenance,
    record_source,
    widen,
)
from patchclamp.models.opened import OpenModel
from patchclamp.rewriting.fact import FactPrompts, read_fact
from patchclamp.rewriting.moment import Covariance, check_ridge, covariance
from patchclamp.rewriting.projection import Projection
from patchclamp.rewriting.result import Rewrite
from patchclamp.rewriting.value import TERMS, Search, search

if TYPE_CHECKING:
    import xarray as xr

RIDGE = 1e-3
IDENTITY = "identity"
"""The name of a control in place of a covariance: every direction counts the same."""
Moment = Covariance | str


@dataclass(frozen=True, eq=False)
class Update:
    """A rank-one update ``W' = W + change read^T``, all float64."""

    key: Tensor
    read: Tensor
    change: Tensor
    write: Tensor
    """The direction ``[d_mlp]`` with ``write @ W = change``, as nearly as the projection allows."""
    error: float
    """The relative error of that equation."""


def rank_one(matrix: Tensor, key: Tensor, change: Tensor, whitened_key: Tensor) -> Update:
    """The smallest update, in the metric of the covariance, that adds a change to what one key gives.

    Of all updates ``D`` with ``k* @ D = change`` this one has the least ``E |k @ D|^2`` over the corpus's keys, and keys with
    ``k^T C^-1 k* = 0`` keep their values.

    Source: Meng et al. 2022, arXiv 2202.05262, equation 2 and appendix A.

    Args:
        matrix: ``W``, ``[d_mlp, d_model]``.
        key: ``k*``, ``[d_mlp]``.
        change: ``v* - k* @ W``, ``[d_model]``.
        whitened_key: ``C^-1 k*``, ``[d_mlp]``.

    Raises:
        ModelError: The key is zero or not finite.
    """
    quadratic_form = float(key @ whitened_key)
    if not bool(torch.isfinite(key).all()) or not quadratic_form > 0:
        raise ModelError(f"the subject's key cannot be rewritten: k^T C^-1 k is {quadratic_form}")
    q, r = torch.linalg.qr(matrix)
    is_singular = r.diagonal().abs().min() <= 1e-12 * r.diagonal().abs().max() or matrix.shape[0] < matrix.shape[1]
    write = (
        torch.linalg.lstsq(matrix.T, change, driver="gelsd").solution if is_singular else q @ _solve_lower(r, change)
    )
    error = float((write @ matrix - change).norm() / change.norm().clamp(min=1e-300))
    return Update(key, whitened_key / quadratic_form, change, write, error)


def _solve_lower(r: Tensor, change: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(r.T, change.unsqueeze(1), upper=False)
    return solution.squeeze(1)


@recorded
def rewrite_fact(
    model: OpenModel,
    prompt: Any,
    subject: Any,
    target: str | int,
    *,
    layer: int | None = None,
    true: str | int | None = None,
    covariance: Moment = "gutenberg",
    ridge: float = RIDGE,
    prefixes: Repeats | Sequence[Any] = 5,
    essence: str | None = "{} is a",
    seed: Seed = 0,
    progress: bool | Listener | None = None,
    steps: Repeats = Search.steps,
    lr: float = Search.lr,
    kl: float = Search.kl,
    decay: float = Search.decay,
    clamp: float = Search.clamp,
    enough: float = Search.enough,
) -> Rewrite:
    """Rewrite one fact in the down projection of one MLP (ROME); the model itself stays as it is.

    The subject's key is the mean input of the projection at the subject's last token, over the prompt alone and after
    prefixes. The value that makes the target likely is found by gradient. The update of rank one that stores it
    moves the corpus's other keys least.

    Source: Meng et al. 2022, "Locating and editing factual associations in GPT", arXiv 2202.05262, section 3.1.

    Args:
        model: The model.
        prompt: One prompt that ends where the answer begins: with ``{}`` for the subject, or with the subject in it.
        subject: The text of the subject (or its positions).
        target: The new answer, one token, as ``" Rome"``.
        layer: The layer of the MLP; a sixth of the way up by default.
        true: The answer to be replaced, for the record; the likeliest other one by default.
        covariance: The second moment of the layer's keys: ``"gutenberg"`` (made once and kept) or one book of it, one made
            with :func:`patchclamp.rewriting.covariance`, or ``"identity"``, a control.
        ridge: The number that is added to its diagonal, as a share of the mean.
        prefixes: The number of beginnings to sample from the model, or texts.
        essence: The template that asks what the subject is, which is kept; None leaves that out.
        seed: The seed of the sampling.
        progress: True for a bar, a function for events.
        steps: The largest number of steps of the search for the value; it ends sooner when the target is likely enough.
        lr: Adam's step, in units of the value's root mean square.
        kl: The weight of the divergence after the essence prompt.
        decay: The weight of the change's squared length, relative to the value's.
        clamp: The length of the longest change, in lengths of the value.
        enough: The search ends when the mean surprisal of the target falls below this (nats).

    Raises:
        InputError: The target is not one token, no such layer, or a covariance of another layer or model.
        PositionError: The subject is not in the prompt, or not on token borders.
        SiteError: The MLP is a mixture of experts.
        ModelError: The model reads both ways, or the projection is shared or not finite.
    """
    settings = Search(steps, lr, kl, decay, clamp, enough)
    projection = Projection.of(model, _default_layer(model) if layer is None else layer)
    check_ridge(ridge)
    _check_moment(model, projection, covariance)
    fact = read_fact(model, prompt, subject, target, true, prefixes, essence, seed)
    moment = _resolve_moment(model, projection, covariance, progress)
    subject_positions = [c.subject for c in (*fact.contexts, *fact.essences)]
    prompts = [c.prompt for c in (*fact.contexts, *fact.essences)]
    key = _key(model, projection, fact)
    whitened_key = key if moment is None else moment.solve(key, ridge)
    value = key @ projection.matrix + projection.bias
    tail = Tail.record(model, prompts, projection.output_site, projection.layer, subject_positions)
    with task("rewrite", settings.steps, "steps", show=progress) as bar:
        change, curve = search(tail, len(fact.contexts), fact.target, value, settings, bar.advance)
    update = rank_one(projection.matrix, key, change, whitened_key)
    record, tensors = provenance(
        model, [fact.contexts[0].prompt], prompt=fact.contexts[0].prompt, layer=projection.layer, target=fact.target,
        subject=subject if isinstance(subject, str) else list(fact.positions), essence=fact.essence,
    )  # fmt: skip
    record |= {**_described(model, fact), "checks": _checks(projection, update, value, moment, ridge, model)}
    answers = [fact.target, fact.true]
    return Rewrite(_dataset(model, fact, answers, projection, update, value, curve), record, tensors)


def _described(model: OpenModel, fact: FactPrompts) -> dict[str, Any]:
    """What the record says of the fact, as text and token ids."""
    return {
        "said": fact.contexts[0].prompt.name,
        "target": model.output_label(fact.target),
        "true": model.output_label(fact.true),
        "contexts": [list(context.prompt.ids) for context in fact.contexts],
    }


def _default_layer(model: OpenModel) -> int:
    return model.sites.n_layers // 6


def _check_moment(model: OpenModel, projection: Projection, moment: Moment) -> None:
    if isinstance(moment, Covariance):
        moment.check(model, projection.layer)
    elif moment != IDENTITY and moment.partition(":")[0] not in CORPORA:
        raise InputError(
            unknown("covariance", moment, (*CORPORA, IDENTITY)) + "; or one made with pc.rewriting.covariance"
        )


def _resolve_moment(model: OpenModel, projection: Projection, choice: Moment, progress: Any) -> Covariance | None:
    if isinstance(choice, Covariance):
        return choice
    if choice == IDENTITY:
        return None
    return covariance(model, projection.layer, choice, progress=progress)


def _key(model: OpenModel, projection: Projection, fact: FactPrompts) -> Tensor:
    """The mean of the subject's last key over the contexts, ``[d_mlp]`` float64."""
    prompts = [context.prompt for context in fact.contexts]
    rows = record_source(model, Source(prompts), [projection.key_site])[projection.key_site]
    keys = [row[context.subject] for row, context in zip(rows, fact.contexts, strict=True)]
    return torch.stack(keys).to("cpu", torch.float64).mean(0)


def _checks(
    projection: Projection, update: Update, value: Tensor, moment: Covariance | None, ridge: float, model: OpenModel
) -> dict[str, Any]:
    """The plain numbers that a reader needs to trust the update."""
    update_norm = float(update.change.norm() * update.read.norm())
    return {
        "projection": projection.key,
        "of": f"{model.source.name or 'a live model'}, {projection.path}",
        "update": update_norm / float(projection.matrix.norm()),
        "change": float(update.change.norm() / value.norm()),
        "written": update.error,
        "covariance": IDENTITY if moment is None else f"of {moment.tokens} tokens of {moment.corpus}",
        "moment": None if moment is None else moment.described(),
        "condition": 1.0 if moment is None else moment.condition(ridge),
    }


def _probabilities(
    model: OpenModel, fact: FactPrompts, answers: Sequence[int], site: Any, operation: Operation | None
) -> Tensor:
    """The probabilities of some answers after each context, ``[context, answer]`` float64."""
    rows = []
    for context in fact.contexts:
        all_positions = tuple(range(len(context.prompt.ids)))
        actions = () if operation is None else (Action(site, all_positions, operation),)
        rows.append(Row(context.prompt, actions))
    probabilities = widen(last_logits(model, rows)).softmax(-1)
    return probabilities[:, list(answers)].to("cpu", torch.float64)


def _dataset(
    model: OpenModel,
    fact: FactPrompts,
    answers: Sequence[int],
    projection: Projection,
    update: Update,
    value: Tensor,
    curve: dict[str, list[float]],
) -> "xr.Dataset":
    import xarray as xr

    edit = operations.RankOne(update.read, update.write)
    probabilities = [_probabilities(model, fact, answers, projection.key_site, operation) for operation in (None, edit)]
    variables: dict[str, Any] = {
        "probability": (("context", "moment", "answer"), torch.stack(probabilities, 1).numpy()),
        **{name: ("step", np.array(curve[name])) for name in TERMS},
        "key": ("neuron", update.key.numpy()),
        "read": ("neuron", update.read.numpy()),
        "write": ("neuron", update.write.numpy()),
        "value": ("d", (value + update.change).numpy()),
        "change": ("d", update.change.numpy()),
    }
    coords = {
        "context": np.array([context.prompt.name for context in fact.contexts], dtype=object),
        "moment": np.array(["before", "after"], dtype=object),
        "answer": np.array([model.output_label(answer) for answer in answers], dtype=object),
        "step": np.arange(len(curve["loss"])),
    }
    return xr.Dataset(variables, coords=coords)
