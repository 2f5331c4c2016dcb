"""The facade: what a user does with an open model, one line a method."""

from collections.abc import Mapping
from typing import Any

import torch

from patchclamp.core.arguments import checked
from patchclamp.core.kinds import Place
from patchclamp.facade.baking import Baking
from patchclamp.facade.directions import Directions
from patchclamp.facade.lenses import Lenses
from patchclamp.facade.polytopes import Polytopes
from patchclamp.facade.rewriting import Rewriting
from patchclamp.facade.tracing import Tracing
from patchclamp.interventions import generate as _generate
from patchclamp.interventions import patching as _patching
from patchclamp.interventions import record as _record
from patchclamp.interventions import run as _run
from patchclamp.interventions import stepping as _stepping
from patchclamp.interventions import sweep as _sweep
from patchclamp.interventions.verification import verify as _verify
from patchclamp.models import loading as _loading
from patchclamp.models import weights as _weights
from patchclamp.models.opened import OpenModel
from patchclamp.models.tokens import Tokenizer
from patchclamp.tracing import attribution as _attribution
from patchclamp.tracing import path as _path


class Model(Lenses, Tracing, Directions, Polytopes, Rewriting, Baking):
    """An open model. Make one with :func:`patchclamp.load` or :func:`patchclamp.wrap`.

    Your module is used as it is: no weight, hook, mode or gradient flag of it is different after any call.
    """

    run = _run.run
    top = _run.top
    record = _record.record
    generate = _generate.generate
    editing = _stepping.editing
    weight = _weights.weight

    sweep = _sweep.sweep
    plan = _sweep.plan
    patch = _patching.patch
    path_patch = _path.path_patch
    attribution_patch = _attribution.attribution_patch


@checked
def load(
    name_or_path: Place,
    *,
    dtype: str | torch.dtype = "auto",
    device_map: str | int | torch.device | Mapping[str, str | int | torch.device] | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
) -> Model:
    """Open a model by name.

    Args:
        name_or_path: A name of the catalogue (``smollm2-135m``, ``stories15m``, ``resnet50-imagenet``), a Hugging Face
            id, or a folder.
        dtype: ``"auto"`` (as saved), ``"float32"``, ``"bfloat16"``, ...
        device_map: One device, as ``"cuda:0"``, or ``"auto"`` if that puts the whole model on one; a model spread over devices
            is refused.
        revision: Of a Hugging Face repository.
        attn_implementation: ``"eager"`` shows attention patterns; the default is the model's own.

    Raises:
        ModelError: Unknown, broken, quantised or spread over devices; or its checkpoint misses weights, holds others, or holds
            them in another shape, so that what opens would not be what was saved.
        AssetError: A file of the catalogue's cache is damaged; says how to fetch it again.
    """
    opened = _loading.open_model(
        name_or_path, dtype=dtype, device_map=device_map, revision=revision, attn_implementation=attn_implementation
    )
    return _as_model(opened)


@checked
def wrap(module: Any, tokenizer: Tokenizer = None) -> Model:
    """Open a live model: any ``transformers`` model, or any ``nn.Module`` (whose sites are its module paths).

    Args:
        module: Used as it is, never modified.
        tokenizer: To pass text and find tokens.

    Raises:
        ModelError: Compiled, quantised or spread over devices.
    """
    return _as_model(_loading.wrap_module(module, tokenizer))


def _as_model(opened: OpenModel) -> Model:
    model = Model(opened.module, opened.tokenizer, opened.sites, opened.source)
    model.pending = _verify
    if not any(module.training for module in model.module.modules()):
        model.look()
    return model
