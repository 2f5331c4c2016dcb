"""Where each kind of result finds its class, its figure and its parts of the report. One line a kind."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from patchclamp.core.arguments import checked_as
from patchclamp.core.errors import InputError, unknown


@dataclass(frozen=True)
class Kind:
    """The three places of a result kind, as ``module:name``; imported when first needed."""

    result: str
    figure: str
    parts: str


KINDS: dict[str, Kind] = {
    "grid": Kind("interventions:Grid", "figures.grid:figure", "reports.grid:parts"),
    "run": Kind("interventions:Run", "figures.run:figure", "reports.run:parts"),
    "activations": Kind("interventions:Activations", "figures.activations:figure", "reports.activations:parts"),
    "generation": Kind("interventions:Generation", "figures.generation:figure", "reports.generation:parts"),
    "lens": Kind("lenses.result:Lens", "figures.lens:figure", "reports.lens:parts"),
    "contributions": Kind(
        "lenses.contributions:Contributions", "figures.contributions:figure", "reports.contributions:parts"
    ),
    "lens_curves": Kind("lenses.curves:LensCurves", "figures.lens_curves:figure", "reports.lens_curves:parts"),
    "patchscope": Kind("lenses.patchscope:Patchscope", "figures.lens:figure", "reports.patchscope:parts"),
    "weight_lens": Kind("lenses.weights:WeightLens", "figures.weights:figure", "reports.weights:parts"),
    "trace": Kind("tracing.trace:Trace", "figures.trace:figure", "reports.trace:parts"),
    "trace_average": Kind("tracing.average:TraceAverage", "figures.average:figure", "reports.average:parts"),
    "attribution": Kind("tracing.attribution:Attribution", "figures.grid:figure", "reports.attribution:parts"),
    "heads": Kind("tracing.heads:HeadScores", "figures.heads:figure", "reports.heads:parts"),
    "layer_effects": Kind("directions.effects:LayerEffects", "figures.layer_effects:figure", "reports.effects:parts"),
    "dose_response": Kind("directions.dose:DoseResponse", "figures.dose_response:figure", "reports.effects:parts"),
    "projections": Kind("directions.projections:Projections", "figures.projections:figure", "reports.effects:parts"),
    "segment": Kind("polytopes.segment:Segment", "figures.segment:figure", "reports.effects:parts"),
    "plane": Kind("polytopes.plane:Plane", "figures.plane:figure", "reports.plane:parts"),
    "raster": Kind("polytopes.raster:Raster", "figures.raster:figure", "reports.effects:parts"),
    "boundaries": Kind("polytopes.boundaries:Boundaries", "figures.boundaries:figure", "reports.effects:parts"),
    "radial_density": Kind("polytopes.radial:RadialDensity", "figures.radial_density:figure", "reports.effects:parts"),
    "scaling": Kind("polytopes.scaling:Scaling", "figures.scaling:figure", "reports.effects:parts"),
    "paths": Kind("polytopes.adversarial:AdversarialPaths", "figures.paths:figure", "reports.effects:parts"),
    "rewrite": Kind("rewriting.result:Rewrite", "figures.rewrite:figure", "reports.rewrite:parts"),
    "bias": Kind("metrics.bias:Bias", "figures.bias:figure", "reports.metrics:parts"),
    "damage": Kind("metrics.damage:Damage", "figures.damage:figure", "reports.metrics:parts"),
    "divergence": Kind("metrics.divergence:Divergence", "figures.divergence:figure", "reports.divergence:parts"),
    "interchange": Kind("metrics.interchange:Interchange", "figures.interchange:figure", "reports.metrics:parts"),
    "probe_report": Kind("metrics.probes:ProbeReport", "figures.probes:figure", "reports.metrics:parts"),
    "spline_codes": Kind("polytopes.codes:SplineCodes", "figures.spline_codes:figure", "reports.spline_codes:parts"),
    "clusters": Kind("polytopes.clusters:Clusters", "figures.clusters:figure", "reports.clusters:parts"),
    "neurons": Kind("tracing.neurons:Neurons", "figures.neurons:figure", "reports.neurons:parts"),
}


def find(kind: str, place: str) -> Any:
    """The ``place`` (``result``, ``figure`` or ``parts``) of a result kind.

    Raises:
        InputError: There is no such kind.
    """
    if kind not in KINDS:
        raise InputError(unknown("result kind", kind, KINDS))
    return find_name(getattr(KINDS[kind], place))


def find_name(path: str) -> Any:
    """What ``module:name`` inside patchclamp stands for, imported now."""
    module, _, name = path.partition(":")
    return getattr(find_module(module), name)


def find_module(name: str) -> Any:
    """A module inside patchclamp, imported now."""
    return import_module(f"patchclamp.{name}")


def page_of(result: Any) -> str:
    """The complete HTML page of a result."""
    text: str = find_name("reports.page:result_page")(result)
    return text


@cache
def figure_of(kind: str) -> Callable[..., Any]:
    """The function that draws a result of this kind with matplotlib; its options are checked."""
    found: Callable[..., Any] = find(kind, "figure")
    return checked_as(InputError, f"the figure of a {kind}")(found)
