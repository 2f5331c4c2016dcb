"""NaN and infinity are said, with the first site where they arise, and never returned as numbers."""

import copy
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.interventions import finite
from patchclamp.models.sites import Site
from tests import tiny

IDS = tiny.ids(1, 6)[0]
READ = pc.Probability([5, 6])
HUGE = 3e38


@cache
def overflowing() -> pc.Model:
    """A float16 model whose second MLP gives infinity."""
    module = copy.deepcopy(tiny.shared("llama"))
    with torch.no_grad():
        module.get_submodule("model.layers.1.mlp.down_proj").weight.mul_(1e6)  # type: ignore[operator]
    with pytest.warns(PatchclampWarning, match=r"float16 gives NaN or infinity for a short input, first at mlp_out\.1"):
        return pc.wrap(module.half())


@cache
def single() -> pc.Model:
    return pc.wrap(copy.deepcopy(tiny.shared("llama")).float())


VERBS: dict[str, Callable[[pc.Model], Any]] = {
    "run": lambda m: m.run([IDS, IDS[:3]]),
    "last logits": lambda m: m.run([IDS], logits="last"),
    "top": lambda m: m.top([IDS]),
    "record": lambda m: m.record([IDS], "resid_post"),
    "a raw path": lambda m: m.record([IDS], "model.layers.1.mlp:out"),
    "generate": lambda m: m.generate([IDS], max_new_tokens=2),
    "sample": lambda m: m.generate([IDS, IDS[:3]], max_new_tokens=2, do_sample=True, seed=0),
    "sweep": lambda m: m.sweep([IDS], pc.Zero(), sites="attn_out", read=READ),
    "patch": lambda m: m.patch([IDS], [IDS], sites="attn_out", read=READ),
    "attribution_patch": lambda m: m.attribution_patch([IDS], [IDS], sites="attn_out", read=READ),
    "lens": lambda m: m.lens([IDS]),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_that_overflows_is_named_with_the_site(verb: str) -> None:
    with pytest.raises(pc.ModelError, match=r"NaN or infinity.* first at mlp_out\.1") as error:
        VERBS[verb](overflowing())
    assert "encoder" not in str(error.value)
    VERBS[verb](single())


@pytest.mark.parametrize("grad", [False, True])
def test_an_edit_that_overflows_is_named(grad: bool) -> None:
    edit = pc.Add(torch.ones(32), HUGE, site="mlp_out.1", at=2)
    with pytest.raises(pc.EditError, match=r"under the edits .* first at .*\.1; make them smaller"):
        single().run([IDS], [edit, pc.Scale(1e9, site="resid_post.1")], grad=grad)
    with pytest.raises(pc.EditError, match="under the edits a step of the generation"):
        single().generate([IDS], [edit, pc.Scale(1e9, site="resid_post.1", at=2)], max_new_tokens=2)


@pytest.mark.parametrize("strategy", ["wavefront", "layers", "rows", "cell"])
def test_cells_that_overflow_are_counted_and_named(strategy: str) -> None:
    """They are NaN for every read (a rank would be 0), the others are as without them, and no neighbour is drawn in."""
    model, v = single(), 2 * torch.ones(32)
    options: dict[str, Any] = {"sites": ["mlp_out.1", "resid_post.1"], "at": "each", "verify": 4}
    reads = [pc.Rank(5), READ]
    with pytest.warns(
        PatchclampWarning, match=r"\d+ of 24 cells gave NaN or infinity.*Add\(scale=3e\+38\) at "
    ) as said:
        grid = model.sweep([IDS], pc.Add(v), over={"scale": [1.0, HUGE]}, read=reads, strategy=strategy, **options)
    assert "it arises at " in str(said[0].message)
    calm = model.sweep([IDS], pc.Add(v), over={"scale": [1.0]}, read=reads, strategy="cell", **options)
    for name in ("rank", "probability"):
        good = grid.dataset[name].sel(scale=[1.0])
        assert not bool(good.isnull().any())
        assert float(abs(good - calm.dataset[name]).max()) < 1e-5
    rank, probability = (grid.dataset[name].isnull().values for name in ("rank", "probability"))
    assert bool((rank == probability).all()), "of a cell that overflows no read is a number"
    assert 0 < int(rank.sum()) <= 12


def test_what_may_be_read() -> None:
    nan, inf = torch.nan, torch.inf
    rows = torch.tensor([[1.0, 2.0], [nan, 0.0], [inf, 0.0], [-inf, 0.0], [-inf, -inf]])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert finite.readable(rows.to(dtype)).tolist() == [True, False, False, True, False]
        assert finite.readable(rows.to(dtype), Site("logits")).tolist() == [True, False, False, True, False]
        assert finite.readable(rows.to(dtype), Site("mlp_out", 1)).tolist() == [True, False, False, False, False]
    watch = finite.Watch([1, 2])
    watch.look(torch.tensor([[[0.0], [nan]], [[0.0], [1.0]]]))
    assert watch.wrong_rows() == [], "padding does not count"
    watch.look(torch.tensor([[[0.0], [nan]], [[0.0], [nan]]]))
    assert watch.wrong_rows() == [1]


class Masked(nn.Module):
    """A model that never says its last token."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.inner(x), x.new_full((*x.shape[:-1], 1), -torch.inf)], dim=-1)


def test_a_masked_vocabulary_is_legal() -> None:
    net = pc.wrap(Masked().double().eval())
    x = torch.randn(2, 3, dtype=torch.float64)
    run = net.run(x)
    assert run.top(5)["probability"].min() == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = net.sweep(x, pc.Scale(2.0), sites="inner:out", read=[pc.Probability([4]), pc.KL(), pc.Loss(1)])
    assert not any(bool(value.isnull().any()) for value in grid.dataset.values())
    before, after = (net.run(x, e).logits[:, :4].log_softmax(-1) for e in ([], pc.Scale(2.0, site="inner:out")))
    wanted = (before.exp() * (before - after)).sum(-1)
    assert torch.allclose(torch.from_numpy(grid.dataset["kl"].values).flatten(), wanted)


def test_a_read_that_gives_nan_is_said() -> None:
    def broken(logits: Tensor) -> Tensor:
        return logits[:, 0] * torch.nan

    with pytest.warns(PatchclampWarning, match="in the read itself"):
        single().sweep([IDS], pc.Zero(), sites="mlp_out.1", read=broken)


def test_a_function_that_reads_in_place_leaves_other_reads_alone() -> None:
    def spoil(logits: Tensor) -> Tensor:
        return logits.zero_()[:, 0]

    reads = [single().sweep([IDS], pc.Zero(), sites="mlp_out.1", read=r).dataset for r in ([spoil, READ], READ)]
    assert bool((reads[0]["probability"] == reads[1]["probability"]).all())
