"""What a user finds on an open model: the functions that do the work, each with its whole signature and its text."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import patchclamp as pc
from patchclamp.core.arguments import checked, is_checked
from patchclamp.lenses.tuned import TunedLens
from patchclamp.models.capabilities import Capabilities
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes import clusters
from patchclamp.rewriting.value import Search

ROOT = Path(__file__).parent.parent
OPEN = {"generate"}
"""What it does not name itself is a setting of transformers."""
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def methods() -> dict[str, Callable[..., Any]]:
    return {name: value for name, value in vars(pc.Model).items() if inspect.isfunction(value)}


def doors_of(method: Any) -> list[Any]:
    """Every wrapper that reads arguments."""
    outer = [method, *(doors_of(method.__wrapped__) if hasattr(method, "__wrapped__") else [])]
    return [layer for layer in outer if is_checked(layer)]


def faults(name: str, method: Any) -> list[str]:
    """What keeps a user from seeing what a method takes."""
    parameters = list(inspect.signature(method).parameters.values())
    found = [f"hides parameters behind {p.name}" for p in parameters if p.kind in VARIABLE and name not in OPEN]
    found += [f"does not say what {p.name} is" for p in parameters if p.annotation is p.empty]
    found += [f"is called {method.__name__}"] if method.__name__ != name else []
    found += ["has no text"] if not inspect.getdoc(method) else []
    found += ["does not begin with the model"] if parameters[0].name != "model" else []
    count = len(doors_of(method))
    return found + ([] if count == 1 else [f"reads its arguments {count} times"])


def test_a_method_is_the_function_that_does_the_work() -> None:
    assert len(methods()) > 45
    assert {name: wrong for name, method in methods().items() if (wrong := faults(name, method))} == {}


def test_what_hides_a_parameter_is_noticed() -> None:
    """The negative control."""

    def sweep(model: OpenModel, prompts, **options: Any) -> None:  # type: ignore[no-untyped-def]
        """Text."""

    assert faults("sweep", sweep) == [
        "hides parameters behind options", "does not say what prompts is", "reads its arguments 0 times",
    ]  # fmt: skip
    assert "reads its arguments 2 times" in faults("sweep", checked(checked(sweep)))


def test_a_message_names_what_the_user_can_pass(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match=r"^sweep takes prompts, edit by place, and 1 more"):
        llama.sweep([1, 2], pc.Zero(), "mlp_out")  # type: ignore[misc]
    with pytest.raises(pc.InputError, match=r"^unknown argument of segment 'strat'; did you mean 'start'\?") as refusal:
        llama.segment([1.0], [2.0], strat="0")  # type: ignore[call-arg]
    assert "model" not in str(refusal.value)


def test_the_reference_has_every_method_once() -> None:
    text = (ROOT / "docs" / "conf.py").read_text()
    scope: dict[str, Any] = {"re": re}
    exec(text[text.index("def methods_page") : text.index("def _refused")], scope)
    page = scope["methods_page"](inspect.getsource(pc.Model))
    assert page.index("### Run and record") < page.index("Model.run\n") < page.index("### Sweep and patch")
    assert {name: page.count(f"automethod:: patchclamp.Model.{name}\n") for name in methods()} == dict.fromkeys(
        methods(), 1
    )


def test_a_user_is_shown_what_a_user_does(llama: pc.Model) -> None:
    shown = {name for name in dir(llama) if not name.startswith("_")}
    assert methods().keys() <= shown
    assert {"sites", "module", "tokenizer", "capabilities", "tokens", "embedding"} <= shown
    helpers = {"look", "batch", "prompts", "describe"}
    assert helpers.isdisjoint(shown)
    assert all(hasattr(llama, name) for name in helpers), "which work all the same"


def test_what_was_observed_is_one_object(llama: pc.Model) -> None:
    assert llama.ladder is llama.capabilities.ladder
    assert llama.capabilities.seen_causal
    untried = pc.wrap(torch.nn.Sequential(torch.nn.Linear(3, 3)).eval())
    assert untried.capabilities == Capabilities(), "nothing of it was tried"


HANDED_ON: list[tuple[Any, Any, set[str]]] = [
    (pc.Model.plan, pc.Model.sweep, set()),
    (pc.Model.trace_facts, pc.Model.causal_trace, set()),
    (pc.Model.fit_direction, pc.Model.fit_directions, set()),
    (pc.Model.lens_curves, pc.Model.lens, {"targets"}),
    (pc.Model.tune_lens, TunedLens.train_on, set()),
    (pc.Model.cluster, clusters.cluster, {"labels", "name"}),
    (pc.Model.rewrite_fact, Search, set()),
]
"""A method, what it hands arguments on to, and which of the same name mean something else there."""


@pytest.mark.parametrize(("method", "target", "other"), HANDED_ON)
def test_what_is_handed_on_is_taken_as_it_is_there(method: Any, target: Any, other: set[str]) -> None:
    here, there = (inspect.signature(function).parameters for function in (method, target))
    for name in (here.keys() & there.keys()) - other - {"prompts", "site", "sites", "at"}:
        assert (here[name].default, here[name].annotation) == (there[name].default, there[name].annotation), name


DEFAULTS: dict[str, dict[str, Any]] = {
    "adversarial_paths": {
        "eps": 0.15, "norm": "linf", "kinds": ("pgd", "fgsm", "descent", "other class", "same class", "sign", "gauss"),
        "steps": 20, "clip": True, "seed": 0, "limit": 1000000,
    },
    "affine_map": {"soft": "frozen"},
    "attack": {"method": "pgd", "norm": "linf", "steps": 20, "lower": False},
    "attribution_patch": {"sites": "resid_post", "at": "each", "align": "equal", "integrate": 0, "check": 20},
    "boundaries": {"radii": (0.01, 0.1, 1.0)},
    "causal_trace": {
        "sites": "resid_post", "samples": 10, "noise": 3.0, "seed": 0, "method": "exact", "integrate": 0, "check": 20,
        "budget": "1GB", "verify": 0,
    },
    "cluster": {
        "at": "rest", "name": "of the layer", "algorithms": ("k-means", "ward", "hdbscan"), "least": 4, "pca": 50, "seed": 0,
    },
    "contributions": {"at": "last", "heads": False},
    "crossings": {"limit": 1000000},
    "dose_response": {"edit": "add", "about": "mean"},
    "evaluate_direction": {"seed": 0},
    "fit_direction": {"at": "rest", "sinks": "skip", "holdout": 0.25, "seed": 0},
    "fit_directions": {"sites": "resid_post", "at": "rest", "sinks": "skip", "holdout": 0.25, "seed": 0},
    "head_scores": {"length": 32, "samples": 8, "seed": 0, "draws": 100, "batch_tokens": 4096},
    "layer_effects": {"edits": ("erase", "swap", "double"), "about": "mean"},
    "lens": {"sites": "resid_post", "at": "all", "k": 5, "targets": "next", "chunk": 48, "batch_tokens": 512},
    "lens_curves": {
        "sites": "resid_post", "at": "all", "length": 128, "tokens": 20000, "targets": "next", "chunk": 48, "batch_tokens": 512,
    },
    "neuron_importances": {"samples": 10, "noise": 3.0, "seed": 0, "integrate": 0, "top": 10, "verify": 20},
    "patch": {"sites": "resid_post", "at": "each", "align": "equal", "cumulative": False, "budget": "1GB", "verify": 0},
    "patchscope": {
        "sites": "resid_post", "at": "all", "target": "cat -> cat; 135 -> 135; hello -> hello; ?", "into_at": "last", "k": 5,
        "max_new_tokens": 0,
    },
    "path_patch": {
        "sender": "z.*.h*", "receivers": "final_norm", "at": "all", "receive_at": "all", "freeze": ("attn_out", "mlp_out"),
        "align": "equal", "budget": "1GB", "verify": 0,
    },
    "plan": {"cumulative": False, "budget": "1GB"},
    "plane": {"max_regions": 50000, "force": False},
    "radial_density": {"seed": 0, "limit": 1000000},
    "raster": {"lines": 200, "method": "exact", "samples": 400},
    "record": {"at": "all", "batch_tokens": 2048, "grad": False},
    "reference": {"at": "rest"},
    "region_counts": {"samples": 400},
    "rewrite_fact": {
        "covariance": "gutenberg", "ridge": 0.001, "prefixes": 5, "essence": "{} is a", "seed": 0, "steps": 25, "lr": 0.5,
        "kl": 0.0625, "decay": 0.05, "clamp": 4.0, "enough": 0.05,
    },
    "rows": {"at": "rest", "sinks": "skip"},
    "run": {"at": "all", "logits": "all", "grad": False, "batch_tokens": 2048},
    "scaling": {
        "factors": (0.015625, 0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
        "controls": ("noise", "rotation"), "at": "all", "seed": 0,
    },
    "sequential_erasure": {"at": "rest"},
    "segment": {"method": "exact", "samples": 1000, "limit": 1000000},
    "soft_codes": {"at": "all"},
    "spline_codes": {"at": "all"},
    "sweep": {"cumulative": False, "budget": "1GB", "verify": 0},
    "top": {"k": 10},
    "trace_facts": {
        "sites": "resid_post", "noise": 3.0, "samples": 10, "seed": 0, "method": "exact", "integrate": 0, "check": 20,
        "budget": "1GB", "verify": 0,
    },
    "tune_lens": {
        "corpus": "gutenberg", "tokens": 250000, "passes": 1, "held_out": 0.1, "optimizer": "adam", "weight_decay": 0.0,
        "batch": 512, "seed": 0, "chunk": 128,
    },
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
    assert {name: said[name] for name in DEFAULTS} == DEFAULTS


USER = """
from typing_extensions import assert_type
import torch
import patchclamp as pc

