"""The shared tail of a pass gives the whole pass's logits and gradients."""

import pytest
import torch

import patchclamp as pc
from patchclamp.interventions.operations import Apply
from patchclamp.interventions.suffix_forward import Tail
from patchclamp.models.inputs import Prompt
from patchclamp.rewriting.projection import Projection
from patchclamp.rewriting.value import ValueShift
from tests import tiny
from tests.lenses.families import opened
from tests.traces import no_trace

REWRITABLE = [name for name in tiny.DECODERS if name not in (*tiny.MOE, "mamba")]
SHORT = ("llama", "gpt2", "gemma2", "granite", "glm4")
POSITIONS = [2, 2, 5, 0, 4]


def prompts() -> list[Prompt]:
    rows = [tiny.ids(1, 7, seed=i)[0][: 7 - i % 3] for i in range(5)]
    rows[2], rows[4] = tiny.ids(1, 7, seed=9)[0], tiny.ids(1, 5, seed=8)[0]
    return [Prompt(tuple(row)) for row in rows]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        pytest.param(name, layer, marks=() if name in SHORT and (layer == 1 or name == "llama") else pytest.mark.slow)
        for name in REWRITABLE
        for layer in (0, 1, 2)
    ],
)
def test_logits_and_gradients_are_those_of_the_whole_pass(name: str, layer: int) -> None:
    model = opened(name)
    site = Projection.of(model, layer).output_site
    with no_trace(model.module):
        tail = Tail.record(model, prompts(), site, layer, POSITIONS)
        shared = tail.groups is not None
        assert shared == (model.ladder.strategy == "wavefront")
        whole = Tail(model, tuple(prompts()), site, layer, tuple(POSITIONS), None)
        found = []
        for one in (tail, whole):
            shift = ValueShift(torch.zeros(32, dtype=torch.float64))
            with torch.no_grad():
                shift.change += 0.3
            logits = one.logits(Apply(shift))
            (grad,) = torch.autograd.grad(logits.log_softmax(-1)[:, 7].sum(), [shift.change])
            found.append((logits.detach(), grad))
    tolerance = 1e-5 if name in tiny.FP32_ATTENTION else 1e-9
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
    assert found[0][1].abs().max() > 0


def test_it_is_shared_where_it_can_be(llama: pc.Model) -> None:
    tail = Tail.record(llama, prompts(), Projection.of(llama, 2).output_site, 2, POSITIONS)
    assert tail.groups is not None
    assert sorted(group.start for group in tail.groups) == [0, 2, 4, 5]
    assert all(group.entry.shape[1] == group.ids.shape[1] for group in tail.groups)
