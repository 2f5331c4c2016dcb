"""A budget is a promise: what lives while a sweep runs, counted tensor by tensor, and the growth of a whole process."""

import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import patchclamp as pc
from patchclamp.interventions.cost import parse_bytes
from tests import tiny


class Living(TorchDispatchMode):
    """The most bytes, at any time, of tensors that were made inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known and storage._cdata not in given:
                    self.known[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, key: int) -> None:
        self.now -= self.known.pop(key)


def living(work: Callable[[], object]) -> int:
    with Living() as counter:
        work()
    return counter.peak


def test_living_tensors_are_counted() -> None:
    """The control: two at once, then one of them and a view of it."""

    def work() -> None:
        first, second = torch.zeros(100), torch.zeros(50)
        del second
        first[:50].add_(1)
        torch.zeros(20)

    assert living(work) == 600


@cache
def model() -> pc.Model:
    return pc.wrap(tiny.shared("llama", torch.float32))


V = torch.ones(32)
MANY = tiny.ids(24, 20)
ACTIVATIONS = [pc.Activation(f"resid_post.{layer}") for layer in range(3)]
SWEEPS: dict[str, dict[str, Any]] = {
    "many prompts": {"at": -1, "read": pc.Probability([5])},
    "loss of every token": {"at": "all", "read": pc.Loss()},
    "divergence": {"at": [3, -1], "read": pc.KL(at="all")},
    "several reads": {"at": -1, "read": [pc.TopK(3), pc.Logits([5], at=[2, -1]), pc.Rank([6])]},
    "activations": {"at": -1, "read": ACTIVATIONS},
    "activations everywhere": {"at": [4, 9], "read": pc.Activation("resid_post.2", at="all")},
    "all the layers": {"at": -1, "cumulative": True, "read": pc.LogOdds([5])},
    "layers": {"at": [3, 9], "read": pc.Probability([5]), "strategy": "layers"},
    "rows": {"at": -1, "read": pc.KL(), "strategy": "rows"},
    "one by one": {"at": -1, "read": pc.Logits(), "strategy": "cell"},
}


IN_SHORT = ("many prompts", "divergence", "activations")


@pytest.mark.parametrize("name", [n if n in IN_SHORT else pytest.param(n, marks=pytest.mark.slow) for n in SWEEPS])
def test_what_lives_stays_within_the_budget(name: str) -> None:
    """Under a budget that all of it at once would exceed, and with the numbers that a large one gives."""
    options = {"sites": ["mlp_out", "attn_out"], **SWEEPS[name]}
    prompts = MANY[:8] if options.get("strategy") == "cell" else MANY
    whole = model().plan(prompts, pc.Add(V), **options)
    budget = max(least(options, prompts), whole.memory // 3)
    grids: list[pc.Grid] = []
    peak = living(lambda: grids.append(model().sweep(prompts, pc.Add(V), **options, budget=budget)))
    assert peak <= 1.1 * budget
    assert grids[0].plan.memory <= budget
    assert grids[0].plan.rows == whole.rows or options.get("cumulative")
    large = model().sweep(prompts, pc.Add(V), **options)
    for read in large.reads:
        assert torch.allclose(
            *(torch.from_numpy(g.dataset[read].values) for g in (large, grids[0])), atol=1e-4, equal_nan=True
        )


def least(options: dict[str, Any], prompts: list[list[int]]) -> int:
    """The smallest budget that is not refused, as the refusal names it."""
    with pytest.raises(pc.BudgetError, match="pass budget=") as refused:
        model().plan(prompts, pc.Add(V), **options, budget=1)
    need = re.search(r"one cell needs about ([\d.]+ [kMG]B)", str(refused.value))
    assert need
    return int(1.01 * parse_bytes(need[1]))


def test_more_prompts_are_more_batches_and_never_a_refusal() -> None:
    """Nothing that fits is refused: the need of one cell does not grow with the prompts beside it, but for what is read."""
    options = {"sites": "mlp_out.1", "at": -1, "read": pc.Probability([5])}
    needs = [least(options, tiny.ids(n, 20)) for n in (1, 16, 64)]
    for (few, more), extra in zip(pairwise(needs), (15, 48), strict=True):
        assert more - few < 1.3 * 2000 * extra + 0.2 * few
    plans = [model().plan(tiny.ids(64, 20), pc.Add(V), **options, budget=b) for b in (int(1.2 * needs[-1]), "1GB")]
    assert plans[0].groups > plans[1].groups
    assert (plans[0].rows, plans[0].flops) == (plans[1].rows, plans[1].flops)


CHILD = """
import ctypes, gc, json, sys
import torch
import patchclamp as pc
torch.set_num_threads(1)
def status(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))
model = pc.load("stories15m", dtype="float32")
draw = torch.Generator().manual_seed(0)
def ids(rows, length): return torch.randint(5, 30000, (rows, length), generator=draw).tolist()
v = torch.randn(288, generator=draw)
def sweep(rows, length, **more): return model.sweep(ids(rows, length), more.pop("edit", pc.Add(v)), **{"sites": "mlp_out", "at": -1, "read": pc.Probability([5]), "budget": BUDGET, **more})
BUDGET = 100_000_000
model.sweep(ids(2, 8), pc.Add(v), sites="mlp_out.1", at=-1, read=[pc.Probability([5]), pc.Loss()])
KINDS = {
    "prompts": lambda: sweep(64, 64),
    "loss": lambda: sweep(12, 96, at="all", sites=["mlp_out.1"], read=pc.Loss()),
    "activations": lambda: sweep(2, 64, at="each", sites=["mlp_out.1", "mlp_out.3"], read=[pc.Activation(f"resid_post.{i}") for i in range(6)]),
    "kl": lambda: sweep(16, 32, sites="mlp_out.2", at=5, read=pc.KL(at="all")),
    "topk": lambda: sweep(16, 32, sites="mlp_out.2", at=5, read=pc.TopK(5, at=[6, 12, -1])),
    "logits": lambda: sweep(8, 32, sites="mlp_out.2", read=pc.Logits()),
    "layers": lambda: sweep(16, 64, strategy="layers"),
    "rows": lambda: sweep(8, 48, edit=pc.Call(lambda x: 2 * x), sites="mlp_out.2"),
    "cells": lambda: sweep(4, 48, sites="mlp_out.2", strategy="cell"),
    "patch": lambda: model.patch(ids(1, 48), ids(1, 48), sites="resid_post", at="each", read=pc.LogitDifference(5, 6), budget=BUDGET),
    "path": lambda: model.path_patch(ids(1, 24), ids(1, 24), sender="attn_out", receivers="final_norm", read=pc.LogitDifference(5, 6), budget=BUDGET),
    "trace": lambda: model.causal_trace(ids(1, 24), [2, 3], samples=4, budget=BUDGET),
}
gc.collect()
ctypes.CDLL("libc.so.6").malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
kept = KINDS[sys.argv[1]]()
print(json.dumps((status("VmHWM") - before) / BUDGET))
"""
KINDS = ("prompts", "loss", "activations", "kl", "topk", "logits", "layers", "rows", "cells", "patch", "path", "trace")


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="resident memory is read as on Linux")
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_grows_by_no_more_than_the_budget(kind: str, stories: pc.Model) -> None:
    """One thread and one arena, and large blocks given back when they are freed: what is measured is what is used."""
    del stories
    settings = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kind], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) <= 1.1
