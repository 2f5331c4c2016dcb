"""Runs against hooks written by hand; gradients; failures that leave nothing behind."""

import copy

import pytest
import torch
from scipy.stats import kstest

import patchclamp as pc
from patchclamp.interventions.running import run as run_in_batches
from tests import tiny
from tests.interventions import by_hand
from tests.traces import no_trace, passes

IDS = tiny.ids(1, 7)[0]
MLP = "model.layers.{}.mlp"


def draw(seed: int, width: int = 32) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("site", "path", "side", "part"),
    [
        ("mlp_out.1", "model.layers.1.mlp", "out", slice(None)),
        ("attn_out.1", "model.layers.1.self_attn", "out", slice(None)),
        ("resid_pre.1", "model.layers.1", "in", slice(None)),
        ("resid_post.1", "model.layers.1", "out", slice(None)),
        ("z.1.h2", "model.layers.1.self_attn.o_proj", "in", slice(16, 24)),
        ("v.1.h1", "model.layers.1.self_attn.v_proj", "out", slice(8, 16)),
        ("mlp_act.1.n5", "model.layers.1.mlp.down_proj", "in", slice(5, 6)),
        ("final_norm", "model.norm", "out", slice(None)),
        ("embed", "model.embed_tokens", "out", slice(None)),
    ],
)
@pytest.mark.parametrize("position", [0, 3, -1])
def test_an_edit_is_the_hook_written_by_hand(
    llama: pc.Model, site: str, path: str, side: str, part: slice, position: int
) -> None:
    width = llama.sites.width(llama.sites.expand(site)[0])
    v = draw(1, width or 0)

    def change(x: torch.Tensor) -> torch.Tensor:
        new = x.clone()
        new[..., part] = x[..., part] * 1.0 + 2.0 * v
        return new

    wanted = by_hand.run(llama.module, IDS, [(path, side, by_hand.at(position, change))])
    found = llama.run(IDS, pc.Add(v, 2.0, site=site, at=position)).logits[0]
    assert torch.equal(found, wanted)
    assert not torch.equal(wanted, by_hand.run(llama.module, IDS, []))


def test_edits_at_one_site_act_in_list_order(llama: pc.Model) -> None:
    v = draw(2)
    add, scale = pc.Add(v, site="mlp_out.1", at=2), pc.Scale(3.0, site="mlp_out.1", at=2)
    for edits, change in (([add, scale], lambda x: (x + v) * 3), ([scale, add], lambda x: x * 3 + v)):
        wanted = by_hand.run(llama.module, IDS, [(MLP.format(1), "out", by_hand.at(2, change))])
        assert torch.equal(llama.run(IDS, edits).logits[0], wanted)


def test_several_sites_act_in_one_forward(llama: pc.Model) -> None:
    v = draw(3)
    changes = [(MLP.format(i), "out", by_hand.at(-1, lambda x: x + v)) for i in range(3)]
    assert torch.equal(
        llama.run(IDS, pc.Add(v, site="mlp_out", at=-1)).logits[0], by_hand.run(llama.module, IDS, changes)
    )


