"""Edits as weights: a copy of the model, or a plain checkpoint, that needs no hooks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchclamp.baking.affine import Affine, affine
from patchclamp.baking.fold_targets import FoldTarget, Wiring, look_ahead, spots_of
from patchclamp.baking.folding import Folding
from patchclamp.baking.stream import STREAM, fold_stream
from patchclamp.core import folders
from patchclamp.core.arguments import checked
from patchclamp.core.errors import EditError, InputError, SiteError
from patchclamp.core.kinds import Folder
from patchclamp.core.result import library_versions
from patchclamp.core.tolerances import WEIGHTS
from patchclamp.interventions import (
    Agreement,
    Edit,
    Edits,
    agreement,
    as_edits,
    check_folder,
    check_format,
    place,
    save_edits,
    write_checkpoint,
)
from patchclamp.models.guard import check_kind
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

NEUTRAL = (
    "The weather in the mountains changed quickly that afternoon, and they turned back.",
    "She opened the letter, read it twice, and said nothing.",
    "To make bread you need flour, water, salt and",
    "def area(width, height):\n    return width *",
)
"""Prompts on which a baked model is compared with the hooked one, besides the user's."""
_SUGGESTIONS = {
    "attn_pattern": "edit 'z' or 'attn_out' instead",
    "mlp_pre": "nearest: 'mlp_in' or 'mlp_act'",
    "attn_in": "nearest: 'q', 'k' and 'v'",
    "mlp_in": "nearest: 'mlp_act' or 'mlp_out'",
    "final_norm": "nearest: 'logits', or all states of the stream, site=['resid_pre', 'resid_mid', 'resid_post']",
    "logits": "nearest: 'final_norm'",
    "embed": "nearest: 'resid_pre.0'",
}


@checked
def baked(model: OpenModel, edits: Edits, *, prompts: Any = (), tolerance: float | None = None) -> nn.Module:
    """A copy of a model with edits in its weights; it shares every tensor that is unchanged.

    Open it with ``pc.wrap(pc.baked(model, edits), model.tokenizer)``.

    Args:
        model: The model, which is left as it is.
        edits: Edits that are placed, at all positions, without gates. Linear maps of what a weight directly makes or reads; with
            a constant where there is a bias, or at ``embed``; a projection of every state of the residual stream.
        prompts: Prompts on which the copy is compared with the hooked model, besides some neutral ones.
        tolerance: The largest difference of their logits, relative to the largest logit. By default 1e-6 in float64, 1e-4 in
            float32, 2e-2 in float16 and 1e-1 in bfloat16: a weight is rounded once, and hooks round each activation.

    Raises:
        EditError: An edit is no change of weights; the message says why and what is near.
        SiteError: Something stands between a site and its weight.
        ModelError: The weight is no matrix of floats, or shared.
        ExactnessError: The copy says something else than the hooked model.
    """
    edit_list, prompt_list = _read_arguments(model, edits, prompts)
    module = _fold(model, edit_list, prompt_list).module()
    agreement(model, edit_list, module, prompt_list).check("the baked model's", _tolerance(model, tolerance))
    return module


@checked
def export(
    model: OpenModel,
    edits: Edits,
    folder: Folder,
    *,
    prompts: Any = (),
    tolerance: float | None = None,
) -> Agreement:
    """Write a plain ``transformers`` checkpoint with edits in its weights, reload it, and compare.

    Beside the weights lie the tokenizer, the edits (:func:`patchclamp.load_edits`), and ``patchclamp.json`` with the model,
    the prompts and the measured difference.

    Args:
        model: The model, which is left as it is.
        edits: Edits, as for :func:`patchclamp.baked`.
        folder: The folder to write, which appears complete or not at all.
        prompts: Prompts on which logits are compared, besides some neutral ones.
        tolerance: The largest difference, as for :func:`patchclamp.baked`.

    Returns:
        How far the reloaded checkpoint is from the hooked model.

    Raises:
        InputError: The folder is not empty.
        EditError: An edit is no change of weights; the message says why and what is near.
        SiteError: Something stands between a site and its weight.
        ModelError: The model is none of ``transformers``, or a weight is no matrix of floats, or shared.
        ExactnessError: The reloaded weights are not those that were written, or say something else than the hooked model.
    """
    target = Path(folder)
    check_format(model.module)
    check_folder(target)
    edit_list, prompt_list = _read_arguments(model, edits, prompts)
    folding = _fold(model, edit_list, prompt_list)

    def write_record(into: Path, measurement: Agreement) -> None:
        save_edits(edit_list, into)
        record = {
            "kind": "baked",
            "model": model.describe().value(),
            "prompts": [{"text": prompt.text, "ids": list(prompt.ids)} for prompt in prompt_list],
            "changed": folding.parameter_names,
            "differs": vars(measurement),
            "versions": library_versions(),
        }
        folders.seal(into, folders.BAKED, record)

    return write_checkpoint(
        model, folding.module(), edit_list, prompt_list, target, write_record, _tolerance(model, tolerance)
    )


