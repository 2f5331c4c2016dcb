"""A method of an open model hands everything that it is given to the function that does the work, under the right name."""

import inspect
from importlib import import_module
from typing import Any

import pytest
import torch

import patchclamp as pc
from patchclamp.models.opened import OpenModel
from tests import tiny

DONE_BY = {
    "lens": "lenses.logit:look",
    "lens_curves": "lenses.curves:lens_curves",
    "contributions": "lenses.contributions:contribute",
    "patchscope": "lenses.patchscope:look",
    "weight_lens": "lenses.weights:look",
    "causal_trace": "tracing.causal:causal_trace",
    "trace_facts": "tracing.facts:trace_facts",
    "neuron_importances": "tracing.neurons:neuron_importances",
    "head_scores": "tracing.heads:head_scores",
    "fit_directions": "directions.fitting:fit_directions",
    "scrub": "directions.scrubbing:scrub",
    "evaluate_direction": "directions.evaluation:evaluate",
    "layer_effects": "directions.effects:layer_effects",
    "dose_response": "directions.dose:dose_response",
    "projections": "directions.projections:projections",
    "rewrite_fact": "rewriting.rome:rewrite_fact",
    "baked": "baking.bake:baked",
    "export": "baking.bake:export",
    "export_control_vector": "baking.llama_cpp:export_control_vector",
    "segment": "polytopes.segment:segment",
    "crossings": "polytopes.segment:crossings",
    "affine_map": "polytopes.affine:affine_map",
    "region_maps": "polytopes.affine:region_maps",
    "neighbour_distances": "polytopes.affine:neighbour_distances",
    "spline_codes": "polytopes.recording:spline_codes",
    "soft_codes": "polytopes.recording:soft_codes",
    "cluster": "polytopes.clustering:cluster_layer",
    "plane": "polytopes.plane:plane",
    "raster": "polytopes.raster:raster",
    "region_counts": "polytopes.region_counts:region_counts",
    "boundaries": "polytopes.boundaries:boundaries",
    "radial_density": "polytopes.radial:radial_density",
    "scaling": "polytopes.scaling:scaling",
    "attack": "polytopes.attacks:attack",
    "adversarial_paths": "polytopes.adversarial:adversarial_paths",
}
OF_THEIR_OWN = {"tune_lens", "fit_direction", "rows", "reference", "stream_sites"}
"""Methods that do a little themselves; they have tests of their own."""
POSITIONAL, OTHERS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def methods() -> dict[str, Any]:
    inherited = set(dir(OpenModel))
    found = {name: function for name, function in inspect.getmembers(pc.Model, inspect.isfunction)}
    return {name: function for name, function in found.items() if name not in inherited}


def given_to(method: inspect.Signature, target: inspect.Signature) -> tuple[list[object], dict[str, object]]:
    """One object of its own for every parameter, and for ``**options`` every parameter that the target has besides."""
    args: list[object] = []
    named: dict[str, object] = {}
    for name, parameter in list(method.parameters.items())[1:]:
        if parameter.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD:
            args.append(object())
        elif parameter.kind == inspect.Parameter.KEYWORD_ONLY:
            named[name] = object()
    besides = list(target.parameters.values())[1 + len(args) :]
    if any(parameter.kind == POSITIONAL for parameter in method.parameters.values()):
        args.append(object())
        besides = besides[1:]
    if any(parameter.kind == OTHERS for parameter in method.parameters.values()):
        named |= {p.name: object() for p in besides if p.kind == inspect.Parameter.KEYWORD_ONLY}
        if any(p.kind == OTHERS for p in besides):
            named["something"] = object()
    return args, named


def test_every_method_is_covered() -> None:
    assert {name for name in methods() if name not in vars(pc.Model)} == set(DONE_BY) | OF_THEIR_OWN


