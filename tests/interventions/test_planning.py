"""A plan runs the model only where it must, and says what the sweep will do."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import patchclamp as pc
from tests import tiny

IDS, OTHER = tiny.ids(1, 6), tiny.ids(1, 6, seed=1)
READ = pc.LogitDifference(5, 6)
PATCHES = [
    pc.Patch(OTHER),
    pc.Patch(pc.source(OTHER, [pc.Patch(tiny.ids(1, 6, seed=2), site="mlp_out.0")])),
    pc.MeanAblate(tiny.ids(3, 5)),
    pc.Rotate(OTHER, 2, 32),
]


@contextmanager
def passes(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the calls of a module, without a hook that would change the plan."""
    count: list[int] = []
    forward = type(module).forward

    def counted(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        count.append(1)
        return forward(self, *args, **kwargs)

    counted.__wrapped__ = forward  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(type(module), "forward", counted)
        yield count


def same_work(planned: pc.Plan, done: pc.Plan) -> bool:
    return replace(planned, seconds=0.0) == replace(done, seconds=0.0)


@pytest.mark.parametrize("edit", PATCHES, ids=lambda edit: type(edit.operation).__name__)
def test_no_source_is_run_and_the_plan_is_that_of_the_sweep(
    llama: pc.Model, monkeypatch: pytest.MonkeyPatch, edit: pc.Edit
) -> None:
    options = {
        "sites": ["mlp_out", "resid_post"],
        "at": "each",
        "read": READ,
        "base": [pc.Patch(OTHER, site="embed", at=0)],
    }
    with passes(llama.module, monkeypatch) as count:
        planned = llama.plan(IDS, edit, **options)
        assert len(count) == 0
        grid = llama.sweep(IDS, edit, **options)
        assert len(count) > 1, "control: a sweep does run them"
    assert same_work(planned, grid.plan)


def test_sources_that_differ_are_different_cells_and_equal_ones_are_not(llama: pc.Model) -> None:
    for second, repeated in ((tiny.ids(1, 6, seed=3), 0), (OTHER, 2)):
        sources = [pc.source(OTHER), pc.source(second)]
        options = {"sites": "mlp_out.0-1", "at": 2, "over": {"source": sources}, "read": READ}
        planned = llama.plan(IDS, pc.Patch(OTHER), **options)
        assert planned.repeated == repeated
        assert same_work(planned, llama.sweep(IDS, pc.Patch(OTHER), **options).plan)


def test_a_source_is_run_once_for_all_values_of_a_parameter(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = [pc.Patch(OTHER, site="mlp_out.0", at=1), pc.Scale(1.0, site="mlp_out.1", at=2)]
    counts = []
    for factors in ([1.5], [1.5, 2.0, 3.0]):
        with passes(llama.module, monkeypatch) as count:
            llama.sweep(IDS, edits, over={"factor": factors}, read=READ, strategy="rows")
        counts.append(len(count))
    assert counts[0] == counts[1]


def test_the_width_of_an_output_is_looked_at_once_and_only_if_outputs_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    net = pc.wrap(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval())
    x = torch.ones(1, 4)
    with passes(net.module, monkeypatch) as count:
        net.plan(x, pc.Zero(), sites="0:out", at="all", read=pc.Activation("2:out", at=-1))
        assert len(count) == 0
        for _ in range(2):
            net.plan(x, pc.Zero(), sites="0:out", at="all", read=pc.Logits([0]))
        assert len(count) == 1


def test_what_a_plan_refuses_the_sweep_refuses(llama: pc.Model) -> None:
    wrong = pc.Patch(pc.source(OTHER, [pc.Add(torch.ones(31), site="mlp_out.0")]))
    for call in (llama.plan, llama.sweep):
        with pytest.raises(pc.EditError, match="width 31"):
            call(IDS, wrong, sites="mlp_out", at="each", read=READ)
        with pytest.raises(pc.EditError, match="no counterpart in the source"):
            call(IDS, pc.Patch(tiny.ids(1, 4)), sites="mlp_out", at="each", read=READ)
