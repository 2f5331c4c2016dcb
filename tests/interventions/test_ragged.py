"""Padding changes nothing: every prompt has the numbers that it has alone, whatever stands beside it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import patchclamp as pc
from tests import inputs
from tests.effort import examples

FAMILIES = ("decoder", "encoder", "tags", *inputs.POOLED)


def near(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= 1e-9)


def states(name: str, row: list[int]) -> Tensor:
    """The stream after each layer, ``[layer, position, d]``, as the module's own hooks see it."""
    model, seen = inputs.model(name), []
    handles = [
        model.sites.modules[path].register_forward_hook(
            lambda *a: seen.append(a[2][0] if isinstance(a[2], tuple) else a[2])
        )
        for path in model.sites.layers
    ]
    inputs.alone(name, row)
    for handle in handles:
        handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=examples(6, 60))
@given(rows=inputs.ragged, side=st.sampled_from(["lists", "left", "right"]), tokens=st.sampled_from([1, 3, 7, 2048]))
def test_every_prompt_of_a_batch_is_as_it_is_alone(name: str, rows: list[list[int]], side: str, tokens: int) -> None:
    model = inputs.model(name)
    given_rows = rows if side == "lists" else inputs.packed(rows, side, fill=5)
    run = model.run(given_rows, record="resid_post")
    last = model.run(given_rows, logits="last")
    acts = model.record(given_rows, "resid_post", batch_tokens=tokens)["resid_post"]
    for i, row in enumerate(rows):
        wanted, stream = inputs.alone(name, row), states(name, row)
        own = run.logits[i] if wanted.ndim == 1 else run.logits[i, : len(row)]
        assert near(own, wanted)
        assert near(last.logits[i], wanted if wanted.ndim == 1 else wanted[-1])
        assert wanted.ndim == 1 or bool(run.logits[i, len(row) :].isnan().all())
        placed = acts[:, i] if acts.ndim == 4 else acts[:, i].unsqueeze(1)
        assert near(placed[:, : len(row)], stream)
        assert bool(placed[:, len(row) :].isnan().all())
    assert run.activations is not None
    assert near(run.activations["resid_post"].nan_to_num(), acts.nan_to_num())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sweep_over_ragged_prompts(name: str) -> None:
    """With edits, and for heads that pool: the only output is read at the last token, wherever the head found it."""
    model, rows = inputs.model(name), [[5, 6, 8, 9], [11, 7], [12, 7, 13, 0]]
    vector = torch.linspace(-2, 2, 16, dtype=torch.float64)
    grid = model.sweep(rows, pc.Add(vector), sites="resid_post", at="each", read=pc.Logits([0, 2]), verify=4)
    path = model.sites.layers[0]
    for i, row in enumerate(rows):
        for position in range(len(row)):
            moved = torch.zeros(len(row), 16, dtype=torch.float64)
            moved[position] = vector

            def add(_: object, __: object, out: object, moved: Tensor = moved) -> object:
                return (out[0] + moved, *out[1:]) if isinstance(out, tuple) else out + moved  # type: ignore[operator]

            handle = model.sites.modules[path].register_forward_hook(add)
            wanted = inputs.alone(name, row)
            handle.remove()
            found = torch.from_numpy(grid.data.isel(prompt=i, site=0, layer=0, position=position).values)
            assert near(found, (wanted if wanted.ndim == 1 else wanted[-1])[[0, 2]])
    assert bool(torch.from_numpy(grid.data.isel(prompt=1, position=slice(2, None)).values).isnan().all())


