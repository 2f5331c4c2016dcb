"""What a sweep costs, counted by hand on a tiny Llama; and how the budget cuts it up."""

import itertools
import re
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import patchclamp as pc
from patchclamp.interventions import cost
from patchclamp.interventions.cost import Costs, full_pass, parse_bytes, wave_flops
from patchclamp.interventions.memory import CELL_BYTES
from patchclamp.interventions.options import RunOptions
from patchclamp.interventions.planning import Schedule, _si, _up
from tests import tiny
from tests.interventions.planning import scheduled

IDS = tiny.ids(1, 6)
READ = pc.Probability([5])
LAYER = 2 * (32 * 32 + 32 * 16 + 32 * 16 + 32 * 32 + 3 * 32 * 48)
"""Queries, keys, values, output, and the three matrices of the MLP: two operations a weight."""
ATTENTION = 2 * 2 * 32
"""Two products of four heads of eight, a token and a key."""
HEAD = 2 * 32 * 97
TOKEN, KEY, LOGIT = 8 * (8 * 32 + 4 * 48 + 4 * 32), 8 * 4 * 32, 97 * (3 * 8 + 4)
OUTPUT, STATE, CACHE = 97 * 8, 8 * 32, 8 * 2 * 16
AFTER = 6 * STATE + OUTPUT
"""Of six positions, once the layers are passed: the last state of each, and the logits of the one that is read."""
BASE = AFTER + 6 * (3 * CACHE + 3 * STATE)
"""Keys and values of three layers, and the states from which cells fork in each of them."""
HELD = 3 * (8 + 8 + CELL_BYTES) + 8 + 8
"""What is read of three cells and of the baseline, as a tensor and in the result."""


def prepared(
    model: pc.Model, edit: pc.Edit | None = None, at: object = -1, sites: str = "mlp_out", **limits: Any
) -> Schedule:
    return scheduled(model, IDS, edit or pc.Zero(), RunOptions(**limits), sites=sites, at=at, read=READ)


