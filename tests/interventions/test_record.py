import pytest
import torch

import patchclamp as pc
from patchclamp.interventions.recording import batches, record_source
from patchclamp.interventions.sources import Source
from patchclamp.models.sites import Site
from tests import tiny
from tests.interventions import by_hand


def test_recorded_values_are_what_hooks_see(llama: pc.Model) -> None:
    prompts = [*tiny.ids(2, 7), *tiny.ids(1, 4, seed=6)]
    acts = llama.record(prompts, ["resid_post", "mlp_out.1", "z.1", "z.1.h2"])
    for row, prompt in enumerate(prompts):
        for layer in range(3):
            seen: list[torch.Tensor] = []
            by_hand.run(llama.module, prompt, [(f"model.layers.{layer}", "out", lambda x: seen.append(x) or x)])
            assert torch.allclose(acts["resid_post"][layer, row, : len(prompt)], seen[0][0], rtol=1e-12)
            assert bool(acts["resid_post"][layer, row, len(prompt) :].isnan().all())
    assert torch.equal(acts["z.1"][:, :, 2].nan_to_num(), acts["z.1.h2"].nan_to_num())
    assert torch.equal(acts["resid_post.2"].nan_to_num(), acts["resid_post"][2].nan_to_num())


@pytest.mark.parametrize(
    ("sites", "at", "shape", "dims"),
    [
        ("resid_post", "last", (3, 2, 32), ("layer", "prompt", "d")),
        ("resid_post", "all", (3, 2, 6, 32), ("layer", "prompt", "position", "d")),
        ("resid_post.0-1", -1, (2, 2, 32), ("layer", "prompt", "d")),
        ("resid_post.1", [0, 2], (2, 2, 32), ("prompt", "position", "d")),
        ("z", "last", (3, 2, 4, 8), ("layer", "prompt", "head", "d_head")),
        ("k.1", "all", (2, 6, 2, 8), ("prompt", "position", "head", "d_head")),
        ("z.1.h3", "all", (2, 6, 8), ("prompt", "position", "d")),
        ("mlp_act.2.n7", "last", (2, 1), ("prompt", "d")),
        ("embed", "all", (2, 6, 32), ("prompt", "position", "d")),
    ],
)
def test_shapes_have_named_dimensions(
    llama: pc.Model, sites: str, at: object, shape: tuple[int, ...], dims: tuple[str, ...]
) -> None:
    acts = llama.record(tiny.ids(2, 6), sites, at)
    assert acts[sites].shape == shape
    assert acts.dims[sites] == dims
    assert acts.data[sites].shape == shape


def test_the_pass_ends_at_the_last_site(llama: pc.Model) -> None:
    """Nothing above the deepest site runs, and so no logits are ever formed."""
    ran: list[str] = []
    layers = llama.module.model.layers
    handles = [
        m.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, m in (("1", layers[1]), ("2", layers[2]), ("head", llama.module.lm_head))
    ]
    llama.record(tiny.ids(1, 5), ["resid_pre.1", "mlp_out.0"])
    assert ran == []
    llama.record(tiny.ids(1, 5), ["mlp_out.1"])
    assert ran == []
    llama.record(tiny.ids(1, 5), ["resid_post.1"])
    assert ran == ["1"]
    for handle in handles:
        handle.remove()


def test_batching_does_not_change_the_order_or_the_numbers(llama: pc.Model) -> None:
    prompts = [tiny.ids(1, n, seed=n)[0] for n in (5, 2, 9, 5, 3, 2)]
    whole = llama.record(prompts, "resid_post.1", at=[0, -1])["resid_post.1"]
    for tokens in (1, 6, 12):
        parts = llama.record(prompts, "resid_post.1", at=[0, -1], batch_tokens=tokens)["resid_post.1"]
        assert torch.allclose(parts, whole, rtol=1e-12)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = llama.record([prompts[i] for i in order], "resid_post.1", at=[0, -1])["resid_post.1"]
    assert torch.allclose(shuffled, whole[order], rtol=1e-12)


def test_batches_hold_each_prompt_once_and_keep_the_budget(llama: pc.Model) -> None:
    prompts = llama.prompts([tiny.ids(1, n, seed=n)[0] for n in (5, 2, 9, 5, 3, 2, 40)])
    for tokens in (1, 10, 18, 1000):
        found = list(batches(prompts, tokens, causal=True))
        assert sorted(i for batch in found for i in batch) == list(range(7))
        for batch in found:
            assert len(batch) == 1 or len(batch) * max(len(prompts[i].ids) for i in batch) <= tokens
    assert list(batches(prompts, 10, causal=True)) == [[1, 5, 4], [0, 3], [2], [6]], "as many as just fit"
    assert list(batches(prompts, 9, causal=True)) == [[1, 5, 4], [0], [3], [2], [6]]
    for batch in batches(prompts, 1000, causal=False):
        assert len({len(prompts[i].ids) for i in batch}) == 1, "what looks both ways is never padded"


def test_recording_for_training_keeps_the_graph(llama: pc.Model) -> None:
    layer = torch.nn.Linear(32, 32).double()
    prompts = [*tiny.ids(1, 6), *tiny.ids(1, 4, seed=1)]
    edit = pc.Edit(layer, site="mlp_out.0")
    acts = llama.record(prompts, "resid_post.2", "last", edits=[edit], grad=True)["resid_post.2"]
    (gradient,) = torch.autograd.grad(acts.sum(), layer.weight)
    assert float(gradient.abs().max()) > 0
    plain = llama.record(prompts, "resid_post.2", "last", edits=[edit])["resid_post.2"]
    assert torch.allclose(acts.detach(), plain, rtol=1e-12)
    assert not plain.requires_grad
    assert not plain.is_inference(), "people train on recordings"


