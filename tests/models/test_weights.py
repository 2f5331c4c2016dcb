import pytest
import torch

import patchclamp as pc
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


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("mlpout.1", "did you mean 'mlp_out'"),
        ("mlp_out", "names several sites"),
        ("mlp_out.9", "layer 9|unknown"),
        ("attn_out.1.h7", "head 7 is outside"),
        ("mlp_out.1.n99", "neuron 99 is outside"),
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
