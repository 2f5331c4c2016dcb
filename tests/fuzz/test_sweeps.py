"""Every cell of a sweep is what plain hooks give: with each strategy, with any budget, and behind a checkpoint that holds other work."""

import copy
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import patchclamp as pc
from tests import tiny
from tests.effort import examples
from tests.fuzz import draws, formulas, oracle, readings, sweeping
from tests.fuzz.places import TINY, components
from tests.fuzz.test_calls import FAMILY, MODELS, PHASES, SEED
from tests.traces import no_trace


@given(seed=SEED, family=FAMILY)
@settings(max_examples=examples(10, 200), phases=PHASES)
def test_a_sweep_is_what_hooks_give(seed: int, family: str) -> None:
    swept = sweeping.sweep(Random(seed), family)
    with no_trace(tiny.shared(family)):
        grid = MODELS[family].sweep(**swept.arguments())
    assert not sweeping.differing(swept, grid)[:3]


@given(seed=SEED, family=FAMILY)
@settings(max_examples=examples(4, 100), phases=PHASES)
def test_a_patch_is_what_hooks_give(seed: int, family: str) -> None:
    rng = Random(seed)
    swept = sweeping.sweep(rng, family)
    ids = swept.rows[0]
    source = [rng.randrange(3, 97) for _ in ids]
    number = rng.choice([1.0, 2.0])
    under = [pc.Scale(number, site="embed")] if number != 1.0 else []
    at, resolve = (
        ("each", None)
        if rng.random() < 0.5
        else rng.choice([(-1, lambda n, _: [n - 1]), ([0, 1], lambda n, _: [0, 1]), (0, lambda n, _: [0])])
    )
    operation = formulas.edited_source(source, number)
    swept = sweeping.Swept(
        family,
        ids,
        [ids],
        [operation],
        swept.components,
        swept.layers,
        at,
        resolve,
        swept.cumulative,
        [],
        swept.readings,
        how=swept.how,
    )
    given_ = {name: value for name, value in swept.arguments().items() if name not in ("prompts", "edit")}
    with no_trace(tiny.shared(family)):
        grid = MODELS[family].patch(source, ids, source_edits=under, **given_)
    assert not sweeping.differing(swept, grid)[:3]


def test_a_sweep_of_a_function_of_which_nothing_is_known_is_what_hooks_give() -> None:
    """Its cells share nothing, so that the strategies that share layers are refused by name, swept or in the base."""
    called = formulas.Operation("Call", lambda **k: pc.Call(torch.sin, **k), lambda _: lambda x: x.sin())
    swept = next(
        one
        for one in (sweeping.sweep(Random(seed), "llama") for seed in range(50))
        if not one.scales and one.how["strategy"] in ("layers", "wavefront")
    )
    swept.operations, swept.base = [called], []
    model, given_ = MODELS["llama"], swept.arguments()
    assert not sweeping.differing(swept, model.sweep(**given_))[:3]
    scaled = pc.Scale(2.0)
    for how in ({}, {"edit": scaled, "base": [pc.Call(torch.sin, site="embed")]}):
        for strategy in ("layers", "wavefront"):
            with pytest.raises(pc.InputError, match=f"strategy='{strategy}' would not give .*pc.Call is opaque"):
                model.sweep(**{**given_, **how, "strategy": strategy})


