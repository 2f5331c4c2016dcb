import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.models.weights import experts, oriented, sharing, stored
from tests import tiny


@pytest.fixture(scope="module")
def gpt2() -> pc.Model:
    return pc.wrap(tiny.shared("gpt2"))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "opt", "falcon_new", "phi3"])
def test_output_projections_make_what_is_added(name: str) -> None:
    model = pc.wrap(tiny.shared(name))
    acts = model.record(tiny.ids(1, 6), ["z.1", "attn_out.1", "mlp_act.1", "mlp_out.1"])
    for source, role in (("z.1", "attn_out.1"), ("mlp_act.1", "mlp_out.1")):
        rest = acts[role] - acts[source].flatten(2) @ model.weight(role)
        assert torch.allclose(rest, rest[:, :1].expand_as(rest), atol=1e-10), "what is left is a bias"


def test_heads_and_neurons_sum_to_the_whole(llama: pc.Model) -> None:
    acts = llama.record(tiny.ids(1, 6), ["z.1", "attn_out.1", "mlp_act.1", "mlp_out.1"])
    heads = sum(acts["z.1"][..., h, :] @ llama.weight(f"attn_out.1.h{h}") for h in range(4))
    assert torch.allclose(heads, acts["attn_out.1"])
    neurons = sum(acts["mlp_act.1"][..., n, None] * llama.weight(f"mlp_out.1.n{n}") for n in range(48))
    assert torch.allclose(neurons, acts["mlp_out.1"])


def test_embedding_and_unembedding(gpt2: pc.Model) -> None:
    ids = tiny.ids(1, 5)
    acts = gpt2.record(ids, ["embed", "final_norm", "logits"])
    assert torch.equal(acts["embed"][0], gpt2.weight("embed")[ids[0]])
    assert torch.allclose(acts["final_norm"] @ gpt2.weight("logits"), acts["logits"])


def test_gated_projections(llama: pc.Model) -> None:
    acts = llama.record(tiny.ids(1, 5), ["mlp_in.0", "mlp_pre.0", "mlp_act.0"])
    gate = acts["mlp_in.0"] @ llama.weight("mlp_pre.0")
    assert torch.allclose(gate, acts["mlp_pre.0"])
    assert torch.allclose(
        torch.nn.functional.silu(gate) * (acts["mlp_in.0"] @ llama.weight("mlp_up.0")), acts["mlp_act.0"]
    )


def test_a_weight_is_a_view_of_the_models_own(llama: pc.Model) -> None:
    assert llama.weight("mlp_out.1").data_ptr() == llama.module.model.layers[1].mlp.down_proj.weight.data_ptr()


def test_parts_of_a_weight_are_its_heads_and_neurons(llama: pc.Model) -> None:
    for role, heads, size in (("q.1", 4, 8), ("k.1", 2, 8), ("v.1", 2, 8)):
        whole = llama.weight(role)
        parts = [llama.weight(f"{role}.h{head}") for head in range(heads)]
        assert {part.shape for part in parts} == {(32, size)}
        assert torch.equal(torch.cat(parts, 1), whole)
    assert torch.equal(torch.cat([llama.weight(f"attn_out.1.h{h}") for h in range(4)]), llama.weight("attn_out.1"))
    assert torch.equal(llama.weight("mlp_pre.1.n5"), llama.weight("mlp_pre.1")[:, 5])
    assert torch.equal(llama.weight("mlp_up.-1"), llama.module.model.layers[2].mlp.up_proj.weight.T)
    with pytest.raises(pc.SiteError, match="needs one layer, as in 'mlp_up.5'"):
        llama.weight("mlp_up.0-1")
    with pytest.raises(pc.SiteError, match="has no unembedding"):
        pc.wrap(tiny.build("llama").model).weight("logits")


def test_a_matrix_is_stored_as_its_module_stores_it(llama: pc.Model, gpt2: pc.Model) -> None:
    for model, path in (
        (llama, "model.layers.1.mlp.down_proj"), (gpt2, "transformer.h.1.mlp.c_proj"), (gpt2, "transformer.h.1.mlp.c_fc"),
    ):  # fmt: skip
        module = model.sites.modules[path]
        assert torch.equal(stored(module, oriented(module)), module.weight)
        assert oriented(module).shape == ((32, 128) if path.endswith("c_fc") else (128 if model is gpt2 else 48, 32))
    table = gpt2.sites.modules["transformer.wte"]
    assert stored(table, table.weight) is table.weight
    for module in (nn.ReLU(), nn.Conv1d(1, 1, 1), nn.LayerNorm(3)):
        with pytest.raises(pc.SiteError, match="is not one weight matrix"):
            oriented(module)


@pytest.mark.parametrize("name", tiny.MOE)
def test_experts_are_found_whichever_way_they_are_stored(name: str) -> None:
    model = pc.wrap(tiny.shared(name, torch.float32))
    (module,) = (m for path, m in model.sites.modules.items() if path.endswith("1.mlp.experts"))
    held = module.down_proj
    found = experts(module, 32)
    assert found is not None
    assert found.shape == (4, 48, 32)
    x = torch.ones(48)
    assert torch.allclose(x @ found[2], x @ held[2] if held.shape[2] == 32 else held[2] @ x)
    assert stored(module, found).shape == held.shape
    assert torch.equal(stored(module, found), held)
    assert experts(module, None) is experts(module, 31) is experts(nn.Linear(2, 2), 2) is None


def test_modules_that_share_a_parameter_are_found(llama: pc.Model, gpt2: pc.Model) -> None:
    assert sharing(gpt2, "transformer.wte") == ["lm_head"]
    assert sharing(gpt2, "lm_head") == ["transformer.wte"]
    assert sharing(llama, "lm_head") == sharing(llama, "model.embed_tokens") == []
    assert sharing(gpt2, "transformer.h.1.mlp.act") == []
    assert sharing(gpt2, "lm_head", "bias") == []


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("mlpout.1", "did you mean 'mlp_out'"),
        ("mlp_out", "names several sites"),
        ("mlp_out.9", "layer 9|unknown"),
        ("attn_out.1.h4", r"head 4 is outside 0\.\.3"),
        ("mlp_out.1.n48", r"neuron 48 is outside 0\.\.47"),
        ("mlp_out.1.h0", "this weight is not divided into heads"),
        ("resid_post.1", "unknown weight"),
    ],
)
def test_wrong_roles(llama: pc.Model, role: str, message: str) -> None:
    with pytest.raises(pc.SiteError, match=message):
        llama.weight(role)


def test_what_a_family_lacks_is_refused(gpt2: pc.Model) -> None:
    with pytest.raises(pc.SiteError, match="has no separate up-projection"):
        gpt2.weight("mlp_up.1")
    with pytest.raises(pc.SiteError, match="routes each token to a few experts"):
        pc.wrap(tiny.shared("mixtral", torch.float32)).weight("mlp_out.1")