@pytest.mark.parametrize("name", DONE_BY)
def test_everything_is_handed_on_under_its_name(name: str, llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    place, _, attribute = DONE_BY[name].partition(":")
    module = import_module(f"patchclamp.{place}")
    method, target = (inspect.signature(f) for f in (methods()[name], getattr(module, attribute)))
    calls: list[tuple[Any, Any]] = []

    class Done:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            calls.append((args, kwargs))
            self.plan = self

    monkeypatch.setattr(module, attribute, Done)
    args, named = given_to(method, target)
    behind_the_door = inspect.unwrap(methods()[name])  # which would refuse these values
    assert isinstance(behind_the_door(llama, *args, **named), Done), "what the function gives is given back"
    ((handed, handed_by_name),) = calls
    assert handed[0] is llama
    found = target.bind(*handed, **handed_by_name).arguments
    found |= found.pop(next((n for n, p in target.parameters.items() if p.kind == OTHERS), ""), {})
    places = list(target.parameters)
    for index, value in enumerate(args):
        assert found[places[1 + index]] is value, f"{name}: argument {index} is not {places[1 + index]}"
    for parameter, value in named.items():
        assert found[parameter] is value, f"{name}: {parameter}"


@pytest.mark.parametrize("name", DONE_BY)
def test_a_method_and_its_function_have_the_same_names_and_defaults(name: str) -> None:
    place, _, attribute = DONE_BY[name].partition(":")
    method, target = (
        inspect.signature(f) for f in (methods()[name], getattr(import_module(f"patchclamp.{place}"), attribute))
    )
    own, theirs = (list(signature.parameters.values())[1:] for signature in (method, target))
    for mine, other in zip(own, theirs, strict=False):
        if mine.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD:
            assert mine.name == other.name or (mine.name in ("prompt", "prompts") and other.name == "inputs")
    for mine in own:
        same = target.parameters.get(mine.name)
        if same is not None and same.default is not same.empty and mine.default is not mine.empty:
            assert mine.default == same.default, f"{name}: {mine.name}"


DEFAULTS: dict[str, dict[str, Any]] = {
    "attribution_patch": {"sites": "resid_post", "at": "each", "align": "equal", "integrate": 0, "check": 20},
    "causal_trace": {
        "sites": "resid_post", "samples": 10, "noise": 3.0, "seed": 0, "method": "exact", "integrate": 0, "check": 20,
    },
    "contributions": {"at": "last", "heads": False},
    "dose_response": {"edit": "add", "about": "mean"},
    "evaluate_direction": {"seed": 0},
    "fit_directions": {"sites": "resid_post", "at": "rest", "sinks": "skip", "holdout": 0.25, "seed": 0},
    "head_scores": {"length": 32, "samples": 8, "seed": 0, "draws": 100},
    "layer_effects": {"edits": ("erase", "swap", "double"), "about": "mean"},
    "lens": {"sites": "resid_post", "at": "all", "k": 5, "targets": "next", "chunk": 48, "batch_tokens": 512},
    "lens_curves": {
        "sites": "resid_post", "at": "all", "length": 128, "tokens": 20000, "targets": "next", "chunk": 48, "batch_tokens": 512,
    },
    "neuron_importances": {"samples": 10, "noise": 3.0, "seed": 0, "integrate": 0, "top": 10, "verify": 20},
    "patch": {
        "sites": "resid_post", "at": "each", "align": "equal", "cumulative": False, "budget": "1GB", "verify": 0,
    },
    "patchscope": {
        "sites": "resid_post", "at": "all", "target": "cat -> cat; 135 -> 135; hello -> hello; ?", "into_at": "last", "k": 5,
        "max_new_tokens": 0,
    },
    "path_patch": {
        "sender": "z.*.h*", "receivers": "final_norm", "at": "all", "receive_at": "all", "freeze": ("attn_out", "mlp_out"),
        "align": "equal", "budget": "1GB", "verify": 0,
    },
    "plan": {"cumulative": False, "budget": "1GB"},
    "record": {"at": "all", "batch_tokens": 2048, "grad": False},
    "reference": {"at": "rest"},
    "region_counts": {"samples": 400},
    "rewrite_fact": {"covariance": "gutenberg", "ridge": 0.001, "prefixes": 5, "essence": "{} is a", "seed": 0},
    "rows": {"at": "rest", "sinks": "skip"},
    "run": {"at": "all", "logits": "all", "grad": False, "batch_tokens": 2048},
    "scrub": {"at": "rest"},
    "soft_codes": {"at": "all"},
    "spline_codes": {"at": "all"},
    "sweep": {"cumulative": False, "budget": "1GB", "verify": 0},
    "top": {"k": 10},
    "trace_facts": {"sites": "resid_post", "samples": 10, "noise": 3.0, "seed": 0},
    "tune_lens": {"corpus": "gutenberg"},
    "weight_lens": {"directions": 10, "k": 10, "through": "embedding", "draws": 20, "seed": 0},
}  # fmt: skip
"""What is measured when nothing else is said; every other default is None or empty. Another value changes everyone's numbers."""


def test_defaults_are_those_that_are_published() -> None:
    said = {
        name: {
            parameter.name: parameter.default
            for parameter in inspect.signature(method).parameters.values()
            if parameter.default is not parameter.empty and parameter.default not in (None, ())
        }
        for name, method in methods().items()
    }
    assert {name: values for name, values in said.items() if values} == DEFAULTS


def test_a_lens_is_tuned_for_this_model(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(pc.TunedLens, "train_on", lambda *args, **settings: calls.append((args, settings)) or "lens")
    assert llama.tune_lens("corpus", steps=3) == "lens"
    assert llama.tune_lens() == "lens"
    assert calls == [((llama, "corpus"), {"steps": 3}), ((llama, "gutenberg"), {})]


PROMPTS, LABELS = tiny.ids(12, 6), [0, 1] * 6


def test_rows_are_the_chosen_tokens_of_one_site(llama: pc.Model) -> None:
    edits = [pc.Scale(3.0, site="resid_post.0", at=2)]
    found = llama.rows(PROMPTS, "resid_post.1", [2, -1], edits=edits, sinks="keep")
    acts = llama.record(PROMPTS, "resid_post.1", edits=edits)["resid_post.1"]
    assert torch.equal(found.x.double(), acts[:, [2, 5]].flatten(0, 1))
    assert found.prompt.tolist() == [i for i in range(12) for _ in range(2)]
    assert found.position.tolist() == [2, 5] * 12
    plain = llama.rows(PROMPTS, "resid_post.1", sinks="keep")
    assert plain.position.tolist() == [1, 2, 3, 4, 5] * 12, "by default all but the first"
    assert len(llama.rows(PROMPTS, "resid_post.1").x) <= len(plain.x)
    with pytest.raises(pc.InputError, match="'resid_post' names 3 sites; the rows are those of one"):
        llama.rows(PROMPTS, "resid_post")


def test_a_reference_is_the_mean_of_the_rows(llama: pc.Model) -> None:
    for at in ("rest", [1]):
        wanted = llama.rows(PROMPTS, "resid_post.1", at).x.double().sum(0) / len(
            llama.rows(PROMPTS, "resid_post.1", at).x
        )
        assert torch.allclose(llama.reference(PROMPTS, "resid_post.1", at), wanted, rtol=1e-12)
    assert not torch.equal(llama.reference(PROMPTS, "resid_post.1"), llama.reference(PROMPTS, "resid_post.1", [1]))


def test_one_direction_is_that_of_several_at_its_site(llama: pc.Model) -> None:
    how = {"at": "last", "holdout": 0, "seed": 2}
    one = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", **how)
    several = llama.fit_directions("mean", PROMPTS, LABELS, **how)
    assert [torch.equal(one.directions, other.directions) for other in several] == [False, True, False]
    with pytest.raises(pc.InputError, match="'resid_post' names 3 sites; fit_directions gives one direction for each"):
        llama.fit_direction("mean", PROMPTS, LABELS, "resid_post")


def test_states_of_the_stream_in_the_order_of_the_pass(llama: pc.Model) -> None:
    wanted = [f"{name}.{layer}" for layer in range(3) for name in ("resid_mid", "resid_post")]
    assert llama.stream_sites() == ["resid_pre.0", *wanted]


def test_tokens_are_those_of_the_first_prompt(llama: pc.Model) -> None:
    assert llama.tokens([5, 7, 9]) == ["5", "7", "9"]