model = pc.load("stories15m", dtype="float32")
add = pc.Add(torch.ones(288))
assert_type(model.sweep("a", add, sites="mlp_out", read=pc.Probability(" a")), pc.Grid)
assert_type(model.run("a", record=["resid_post"]), pc.Run)
assert_type(model.segment([0.0], [1.0], start="0:out", samples=9).exact, bool)
assert_type(model.fit_direction("leace", ["a", "b"], [0, 1], "resid_post.2"), pc.Direction)
model.sweep("a", add, cumulative="yes")  # refused
model.run("a", logtis="last")  # refused
model.run("a", logits="first")  # refused
model.segment([0.0], [1.0], strat="0")  # refused
model.rewrite_fact("a", "b", "c", learning_rate=1.0)  # refused
model.swep("a", add)  # refused
model.lens("a").no_such_thing  # refused
"""
CHECKERS = {
    "mypy": ["--strict", "--no-error-summary"],
    "basedpyright": ["--level", "error", "--pythonpath", sys.executable],
    "pyright": ["--level", "error", "--pythonpath", sys.executable],
}


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_type_checker_sees_every_parameter(checker: str, tmp_path: Path) -> None:
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    script = tmp_path / "user.py"
    script.write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", checker, *CHECKERS[checker], str(script)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [line.split("user.py:")[1] for line in done.stdout.splitlines() if "user.py:" in line and "error" in line]
    wrong = [number for number, line in enumerate(USER.splitlines(), 1) if line.endswith("# refused")]
    assert sorted({int(line.split(":")[0]) for line in said}) == wrong, done.stdout