def test_by_hand_a_base_is_of_the_model_that_runs() -> None:
    """What an edit of the base takes from elsewhere comes from that model, too."""
    prompt, ids = [4, 8, 15], [16, 23, 42]
    swept = sweeping.sweep(Random(0), "llama")
    swept.rows, swept.inputs, swept.scales, swept.at, swept.resolve = [ids], [ids], (), -1, lambda n, _: [n - 1]
    swept.operations = [formulas.Operation("Zero", lambda **k: pc.Zero(**k), lambda _: lambda x: 0.0 * x)]

    def formula(scene: formulas.Scene) -> oracle.Formula:
        found = oracle.run(scene.module, scene.family, prompt, (), [scene.site]).sites[scene.site]
        return lambda _: found

    source = formulas.Operation("Patch a prompt", lambda **k: pc.Patch(prompt, **k), formula)
    swept.base = [draws.drawn(source, "llama", "mlp_in.1", "all", lambda n, _: list(range(n)))]
    drawn = (readings.reading(Random(seed), components("llama")) for seed in range(60))
    swept.readings = [next(one for one in drawn if one.names == ("loss",))]
    other = other_module("llama", "attribute")
    assert not sweeping.differing(swept, pc.wrap(other).sweep(**swept.arguments()), other)[:3]


CHANGES = ("reads", "operations", "base", "rows", "at", "vector", "model", "config", "attribute", "nothing")


@given(seed=SEED, family=st.sampled_from(list(TINY)), change=st.sampled_from(CHANGES))
@settings(max_examples=examples(6, 150), phases=PHASES)
def test_a_checkpoint_of_other_work_is_not_taken(seed: int, family: str, change: str) -> None:
    rng = Random(seed)
    swept = sweeping.sweep(rng, family)
    other, model = changed(rng, swept, change)
    with TemporaryDirectory() as folder:
        for one, opened in ((swept, MODELS[family]), (other, model)):
            grid = swept_or_refused(opened, one, Path(folder) / "kept")
            assert grid is None or not sweeping.differing(one, grid, opened.module)[:3], change


def swept_or_refused(model: pc.Model, swept: sweeping.Swept, folder: Path) -> pc.Grid | None:
    """The grid, or None where something that has no content cannot be kept."""
    try:
        return model.sweep(**swept.arguments(), checkpoint=folder)
    except pc.InputError as error:
        if "checkpoint" not in str(error):
            raise
        return None


def changed(rng: Random, swept: sweeping.Swept, what: str) -> tuple[sweeping.Swept, pc.Model]:
    """The same sweep with one thing changed."""
    other, model = copy.copy(swept), MODELS[swept.family]
    fresh = sweeping.sweep(rng, swept.family)
    width = len(swept.vector)
    if what == "reads":
        tried = [readings.reading(rng, components(swept.family)) for _ in range(60)]
        alike = [one for one in tried if one.names == swept.readings[0].names]
        other.readings = [*(alike[:1] or tried[:1])]
    elif what == "operations":
        other.operations = [formulas.operation(rng, width, [fresh.rows[0] * 7]) for _ in swept.operations]
    elif what == "base":
        other.base = [draws.edit(rng, swept.family, swept.rows)]
    elif what == "rows":
        other.rows = [[rng.randrange(3, 97) for _ in row] for row in swept.rows]
        other.inputs = other.rows
    elif what == "at":
        other.at, other.resolve = (0, lambda _, __: [0]) if swept.resolve is None else ("each", None)
    elif what == "vector":
        other.vector = formulas.gaussian(rng, width)
    elif what in ("model", "config", "attribute"):
        model = pc.wrap(other_module(swept.family, what))
    return other, model


EPSILON = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")


def other_module(family: str, what: str) -> nn.Module:
    """A model of other weights, of the same weights and another config, or with another number in its modules."""
    module = tiny.build(family)
    with torch.no_grad():
        if what == "model":
            module.get_output_embeddings().weight.mul_(1.5)
        elif what == "config":
            config = copy.deepcopy(module.config)
            for name in EPSILON:
                if hasattr(config, name):
                    setattr(config, name, 0.5)
            with torch.random.fork_rng(devices=[]):
                new = type(module)(config).to(torch.float64).eval()
            new.load_state_dict(module.state_dict())
            return new
        else:
            for part in module.modules():
                for name in ("eps", "variance_epsilon"):
                    if hasattr(part, name):
                        setattr(part, name, 0.5)
    return module