def test_a_serial_source_is_itself_an_edited_run(llama: pc.Model) -> None:
    """pc.source(prompt, edits): the patched value comes from a run under those edits, not from the clean one."""
    v, other = draw(4), tiny.ids(1, 7, seed=9)[0]
    seen: list[torch.Tensor] = []

    def see(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x

    by_hand.run(
        llama.module, other, [(MLP.format(0), "out", by_hand.at(1, lambda x: x + v)), ("model.layers.1", "out", see)]
    )
    wanted = by_hand.run(llama.module, IDS, [("model.layers.1", "out", by_hand.at(3, lambda _: seen[0][:, 3]))])
    source = pc.source(other, [pc.Add(v, site="mlp_out.0", at=1)])
    assert torch.equal(llama.run(IDS, pc.Patch(source, site="resid_post.1", at=3)).logits[0], wanted)
    clean = llama.run(IDS, pc.Patch([other], site="resid_post.1", at=3)).logits[0]
    assert not torch.equal(clean, wanted)


def test_every_way_to_say_what_is_patched_in(llama: pc.Model) -> None:
    other = tiny.ids(1, 7, seed=9)[0]
    acts = llama.record([other], ["resid_post", "z.1"])
    wanted = llama.run(IDS, pc.Patch(acts["resid_post"][1, 0, 3], site="resid_post.1", at=3)).logits
    ways = [
        pc.Patch([other], site="resid_post.1", at=3),
        pc.Patch(torch.tensor([other]), site="resid_post.1", at=3),
        pc.Patch(pc.source([other]), site="resid_post.1", at=3),
        pc.Patch(pc.source([other], at=3), site="resid_post.1", at=3),
        pc.Patch(acts, site="resid_post.1", at=3),
    ]
    for edit in ways:
        assert torch.equal(llama.run(IDS, edit).logits, wanted)
    everywhere = llama.run(IDS, pc.Patch(acts, site="resid_post.1"), record="resid_post.1")
    assert everywhere.activations is not None
    assert torch.equal(everywhere.activations["resid_post.1"][0], acts["resid_post"][1, 0])
    heads = llama.run(IDS, pc.Patch(acts, site="z.1.h2", at=[1, 4]), record="z.1")
    assert heads.activations is not None
    assert torch.equal(heads.activations["z.1"][0, [1, 4], 2], acts["z.1"][0, [1, 4], 2])
    mean = llama.run(IDS, pc.MeanAblate([other, IDS], site="mlp_out.1", at=2), record="mlp_out.1")
    assert mean.activations is not None
    both = llama.record([other, IDS], "mlp_out.1")["mlp_out.1"].flatten(0, 1).mean(0)
    assert torch.allclose(mean.activations["mlp_out.1"][0, 2], both)


def test_sources_that_do_not_fit_are_refused(llama: pc.Model) -> None:
    short = tiny.ids(1, 3)[0]
    with pytest.raises(pc.EditError, match=r"position 5 .* has no counterpart in the source, which has 3 positions"):
        llama.run(IDS, pc.Patch([short], site="resid_post.1", at=5))
    with pytest.raises(pc.EditError, match="the source gives 2 positions and the edit has 3"):
        llama.run(IDS, pc.Patch(pc.source([short], at=[0, 1]), site="resid_post.1", at=[0, 1, 2]))
    acts = llama.record([short], "resid_post", at="last")
    with pytest.raises(pc.SiteError, match="unknown recorded site 'mlp_out.1'"):
        llama.run(IDS, pc.Patch(acts, site="mlp_out.1", at=2))
    with pytest.raises(pc.InputError, match="position 2 was not recorded"):
        llama.run(IDS, pc.Patch(llama.record([short], "mlp_out", at=[0, 1]), site="mlp_out.1", at=2))


def test_noise_is_keyed_and_not_drawn_from_the_batch(llama: pc.Model) -> None:
    prompts = [*tiny.ids(2, 6), *tiny.ids(1, 4, seed=8)]
    noise = pc.Noise(0.5, seed=3, site="embed", at="all")

    def drawn(prompt_list: list[list[int]], edit: pc.Edit) -> list[torch.Tensor]:
        clean = llama.record(prompt_list, "embed")["embed"]
        noisy = llama.record(prompt_list, "embed", edits=[edit])["embed"]
        return [row[: len(p)] for row, p in zip(noisy - clean, prompt_list, strict=True)]

    together = drawn(prompts, noise)
    alone = [drawn([p], noise)[0] for p in prompts]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    reordered = drawn(prompts[::-1], noise)[::-1]
    assert all(torch.equal(a, b) for a, b in zip(together, reordered, strict=True))
    assert torch.equal(drawn(prompts[:1], noise.on(at=[2, 4]))[0][[2, 4]], together[0][[2, 4]]), (
        "by position, not by count"
    )
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(drawn(prompts[:1], noise.using(seed=4))[0], together[0])
    elsewhere = llama.record(prompts[:1], "resid_pre.0", edits=[noise.on("resid_pre.0")])["resid_pre.0"]
    clean = llama.record(prompts[:1], "resid_pre.0")["resid_pre.0"]
    assert not torch.allclose((elsewhere - clean)[0], together[0]), "another site draws another noise"
    assert torch.allclose(drawn(prompts[:1], noise.using(std=2.0))[0], 4 * together[0]), "the same numbers, four times"
    flat = torch.cat(drawn(tiny.ids(40, 20, seed=77), noise)).flatten()
    assert float(flat.std()) == pytest.approx(0.5, rel=0.02)
    assert abs(float(flat.mean())) < 0.01
    assert kstest(flat.numpy() / 0.5, "norm").pvalue > 1e-4


def test_gradients_flow_through_edits_and_leave_the_model_alone(llama: pc.Model) -> None:
    module = llama.module
    layer = torch.nn.Linear(32, 32).double()
    with no_trace(module):
        run = llama.run(IDS, pc.Edit(layer, site="mlp_out.1", at=2), grad=True)
        loss = run.logits[0, -1, 5]
        (gradient,) = torch.autograd.grad(loss, layer.weight)
    assert float(gradient.abs().max()) > 0
    kept: list[torch.Tensor] = []

    def by_layer(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.detach())
        return layer(x)

    handle = by_hand.hook(module.get_submodule(MLP.format(1)), "out", by_hand.at(2, by_layer))
    (wanted,) = torch.autograd.grad(module(torch.tensor([IDS])).logits[0, -1, 5], layer.weight)
    handle.remove()
    assert kept
    assert torch.equal(gradient, wanted)
    assert not llama.run(IDS).logits.requires_grad


class Shift(torch.nn.Module):
    """``f(x) + shift`` with a trainable shift."""

    def __init__(self, width: int, bend: bool = False) -> None:
        super().__init__()
        self.shift, self.bend = torch.nn.Parameter(torch.zeros(width, dtype=torch.float64)), bend

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.tanh(x) if self.bend else x) + self.shift


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("olmo2", "opt", "bloom")]


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "gpt2", *SLOW])
@pytest.mark.parametrize("pair", [("resid_mid.1", "attn_out.1"), ("mlp_out.1", "resid_post.1")])
def test_one_gradient_where_two_sites_carry_one_vector(name: str, pair: tuple[str, str]) -> None:
    """Also where the edit is written in place (resid_mid) or scaled (granite)."""
    model = pc.wrap(tiny.shared(name))
    gradients = []
    for site in pair:
        shift = Shift(32)
        run = model.run(IDS, pc.Edit(shift, site=site, at=3), grad=True)
        (gradient,) = torch.autograd.grad(run.logits[0, -1, 5], shift.shift)
        gradients.append(gradient)
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-15)
    assert float(gradients[0].abs().max()) > 0


