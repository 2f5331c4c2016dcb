"""Other libraries' site names: the tensor that the library means, or a refusal with the reason."""

import pytest
import torch
from torch import nn

import patchclamp as pc
from tests import tiny

IDS = tiny.ids(1, 6)


def module_output(model: pc.Model, path: str, side: str = "out") -> torch.Tensor:
    """What a hand-written hook sees at a module: the witness for what a peer means."""
    seen: list[torch.Tensor] = []

    def first(value: object) -> torch.Tensor:
        found = value[0] if isinstance(value, tuple) else value
        assert isinstance(found, torch.Tensor)
        return found

    target = model.module.get_submodule(path)
    if side == "out":
        handle = target.register_forward_hook(lambda _, __, output: seen.append(first(output)))
    else:
        handle = target.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    with torch.no_grad():
        model.module(torch.tensor(IDS))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.1.hook_resid_pre", "resid_pre.1"),
        ("blocks.1.hook_resid_mid", "resid_mid.1"),
        ("blocks.1.hook_resid_post", "resid_post.1"),
        ("blocks.1.hook_attn_out", "attn_out.1"),
        ("blocks.1.hook_mlp_out", "mlp_out.1"),
        ("blocks.1.attn.hook_q", "q.1"),
        ("blocks.1.attn.hook_z", "z.1"),
        ("blocks.1.mlp.hook_pre", "mlp_pre.1"),
        ("blocks.1.mlp.hook_post", "mlp_act.1"),
        ("hook_embed", "embed"),
        ({"layer": 1, "component": "block_output"}, "resid_post.1"),
        ({"layer": 1, "component": "head_attention_value_output", "unit": "h"}, "z.1"),
        ({"layer": 1, "component": "query_output"}, "q.1"),
        ("model.layers[1].mlp.output", "model.layers.1.mlp:out"),
        ("model.layers[1].self_attn.output[0]", "model.layers.1.self_attn:out[0]"),
        ("model.layers[1].mlp.input", "model.layers.1.mlp:in"),
    ],
)
def test_names_that_mean_a_site_of_ours(llama: pc.Model, theirs: object, ours: str) -> None:
    assert [str(s) for s in llama.sites.expand([theirs])] == [ours]
    if isinstance(theirs, str):
        assert torch.equal(llama.record(IDS, theirs).values[theirs], llama.record(IDS, ours).values[ours])


@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2", "granite", "gpt2"])
def test_pyvene_means_the_modules_own_output(family: str) -> None:
    """pyvene's mlp_output is the MLP module's output: not what is added to the stream under sandwich norms or multipliers."""
    model = pc.wrap(tiny.shared(family))
    attention, mlp = (
        ("transformer.h.1.attn", "transformer.h.1.mlp")
        if family == "gpt2"
        else ("model.layers.1.self_attn", "model.layers.1.mlp")
    )
    for component, path, added in (("mlp_output", mlp, "mlp_out.1"), ("attention_output", attention, "attn_out.1")):
        (site,) = model.sites.expand([{"layer": 1, "component": component}])
        recorded = model.record(IDS, str(site)).values[str(site)]
        assert torch.equal(recorded, module_output(model, path))
        same = torch.equal(recorded, model.record(IDS, added).values[added])
        assert same == (family in ("llama", "gpt2"))


def test_pyvene_activation_is_before_the_gates_product() -> None:
    gated, plain = pc.wrap(tiny.shared("llama")), pc.wrap(tiny.shared("gpt2"))
    site = {"layer": 1, "component": "mlp_activation"}
    (found,) = gated.sites.expand([site])
    assert str(found) == "model.layers.1.mlp.act_fn:out"
    assert [str(s) for s in plain.sites.expand([site])] == ["mlp_act.1"]
    assert torch.equal(
        plain.record(IDS, "mlp_act.1").values["mlp_act.1"], module_output(plain, "transformer.h.1.mlp.act")
    )


def test_an_edit_may_use_their_names(llama: pc.Model) -> None:
    v = torch.ones(32)
    wanted = llama.run(IDS, pc.Add(v, site="mlp_out.1", at=2)).logits
    for site in ("blocks.1.hook_mlp_out", "model.layers[1].mlp.output", {"layer": 1, "component": "mlp_output"}):
        assert torch.equal(llama.run(IDS, pc.Add(v, site=site, at=2)).logits, wanted)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.attn.hook_result", "never formed by the model itself; use z"),
        ("blocks.1.attn.hook_rot_q", "use q"),
        ("blocks.1.ln1.hook_normalized", "folded away; use attn_in"),
        ("blocks.1.hook_mlp_in", "use resid_mid"),
        ("ln_final.hook_normalized", "use final_norm"),
        ("hook_pos_embed", "use their module path"),
        ("blocks.1.hook_mpl_out", "did you mean 'hook_mlp_out'"),
        ("blocks.9.hook_mlp_out", "layer 9 of 'mlp_out' is outside"),
        ("model.layers[1].mlp.inputs", "name one tensor"),
        ({"layer": 1, "component": "mlp_outputs"}, "did you mean 'mlp_output'"),
        ({"layer": 1}, "has 'layer' and 'component'"),
        ({"layer": 1, "component": "mlp_output", "rank": 3}, "nothing else"),
    ],
)
def test_what_no_hook_can_reach_is_refused(llama: pc.Model, name: object, message: str) -> None:
    with pytest.raises(pc.SiteError, match=message):
        llama.sites.expand([name])


def test_a_bare_path_is_no_site(llama: pc.Model) -> None:
    assert isinstance(llama.module, nn.Module)
    with pytest.raises(pc.SiteError, match="or a module path with its port"):
        llama.sites.expand("model.layers.1.mlp")