def test_vectors_of_a_recording_by_site_prompt_and_position(llama: pc.Model) -> None:
    prompts = tiny.ids(2, 6)
    acts = llama.record(prompts, ["resid_post", "z.1", "mlp_act.0-1", "k.2.h1"], at=[3, 1])
    resid, z, mlp = acts["resid_post"], acts["z.1"], acts["mlp_act.0-1"]
    assert acts.positions == ((3, 1), (3, 1))
    assert acts.tokens == tuple((str(p[3]), str(p[1])) for p in prompts)

    def vectors(site: str, prompt: int, positions: object) -> torch.Tensor:
        return acts.vectors(llama.sites.expand(site)[0], prompt, positions)  # type: ignore[arg-type]

    assert torch.equal(vectors("resid_post.2", 1, [1, 3]), resid[2, 1, [1, 0]])
    assert torch.equal(vectors("resid_post.0", 0, None), resid[0, 0])
    assert torch.equal(vectors("z.1", 0, [3]), z[0, [0]].flatten(1)), "heads side by side"
    assert torch.equal(vectors("z.1.h2", 1, [1]), z[1, [1], 2])
    assert torch.equal(vectors("mlp_act.1", 0, [1]), mlp[1, 0, [1]])
    assert torch.equal(vectors("mlp_act.1.n7", 0, [1]), mlp[1, 0, [1], 7:8])
    assert torch.equal(vectors("k.2.h1", 1, [3]), acts["k.2.h1"][1, [0]])
    for site, position, said in (
        ("resid_post.0", 2, "position 2 was not recorded"),
        ("k.2.h0", 3, "unknown recorded site"),
    ):
        with pytest.raises(pc.InputError, match=said):
            vectors(site, 0, [position])
    last = llama.record(prompts[:1], "resid_post.1", at=-1)
    site = llama.sites.expand("resid_post.1")[0]
    assert torch.equal(last.vectors(site, 1, [0, 4]), last["resid_post.1"][0]), "one prompt and one position serve all"
    assert repr(last) == "Activations: resid_post.1 [prompt, d] (1, 32)"


def test_what_is_recorded_is_labelled(llama: pc.Model) -> None:
    prompts = [*tiny.ids(1, 4), *tiny.ids(1, 2, seed=1)]
    data = llama.record(prompts, ["resid_post.1-2", "embed"]).data
    assert data["resid_post.1-2"].dims == ("layer:resid_post.1-2", "prompt", "position", "d:resid_post.1-2")
    assert data["layer:resid_post.1-2"].values.tolist() == [1, 2]
    assert data["at"].values.tolist() == [[0, 1, 2, 3], [0, 1, -1, -1]]
    assert data["token"].values.tolist() == [[str(t) for t in prompts[0]], [*(str(t) for t in prompts[1]), "", ""]]
    assert data["embed"].attrs["dtype"] == "float64"
    with pytest.raises(pc.SiteError, match="unknown recorded site 'resid_post.0'"):
        llama.record(prompts, "resid_post.1-2")["resid_post.0"]


def test_half_precision_is_recorded_as_it_is() -> None:
    model = pc.wrap(tiny.build("llama", torch.bfloat16))
    acts = model.record(tiny.ids(1, 5), "resid_post")
    assert acts["resid_post"].dtype == torch.bfloat16
    assert acts.data["resid_post"].dtype == "float32"


def test_bad_requests(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="no site to record"):
        llama.record(tiny.ids(1, 4), [])
    with pytest.raises(pc.PositionError, match="position 4 is outside"):
        llama.record(tiny.ids(1, 4), "resid_post", at=4)
    acts = llama.record(tiny.ids(1, 4), "resid_post")
    with pytest.raises(pc.SiteError, match="unknown recorded site 'mlp_out.1'"):
        acts["mlp_out.1"]
    resnet = pc.wrap(tiny.shared("resnet"))
    with pytest.raises(pc.InputError, match="has other shapes in other layers"):
        resnet.record(torch.zeros(1, 3, 32, 32), "resid_post")


@pytest.mark.assets
@pytest.mark.sensitive
def test_positions_of_words(stories: pc.Model) -> None:
    prompts = ["The little girl was happy", "A girl ran away"]
    acts = stories.record(prompts, "resid_post.3", pc.token(" girl"))
    assert acts.tokens == ((" girl",), (" girl",))
    places = [stories.prompts(p)[0].tokens.index(" girl") for p in prompts]
    assert acts.positions == tuple((place,) for place in places)
    single = [stories.record(p, "resid_post.3", at)["resid_post.3"] for p, at in zip(prompts, places, strict=True)]
    assert torch.allclose(acts["resid_post.3"], torch.cat(single), atol=1e-4)
    each = stories.record(prompts, "resid_post.3", pc.per_prompt([0, "last"]))
    assert each.tokens == (("<s>",), (" away",))


@pytest.mark.parametrize("name", ["falcon", pytest.param("falcon_new", marks=pytest.mark.slow), "llama"])
def test_a_source_gives_the_sites_own_values_where_the_block_writes_into_them(name: str) -> None:
    """Falcon's parallel blocks add what attention wrote into the MLP's output in place."""
    model = pc.wrap(tiny.shared(name))
    site, ids = Site("mlp_out", 1), tiny.ids(2, 6)
    found = record_source(model, Source(ids), [site, Site("resid_post", 2)])[site]
    assert torch.equal(torch.stack(found), model.record(ids, "mlp_out.1")["mlp_out.1"])