def test_unit_costs_by_hand(llama: pc.Model) -> None:
    assert Costs.of(llama) == Costs((LAYER,) * 3, ATTENTION, HEAD, TOKEN, KEY, LOGIT, OUTPUT, STATE, CACHE, 0)
    half = Costs.of(pc.wrap(tiny.shared("llama", torch.float32)))
    assert (half.token_bytes, half.key_bytes, half.logit_bytes) == (TOKEN // 2, KEY // 2, 97 * (3 * 4 + 4))
    assert full_pass(Costs.of(llama), 5, 2) == 3 * LAYER * 5 + 3 * ATTENTION * 25 + HEAD * 2


def test_routed_experts_count_only_their_share() -> None:
    """Two of four experts, and the router itself."""
    experts = 2 * (4 * 3 * 32 * 48) * 2 // 4
    attention = 2 * (32 * 32 + 32 * 16 + 32 * 16 + 32 * 32)
    assert Costs.of(pc.wrap(tiny.shared("mixtral", torch.float32))).layer == (attention + experts + 2 * 4 * 32,) * 3


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1GB", 10**9), ("512 MiB", 2**29), ("1.5kB", 1500), (77, 77), ("9", 9), ("2mb", 2 * 10**6), ("1GiB", 2**30),
     ("3KiB", 3 * 2**10), (" 5 B ", 5)],
)  # fmt: skip
def test_amounts_of_memory(text: str | int, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("bad", [True, "0", "1 TB", "GB", "0.1b"])
def test_what_is_no_amount_of_memory(bad: object) -> None:
    with pytest.raises(pc.InputError, match=r"no amount of memory|must be positive"):
        parse_bytes(bad)  # type: ignore[arg-type]


def test_the_rate_of_a_machine_is_that_of_the_best_of_four_products(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.accumulate([0.0, 4.0, 1.0, 2.0, 1.0, 3.0, 1.0, 5.0])
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert cost.matmul_rate.__wrapped__("cpu", torch.float32, 8) == 2 * 256 * 8 * (4 * 8) / 2.0


def test_a_plan_by_hand(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cells at the last of six positions: 1, 2 and 3 rows of one position pass the layers."""
    monkeypatch.setattr(import_module("patchclamp.interventions.planning"), "matmul_rate", lambda *_: 1e6)
    found = prepared(llama).plan
    rows = 1 + 2 + 3
    flops = rows * (LAYER + ATTENTION * 6) + 3 * HEAD + full_pass(Costs.of(llama), 6, 1)
    assert (found.strategy, found.cells, found.runs, found.groups) == ("wavefront", 3, 3, 1)
    assert (found.rows, found.naive_rows) == (rows, 9)
    assert (found.flops, found.naive_flops) == (flops, 3 * full_pass(Costs.of(llama), 6, 6))
    recording, walking = 6 * (TOKEN + KEY), 3 * (TOKEN + 6 * KEY) + 2 * 3 * STATE
    assert found.memory == HELD + max(BASE + recording, BASE + walking, AFTER + 2 * 3 * STATE + 3 * LOGIT)
    assert found.budget == 10**9
    assert found.seconds == pytest.approx(flops / 1e6 / 0.6)
    slow = prepared(llama, strategy="rows", max_tokens=12).plan
    assert (slow.strategy, slow.reason, slow.rows, slow.groups) == ("rows", "asked for", 9, 0)
    assert slow.flops == slow.naive_flops == found.naive_flops
    assert slow.memory == HELD + 2 * (6 * (TOKEN + KEY) + LOGIT), "two rows of six positions"
    assert slow.seconds == pytest.approx(slow.flops / 1e6 / 0.4)
    prompts, read = [*IDS, IDS[0][:4]], pc.Probability([5], at=[0, -1])
    two = scheduled(llama, prompts, pc.Zero(), sites="mlp_out", at=-1, read=read).plan
    both = [full_pass(Costs.of(llama), length, length) for length in (6, 4)]
    assert two.naive_flops == 3 * sum(both)
    assert two.groups == 2


def test_packed_calls_cost_their_whole_width(llama: pc.Model) -> None:
    """Starts 1 and 5 of six positions share a row: six tokens that see twelve keys each."""
    groups = [g for _, members in prepared(llama, at="each", sites="mlp_out.0").batches for g in members]
    pair = [group for group in groups if group.start in (1, 5)]
    costs = Costs.of(llama)
    alone = 5 * (LAYER + ATTENTION * 6) + 1 * (LAYER + ATTENTION * 6)
    assert wave_flops(costs, pair, 1, 0.0) == alone
    assert wave_flops(costs, pair, 1, 1.1) == 6 * (LAYER + ATTENTION * 12)
    assert wave_flops(costs, pair, 2, 0.0) == 2 * alone


def test_batches_keep_the_budget_and_are_as_large_as_it_allows(llama: pc.Model) -> None:
    def size(group: object) -> int:
        return max(step.rows for step in group.steps) * group.width  # type: ignore[attr-defined]

    whole = prepared(llama, at="each").batches
    assert len(whole) == 1
    for tokens in (6, 12, 20):
        batches = [members for _, members in prepared(llama, at="each", max_tokens=tokens).batches]
        assert sorted(r for b in batches for g in b for r in g.runs) == sorted(r for g in whole[0][1] for r in g.runs)
        for before, after in itertools.pairwise(batches):
            assert sum(map(size, before)) + size(after[0]) > tokens, "the next one would not fit"
        assert all(sum(map(size, members)) <= tokens for members in batches)
    assert prepared(llama, strategy="rows", max_tokens=17).rows == 2
    assert prepared(llama, strategy="rows", max_tokens=18).rows == 3
    assert prepared(llama, strategy="rows").rows == 3, "never more than there are runs"
    assert prepared(llama, strategy="cell").rows == 1


def test_a_budget_that_the_message_names_is_enough(llama: pc.Model) -> None:
    one = HELD + BASE + 6 * (TOKEN + KEY)
    assert prepared(llama, budget=one).plan.memory <= one
    with pytest.raises(
        pc.BudgetError, match=rf"about {one / 1e3:.3g} kB .* budget is {(one - 1) / 1e3:.3g} kB"
    ) as raised:
        prepared(llama, budget=one - 1)
    said = re.search(r"pass budget='(\d+MB)'", str(raised.value))
    assert said
    assert said[1] == "1MB"
    prepared(llama, budget=said[1])
    assert _up(10**6) == "2MB"
    assert [_si(n) for n in (0, 999, 1000, 1_234_567, 2e9, 3e12)] == ["0 ", "999 ", "1 k", "1.23 M", "2 G", "3 T"]