def test_the_gradient_through_a_bent_state_written_in_place(llama: pc.Model) -> None:
    """resid_mid <- tanh(resid_mid) + shift, against the same function written out at the attention's output."""
    here, there = Shift(32, bend=True), Shift(32, bend=True)
    early = Shift(32)
    run = llama.run(IDS, [pc.Edit(early, site="resid_pre.0", at=1), pc.Edit(here, site="resid_mid.1", at=3)], grad=True)
    found = torch.autograd.grad(run.logits[0, -1, 5], [here.shift, early.shift])
    streams: list[torch.Tensor] = []

    def remember(x: torch.Tensor) -> torch.Tensor:
        streams.append(x)
        return x

    def bend(a: torch.Tensor) -> torch.Tensor:
        stream = streams[0][:, 3]
        return there(stream + a) - stream

    layers = llama.module.model.layers
    later = Shift(32)
    handles = [
        by_hand.hook(layers[0], "in", by_hand.at(1, later)),
        by_hand.hook(layers[1], "in", remember),
        by_hand.hook(layers[1].self_attn, "out", by_hand.at(3, bend)),
    ]
    wanted = torch.autograd.grad(llama.module(torch.tensor([IDS])).logits[0, -1, 5], [there.shift, later.shift])
    for handle in handles:
        handle.remove()
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-12)
        assert float(b.abs().max()) > 0