def _tolerance(model: OpenModel, tolerance: float | None) -> float:
    if tolerance is not None and not tolerance > 0:
        raise InputError(f"tolerance must be above 0, got {tolerance}")
    return WEIGHTS.of(model.dtype) if tolerance is None else tolerance


def _read_arguments(model: OpenModel, edits: Edits, prompts: Any) -> tuple[list[Edit], list[Prompt]]:
    """Read the edits, refuse what no weight can know, and make the prompts to compare on."""
    edit_list = list(as_edits(edits))
    if not edit_list:
        raise EditError("no edits were given, so there is nothing to bake")
    check_kind(model.module)
    for edit in edit_list:
        where = f"{type(edit.operation).__name__} at {', '.join(edit.sites) or 'no site'}"
        if edit.at != "all":
            raise EditError(
                f"{where} acts at={edit.at!r}, and a weight cannot know positions; nearest: the same edit at='all', as "
                "edit.on(at='all')"
            )
        if edit.where is not None:
            raise EditError(
                f"{where} has a gate ({type(edit.where).__name__}), and a weight acts on every activation; nearest: the "
                "same edit without where="
            )
    return edit_list, [*_neutral_prompts(model), *(model.prompts(prompts) if _has_prompts(prompts) else [])]


def _has_prompts(prompts: Any) -> bool:
    return not (isinstance(prompts, list | tuple) and not prompts)


def _neutral_prompts(model: OpenModel) -> list[Prompt]:
    if model.tokenizer is not None:
        return model.prompts(list(NEUTRAL))
    if model.takes_tokens and model.vocabulary:
        generator = torch.Generator().manual_seed(0)
        length = min(12, model.context or 12)
        return model.prompts(torch.randint(model.vocabulary, (len(NEUTRAL), length), generator=generator).tolist())
    return []


def _fold(model: OpenModel, edits: Sequence[Edit], prompts: Sequence[Prompt]) -> Folding:
    if not prompts:
        raise InputError("this model has no tokens, so prompts= are needed: inputs to compare on")
    actions = place(model, edits, prompts)[0]
    wiring, folding = Wiring(model, prompts[0]), Folding(model)
    look_ahead(wiring, [action.site for action in actions])
    stream: dict[Site, Affine] = {}
    embed: Affine | None = None
    folds: list[tuple[FoldTarget, Affine, Site]] = []
    for action in actions:
        site = action.site
        try:
            change = affine(action.operation, model.sites.width(site) or wiring.look([site])[0].shape[-1])
        except EditError as error:
            raise EditError(f"{site}: {error}") from None
        if site.component in STREAM and site.unit is None:
            stream[site] = stream[site].then(change) if site in stream else change
            continue
        if site.component == "embed" and site.unit is None:
            embed = change if embed is None else embed.then(change)
        folds += [(spot, change, site) for spot in _spots(wiring, site)]
    # the last to act on a weight's input is the first that the weight takes up
    inputs = [fold for fold in folds if fold[0].side == "in"]
    outputs = [fold for fold in folds if fold[0].side == "out"]
    for spot, change, site in [
        *sorted(reversed(inputs), key=lambda fold: not fold[0].direct),
        *sorted(outputs, key=lambda fold: not fold[0].direct),
    ]:
        folding.fold(spot, change, str(site))
    if stream:
        try:
            fold_stream(folding, wiring, stream, embed)
        except SiteError as error:
            site = next(iter(stream))
            raise SiteError(f"an edit at {site} is no change of weights: {error}; nearest: 'embed'") from None
    return folding


def _spots(wiring: Wiring, site: Site) -> list[FoldTarget]:
    try:
        return spots_of(wiring, site)
    except SiteError as error:
        raise SiteError(
            f"an edit at {site} is no change of weights: {error}; {_suggestion(wiring.model, site)}"
        ) from None


def _suggestion(model: OpenModel, site: Site) -> str:
    if site.component in ("attn_out", "mlp_out"):
        try:
            path = model.sites.access(Site("z" if site.component == "attn_out" else "mlp_act", site.layer)).module
            return f"nearest: '{path}:out', the projection's own output"
        except SiteError:
            return "nearest: 'attn_out' of the same layer, or 'embed'"
    if site.component in STREAM:
        return "nearest: the whole vector at site=['resid_pre', 'resid_mid', 'resid_post']"
    return _SUGGESTIONS.get(site.component, "nearest: the input or output of an nn.Linear, as in 'lm_head:in'")