@pytest.mark.parametrize("name", inputs.POOLED)
def test_other_verbs_on_heads_that_pool(name: str) -> None:
    model, row, other = inputs.model(name), [5, 6, 8, 9], [5, 6, 10, 9]
    clean, reads = inputs.alone(name, row), pc.Logits([1])
    patched = model.patch(other, row, sites="resid_post.0", at="each", read=reads, verify=2)
    assert patched.baseline.item() == pytest.approx(float(clean[1]))
    estimate = model.attribution_patch(other, row, sites="resid_post.0", at="each", read=reads, check=2)
    assert estimate.baseline.item() == pytest.approx(float(clean[1]))
    bias = pc.metrics.bias(model, [(row, other[:2])], answers=(0, 1))
    for i, prompt in enumerate((row, other[:2])):
        wanted = inputs.alone(name, prompt).log_softmax(-1)[:2]
        assert near(torch.from_numpy(bias.data["log_probability"].values[0, i]), wanted)
    with pytest.raises(pc.PositionError, match="one output for a whole prompt"):
        model.sweep(row, pc.Zero(), sites="mlp_out", at="last", read=pc.Logits([1], at=0))
    with pytest.raises(pc.InputError, match="no next tokens"):
        pc.metrics.damage(model, pc.Zero(site="mlp_out.0"), [row])
    with pytest.raises(pc.InputError, match="no next tokens"):
        model.sweep(row, pc.Zero(), sites="mlp_out", at="last", read=pc.Loss())


def test_a_trace_of_a_head_that_pools_follows_its_likeliest_class() -> None:
    for name in ("reward", "reward_pad"):
        row = [5, 6, 8, 9]
        trace = inputs.model(name).causal_trace(row, [1], samples=2, std=1.0)
        assert trace.record["parameters"]["answer"] == int(inputs.alone(name, row).argmax())


def test_one_row_at_a_time_where_the_model_takes_no_more() -> None:
    """Without a padding token transformers refuses two rows, so the plan says so, and so does a forced strategy."""
    model = inputs.model("reward")
    assert (model.capabilities.together, model.ladder.strategy) == (False, "cell")
    assert inputs.model("reward_pad").capabilities.together
    with pytest.raises(pc.InputError, match="this model takes one row at a time"):
        model.sweep([[5, 6]], pc.Zero(), sites="mlp_out", at="last", read=pc.Logits([0]), strategy="rows")


@pytest.mark.parametrize("name", ["encoder", "decoder"])
@pytest.mark.parametrize("tokens", [3, 2048])
@pytest.mark.parametrize("grad", [False, True])
def test_attention_is_ragged_in_queries_and_keys(name: str, tokens: int, grad: bool) -> None:
    model, rows = inputs.model(name, "eager"), [[5, 6, 8, 9], [11], [12, 7, 13]]
    acts = model.record(rows, ["attn_pattern", "attn_pattern.1.h1"], batch_tokens=tokens, grad=grad)
    for i, row in enumerate(rows):
        with torch.no_grad():
            own = inputs.module(name, "eager")(torch.tensor([row]), output_attentions=True).attentions
        wanted = torch.stack([layer[0].transpose(0, 1) for layer in own])  # [layer, query, head, key]
        found, n = acts["attn_pattern"][:, i].detach(), len(row)
        assert near(found[:, :n, :, :n], wanted)
        assert int(found.isnan().sum()) == found.numel() - wanted.numel(), "nothing stands beyond the prompt"
        assert near(acts["attn_pattern.1.h1"][i, :n, 0, :n].detach(), wanted[1, :, 1])


def test_many_rows_and_one_longer(llama: pc.Model) -> None:
    rows = [[5] * 2] * 40 + [[6] * 7] * 2
    acts = llama.record(rows, "resid_post.1")["resid_post.1"]
    assert near(acts[0, :2], llama.record([[5, 5]], "resid_post.1")["resid_post.1"][0])
    assert bool(acts[:40, 2:].isnan().all())
    single = llama.record([[5], [5], [6, 7, 8]], "resid_post.1", batch_tokens=3)["resid_post.1"]
    assert bool(single[:2, 1:].isnan().all()), "one position is not spread over three"