@pytest.mark.sensitive
def test_a_rotation_learns_to_carry_what_an_interchange_needs() -> None:
    """Interchange in a learned subspace: orthonormal at every step, and training moves the output to the source's."""
    llama = pc.wrap(tiny.build("llama").requires_grad_(False))
    other = tiny.ids(1, 7, seed=9)[0]
    subspace = pc.Subspace(32, 4, seed=0).double()
    edit = pc.Rotate([other], subspace=subspace, site="resid_post.1", at=-1)
    target = int(llama.run([other]).logits[0, -1].argmax())
    optimiser = torch.optim.Adam(subspace.parameters(), lr=0.05)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = -llama.run(IDS, edit, grad=True).logits[0, -1].log_softmax(-1)[target]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        basis = subspace.weight.detach()
        assert torch.allclose(basis @ basis.T, torch.eye(4, dtype=torch.float64), atol=1e-6)
    assert losses[-1] < losses[0] - 0.3


def test_a_full_rotation_is_a_patch_and_none_is_nothing(llama: pc.Model) -> None:
    other = tiny.ids(1, 7, seed=9)[0]
    everything = pc.Rotate([other], directions=torch.eye(32), site="resid_post.1", at=-1)
    patched = llama.run(IDS, pc.Patch([other], site="resid_post.1", at=-1)).logits
    assert torch.allclose(llama.run(IDS, everything).logits, patched, atol=1e-5)
    same = pc.Rotate([IDS], rank=5, d=32, site="resid_post.1", at=-1)
    assert torch.allclose(llama.run(IDS, same).logits, llama.run(IDS).logits, atol=1e-5)


def test_top_and_last_logits(llama: pc.Model) -> None:
    prompts = [*tiny.ids(1, 7), *tiny.ids(1, 3, seed=4)]
    full, last = llama.run(prompts), llama.run(prompts, logits="last")
    assert torch.allclose(full.last_logits(), last.logits, rtol=1e-12)
    assert full.logits.shape == (2, 7, 97)
    best = full.top(3)
    assert list(best["id"][:3]) == full.logits[0, 6].topk(3).indices.tolist()
    assert float(best["probability"][3]) == pytest.approx(float(full.logits[1, 2].softmax(-1).max()))
    with pytest.raises(pc.InputError, match=r"k=98 is outside 1\.\.97"):
        full.top(98)
    with pytest.raises(pc.InputError, match="unknown logits 'first'"):
        llama.run(prompts, logits="first")  # type: ignore[arg-type]


def test_firings_are_counted_by_edit_over_all_batches(llama: pc.Model) -> None:
    prompts = [*tiny.ids(2, 6), *tiny.ids(1, 4, seed=4)]
    edits = [
        pc.Scale(1.1, site="mlp_out", at="all"),
        pc.Scale(1.1, site="mlp_out.1", at=[0, -1]),
        pc.Scale(1.1, site="z.1.h0", at=pc.per_prompt([1, 2, [0, 3]])),
    ]
    for tokens in (1, 12, 1000):
        run = run_in_batches(llama, prompts, edits, batch_tokens=tokens)
        assert run.fired == (3 * (6 + 6 + 4), 6, 4)
        assert run.lengths == (6, 6, 4)
        assert bool(run.logits[2, 4:].isnan().all())
        assert not bool(run.logits[2, :4].isnan().any())
    alone = llama.run(prompts[2], [*edits[:2], edits[2].on(at=[0, 3])]).logits[0]
    assert torch.allclose(run.logits[2, :4], alone, rtol=1e-10, atol=1e-10), "each prompt has its own positions"
    without = llama.run(prompts[2], edits[:2]).logits[0]
    assert not torch.allclose(run.logits[2, :4], without)


def test_the_table_of_the_likeliest_tokens(llama: pc.Model) -> None:
    run = llama.run([*tiny.ids(1, 5), *tiny.ids(1, 3, seed=4)])
    table, last = run.top(), run.last_logits().softmax(-1)
    assert torch.equal(run.last_logits(), torch.stack([run.logits[0, 4], run.logits[1, 2]]))
    order = last.argsort(-1, descending=True)[:, :10]
    assert table["id"].tolist() == order.flatten().tolist()
    assert table["rank"].tolist() == [*range(10)] * 2
    assert table["token"].tolist() == [str(i) for i in table["id"]]
    assert table["probability"].tolist() == pytest.approx(last.gather(1, order).flatten().tolist())
    assert table["prompt"].tolist() == [run.prompts[0]] * 10 + [run.prompts[1]] * 10
    assert len(run.frame()) == 40
    assert len(run.top(97)) == 2 * 97
    with pytest.raises(pc.InputError, match=r"k=0 is outside 1\.\.97"):
        run.top(0)
    assert run.data.dims == ("prompt", "position", "output")
    assert llama.run(IDS, logits="last").data.dims == ("prompt", "output")
    assert set(run.names) == set(range(97)), "the hundred likeliest outputs have names"


