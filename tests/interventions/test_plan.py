"""The estimate before a sweep against what then really happens."""

from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import patchclamp as pc
from patchclamp.interventions.cost import Costs, full_pass
from tests import tiny
from tests.traces import passes

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "phi3", "opt", "qwen3", "cohere")]


@cache
def eager(name: str) -> pc.Model:
    """Torch does not count its fused attention on the CPU."""
    return pc.wrap(tiny.build(name, attention="eager"))


def counted(work: object) -> int:
    with FlopCounterMode(display=False) as counter:
        work()  # type: ignore[operator]
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", *SLOW])
def test_flops_of_one_forward_are_what_torch_counts(name: str) -> None:
    model = eager(name)
    costs = Costs.of(model)
    ids = torch.tensor(tiny.ids(1, 11))
    real = counted(lambda: model.module(ids, use_cache=False))
    assert full_pass(costs, 11, 11) == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("cumulative", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "name",
    ["llama", pytest.param("gpt2", marks=pytest.mark.slow), pytest.param("gpt_neox", marks=pytest.mark.slow), *SLOW],
)
def test_the_planned_flops_are_the_executed_ones(name: str, cumulative: bool) -> None:
    model = eager(name)
    v = torch.ones(32, dtype=torch.float64)
    options = {"sites": ["mlp_out", "attn_out"], "at": "each", "cumulative": cumulative, "read": pc.Probability([5])}
    ids = tiny.ids(1, 6)
    plan = model.plan(ids, pc.Add(v), **options)
    real = counted(lambda: model.sweep(ids, pc.Add(v), **options))
    assert plan.flops == pytest.approx(real, rel=0.04)
    slow = counted(lambda: model.sweep(ids, pc.Add(v), strategy="cell", **options))
    assert real < 0.7 * slow
    assert plan.naive_flops * plan.runs / plan.cells == pytest.approx(slow, rel=0.1), "the slow way runs the same cells"


def test_sharing_grows_with_the_model() -> None:
    """The tree's saving is a property of the structure: the more layers below and positions before, the more is shared."""
    model = pc.wrap(tiny.shared("llama"))
    plan = model.plan(tiny.ids(1, 20), pc.Zero(), sites="mlp_out", at="each", read=pc.Probability([5]))
    assert plan.naive_flops / plan.flops > 2.5


@pytest.mark.assets
@pytest.mark.slow
def test_smollm2_runs_within_a_tenth_of_the_arithmetic_bound(smollm2: pc.Model) -> None:
    """The bound for 300 cells, cumulative, 5 tokens is 112.4 GFLOP; one forward a cell takes 404."""
    plan = smollm2.plan(
        "The capital of Spain is", pc.Add(smollm2.embedding(" Rome")), sites=["mlp_out", "attn_out"], at="each", cumulative=True,
        read=pc.Probability([" Madrid", " Rome"]),
    )  # fmt: skip
    assert plan.flops < 1.1 * 112.4e9
    assert plan.naive_flops == pytest.approx(403.8e9, rel=0.01)


def test_a_plan_runs_nothing_and_prints_everything(llama: pc.Model) -> None:
    llama.run(tiny.ids(1, 4))
    with passes(llama.module) as calls:
        with_hook = llama.plan(tiny.ids(1, 4), pc.Zero(), sites="mlp_out", at="each", read=pc.TopK(1))
    assert not calls
    assert with_hook.strategy == "cell"
    printed = str(llama.plan(tiny.ids(1, 4), pc.Zero(), sites="mlp_out", at="each", read=pc.TopK(1)))
    assert [line.split()[0] for line in printed.splitlines()] == [
        "strategy",
        "cells",
        "row-layers",
        "FLOPs",
        "memory",
        "time",
    ]