def test_sites_with_one_vector_a_prompt() -> None:
    model, rows = inputs.model("pairs"), [[5, 6, 8, 9], [11], [12, 7, 13]]
    for at in ("all", "last"):
        acts = model.record(rows, ["classifier:out", "bert.pooler:out"], at=at)
        assert acts.dims["classifier:out"] == ("prompt", "d")
        assert near(acts["classifier:out"], torch.stack([inputs.alone("pairs", row) for row in rows]))
    assert model.record(rows, ["bert.pooler:out", "resid_post.0"], grad=True)["bert.pooler:out"].shape == (3, 16)
    with pytest.raises(pc.PositionError, match="has 1 vectors for a prompt of 4 tokens"):
        model.record(rows[:1], "bert.pooler:out", at=[0, 1])
    everywhere, first = (model.run(rows, pc.Zero(site="bert.pooler:out", at=at)) for at in ("all", 0))
    assert torch.equal(everywhere.logits, first.logits), "the one vector there is"
    assert not near(first.logits, model.run(rows).logits)
    with pytest.raises(pc.PositionError):
        model.run(rows, pc.Zero(site="bert.pooler:out", at=[0, 1]))


@settings(max_examples=examples(8, 60))
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_tensors_of_unequal_shapes(sizes: list[int], grad: bool) -> None:
    net = inputs.plain()
    model = pc.wrap(net)
    rows = [torch.linspace(-1, 1, 4 * n, dtype=torch.float64).reshape(1, n, 4) for n in sizes]
    run, acts = model.run(rows), model.record(rows, "0:out", grad=grad)["0:out"].detach()
    placed = acts.unsqueeze(1) if acts.ndim == 2 else acts
    with torch.no_grad():
        for i, (row, n) in enumerate(zip(rows, sizes, strict=True)):
            assert near(run.logits[i, :n], net(row)[0])
            assert near(run.last_logits()[i], net(row)[0, -1])
            assert near(placed[i, :n], net[0](row)[0])
            assert bool(placed[i, n:].isnan().all())
    assert near(model.run(rows, logits="last").logits, run.last_logits())


class Winner(nn.Module):
    """Shows whole numbers at a site."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.best = nn.Linear(4, 4), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.inner(x)
        self.best(hidden.argmax(-1))
        return hidden


def test_whole_numbers_have_no_nan() -> None:
    model = pc.wrap(Winner().eval())
    assert model.record(torch.randn(2, 3, 4), "best:out")["best:out"].dtype == torch.long
    for rows in ([torch.randn(1, 3, 4), torch.randn(1, 5, 4)], [torch.randn(1, 5, 4), torch.randn(1, 3, 4)]):
        for grad in (False, True):
            with pytest.raises(pc.InputError, match="have no NaN to fill up shorter prompts"):
                model.record(rows, "best:out", grad=grad)


def test_a_site_whose_first_axis_is_no_batch_is_refused() -> None:
    """XLNet's layers work on ``[position, row, d]``."""
    model = inputs.model("segments")
    with pytest.raises(pc.SiteError, match="other axes than"):
        model.record([[5, 6, 7]], "resid_post")
    with pytest.raises(pc.InputError, match=r"has shape \(3, 2, 16\) in a call of 2 rows"):
        model.record([[5, 6, 7], [5, 6, 8]], "transformer.layer.0:out")


def test_outputs_that_are_no_logits_are_named() -> None:
    with pytest.raises(pc.ModelError, match="start_logits, end_logits"):
        inputs.model("spans").run([[5, 6]])
    acts = inputs.model("spans").record([[5, 6, 7], [8]], "resid_post.0")["resid_post.0"]
    assert acts.shape == (2, 3, 16)


def test_ragged_lens_of_a_decoder() -> None:
    model, rows = inputs.model("decoder"), [[5, 6, 8, 9], [11], [12, 7, 13]]
    whole = model.lens(rows, k=1).data["entropy"]
    for i, row in enumerate(rows):
        own = model.lens([row], k=1).data["entropy"].isel(prompt=0)
        found = whole.isel(prompt=i, position=slice(0, len(row)))
        assert near(torch.from_numpy(found.values), torch.from_numpy(own.values))
