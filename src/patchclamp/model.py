"""What a user does with an open model: one line a capability, each the function that does it."""

from collections.abc import Mapping
from typing import Any

import torch

from patchclamp import interventions as _interventions
from patchclamp.activations import distribution as _distribution
from patchclamp.activations import live as _live
from patchclamp.baking import bake as _bake
from patchclamp.baking import llama_cpp as _llama_cpp
from patchclamp.baking import stream as _stream
from patchclamp.core.arguments import checked
from patchclamp.core.kinds import Place
from patchclamp.directions import dose as _dose
from patchclamp.directions import effects as _effects
from patchclamp.directions import evaluation as _evaluation
from patchclamp.directions import fitting as _fitting
from patchclamp.directions import projections as _projections
from patchclamp.directions import sequential_erasure as _sequential_erasure
from patchclamp.lenses import contributions as _contributions
from patchclamp.lenses import curves as _curves
from patchclamp.lenses import logit as _logit
from patchclamp.lenses import patchscope as _patchscope
from patchclamp.lenses import tuned as _tuned
from patchclamp.lenses import weights as _weight_lens
from patchclamp.models import loading as _loading
from patchclamp.models import weights as _weights
from patchclamp.models.opened import OpenModel
from patchclamp.models.tokens import Tokenizer
from patchclamp.polytopes import adversarial as _adversarial
from patchclamp.polytopes import affine as _affine
from patchclamp.polytopes import attacks as _attacks
from patchclamp.polytopes import boundaries as _boundaries
from patchclamp.polytopes import clustering as _clustering
from patchclamp.polytopes import plane as _plane
from patchclamp.polytopes import radial as _radial
from patchclamp.polytopes import raster as _raster
from patchclamp.polytopes import recording as _recording
from patchclamp.polytopes import region_counts as _region_counts
from patchclamp.polytopes import scaling as _scaling
from patchclamp.polytopes import segment as _segment
from patchclamp.rewriting import rome as _rome
from patchclamp.tracing import attribution as _attribution
from patchclamp.tracing import causal as _causal
from patchclamp.tracing import facts as _facts
from patchclamp.tracing import heads as _heads
from patchclamp.tracing import neurons as _neurons
from patchclamp.tracing import path as _path


class Model(OpenModel):
    """An open model. Make one with :func:`patchclamp.load` or :func:`patchclamp.wrap`.

    Your module is used as it is: no weight, hook, mode or gradient flag of it is different after any call. ``model.sites`` has
    every site that can be read or edited, and ``model.capabilities`` what was observed of the model.
    """

    # Run and record
    run = _interventions.run
    top = _interventions.top
    record = _interventions.record
    generate = _interventions.generate
    editing = _interventions.editing
    weight = _weights.weight

    # Activations as data
    activation_stream = _live.activation_stream
    activation_distribution = _distribution.activation_distribution

    # Sweep and patch
    sweep = _interventions.sweep
    plan = _interventions.plan
    patch = _interventions.patch
    path_patch = _path.path_patch
    attribution_patch = _attribution.attribution_patch

    # Trace
    causal_trace = _causal.causal_trace
    trace_facts = _facts.trace_facts
    neuron_importances = _neurons.neuron_importances
    head_scores = _heads.head_scores

    # Lenses
    lens = _logit.lens
    tune_lens = _tuned.tune_lens
    lens_curves = _curves.lens_curves
    contributions = _contributions.contributions
    patchscope = _patchscope.patchscope
    weight_lens = _weight_lens.weight_lens

    # Directions
    fit_direction = _fitting.fit_direction
    fit_directions = _fitting.fit_directions
    sequential_erasure = _sequential_erasure.sequential_erasure
    evaluate_direction = _evaluation.evaluate_direction
    layer_effects = _effects.layer_effects
    dose_response = _dose.dose_response
    projections = _projections.projections
    rows = _fitting.rows
    reference = _fitting.reference

    # Polytopes
    segment = _segment.segment
    crossings = _segment.crossings
    affine_map = _affine.affine_map
    region_maps = _affine.region_maps
    neighbour_distances = _affine.neighbour_distances
    spline_codes = _recording.spline_codes
    soft_codes = _recording.soft_codes
    cluster = _clustering.cluster
    plane = _plane.plane
    raster = _raster.raster
    region_counts = _region_counts.region_counts
    boundaries = _boundaries.boundaries
    radial_density = _radial.radial_density
    scaling = _scaling.scaling
    attack = _attacks.attack
    adversarial_paths = _adversarial.adversarial_paths

    # Rewrite
    rewrite_fact = _rome.rewrite_fact

    # Bake
    baked = _bake.baked
    stream_sites = _stream.stream_sites
    export = _bake.export
    export_control_vector = _llama_cpp.export_control_vector


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
        revision: This branch, tag or commit of a Hugging Face repository is loaded; if it is None, the default branch is.
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
    model = Model(opened.module, opened.tokenizer, opened.sites, opened.source, _interventions.verify)
    if not any(module.training for module in model.module.modules()):
        model.look()
    return model