def test_an_edit_in_the_head_with_last_logits(llama: pc.Model) -> None:
    edit = pc.Scale(2.0, site="final_norm", at=-1)
    assert torch.equal(llama.run(IDS, edit, logits="last").logits, llama.run(IDS, edit).last_logits())
    plain = llama.run(IDS).logits[:, -1]
    half = llama.run(IDS, pc.Scale(0.5, site="logits", at=-1), logits="last").logits
    assert torch.equal(half, 0.5 * plain)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: pc.Add(torch.zeros(31), site="mlp_out.1"),
            pc.EditError,
            "vector has width 31, but mlp_out.1 has width 32",
        ),
        (lambda: pc.Add(torch.zeros(32), site="z.1.h0"), pc.EditError, "vector has width 32, but z.1.h0 has width 8"),
        (lambda: pc.Add(torch.zeros(32)), pc.EditError, r"has no site; place it, as in edit.on\("),
        (lambda: pc.Zero(site="mlp_out.3"), pc.SiteError, "layer 3 of 'mlp_out' is outside"),
        (
            lambda: pc.Zero(site="mlp_out.1", at=7),
            pc.PositionError,
            "position 7 is outside the prompt, which has 7 tokens",
        ),
        (lambda: pc.Zero(site="mlp_out.1", at="each"), pc.PositionError, "belongs to model.sweep"),
        (lambda: pc.Zero(site="mlp_out.1", at=pc.token("x")), pc.InputError, "needs a tokenizer"),
        (lambda: pc.Zero(site="attn_pattern.1"), pc.SiteError, "attn_implementation='eager'"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    llama: pc.Model, make: object, error: type[Exception], message: str
) -> None:
    with passes(llama.module) as calls:
        with pytest.raises(error, match=message), no_trace(llama.module):
            llama.run(IDS, make())  # type: ignore[operator]
    assert not calls, "the model was not run"


def test_an_exception_inside_the_forward_leaves_no_trace(llama: pc.Model) -> None:
    def explode(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("mine")

    seen: list[int] = []
    handle = llama.module.model.layers[1].register_forward_hook(lambda *_: seen.append(1))
    try:
        with no_trace(llama.module):
            for call in (
                lambda e: llama.run(IDS, e),
                lambda e: llama.record(IDS, "resid_post", edits=[e]),
                lambda e: llama.sweep(IDS, e, read=pc.TopK(1)),
                lambda e: llama.generate(IDS, e, max_new_tokens=2),
            ):
                with pytest.raises(ValueError, match="mine"):
                    call(pc.Call(explode, site="mlp_out.1"))
        assert seen, "the user's own hook ran and is still there"
    finally:
        handle.remove()


def test_a_users_hook_is_respected(llama: pc.Model) -> None:
    """A hook of the user's changes what the model does, so it changes what we measure; sweeps fall back and say so."""
    v = draw(5)
    module = copy.deepcopy(llama.module)
    model = pc.wrap(module)
    handle = module.model.layers[0].mlp.register_forward_hook(lambda _, __, out: out + v)
    with no_trace(module):
        wanted = by_hand.run(module, IDS, [(MLP.format(1), "out", by_hand.at(2, lambda x: x * 2))])
        assert torch.equal(model.run(IDS, pc.Scale(2.0, site="mlp_out.1", at=2)).logits[0], wanted)
        grid = model.sweep(IDS, pc.Scale(2.0), sites="mlp_out.1", at="each", read=pc.Logits())
    assert grid.plan.strategy == "cell"
    assert "model.layers.0.mlp carries a forward hook of yours" in grid.plan.reason
    assert torch.allclose(torch.from_numpy(grid.data.values[0, 0, 0, 2]), wanted[-1])
    handle.remove()
    assert model.plan(IDS, pc.Scale(2.0), sites="mlp_out.1", at="each", read=pc.TopK(1)).strategy == "wavefront"
