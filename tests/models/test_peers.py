"""Other libraries' site names: the tensor that the library means, or a refusal with the reason."""

import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.models.peers import is_foreign, names_of
from patchclamp.models.sites import Site
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
        ("blocks.1.attn.hook_k", "k.1"),
        ("blocks.1.attn.hook_v", "v.1"),
        ("blocks.1.attn.hook_z", "z.1"),
        ("blocks.1.mlp.hook_pre_linear", "model.layers.1.mlp.up_proj:out"),
        ("blocks.1.mlp.hook_pre", "mlp_pre.1"),
        ("blocks.1.mlp.hook_post", "mlp_act.1"),
        ("hook_embed", "embed"),
        ({"layer": 1, "component": "block_output"}, "resid_post.1"),
        ({"layer": 1, "component": "block_input"}, "resid_pre.1"),
        ({"layer": -1, "component": "attention_input"}, "attn_in.2"),
        ({"layer": 1, "component": "attention_value_output"}, "z.1"),
        ({"layer": 1, "component": "key_output"}, "k.1"),
        ({"layer": 1, "component": "value_output"}, "v.1"),
        ({"layer": 1, "component": "head_query_output"}, "q.1"),
        ({"layer": 1, "component": "head_key_output"}, "k.1"),
        ({"layer": 1, "component": "head_value_output"}, "v.1"),
        ({"layer": 1, "component": "mlp_input"}, "mlp_in.1"),
        ({"layer": -3, "component": "mlp_output"}, "model.layers.0.mlp:out"),
        ("model.layers.1.mlp.output", "model.layers.1.mlp:out"),
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


def test_pyvene_names_no_module_where_a_family_has_none() -> None:
    opt = pc.wrap(tiny.shared("opt"))
    with pytest.raises(pc.SiteError, match="opt has no single mlp module; use attn_out or mlp_out"):
        opt.sites.expand([{"layer": 1, "component": "mlp_output"}])
    with pytest.raises(pc.SiteError, match="unknown TransformerLens hook 'mlp.hook_pre_linear'"):
        opt.sites.expand("blocks.1.mlp.hook_pre_linear")


@pytest.mark.parametrize(
    "name", ["mlp_out.1", "embed", "model.layers.1.mlp:out", "resid_post.input", "blocks.mlp", "x"]
)
def test_our_own_names_are_not_taken_for_theirs(name: str) -> None:
    assert not is_foreign(name)


def test_one_name_or_several_in_any_form() -> None:
    site = {"layer": 1, "component": "mlp_output"}
    assert names_of("z.1") == ("z.1",)
    assert names_of(site) == ("pyvene.mlp_output.1",)
    assert names_of(["z.1", site]) == ("z.1", "pyvene.mlp_output.1")
    assert names_of(Site("z", 1)) == ("z.1",)


def test_an_edit_may_use_their_names(llama: pc.Model) -> None:
    v = torch.ones(32)
    wanted = llama.run(IDS, pc.Add(v, site="mlp_out.1", at=2)).logits
    for site in ("blocks.1.hook_mlp_out", "model.layers[1].mlp.output", {"layer": 1, "component": "mlp_output"}):
        assert torch.equal(llama.run(IDS, pc.Add(v, site=site, at=2)).logits, wanted)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.attn.hook_result", "never formed by the model itself; use z"),
        ("blocks.1.hook_attn_in", "use resid_pre or attn_in"),
        ("blocks.1.attn.hook_rot_k", r"use k \(before it\)"),
        ("blocks.1.attn.hook_attn_scores", r"use attn_pattern \(read\), q or k"),
        ("blocks.1.attn.hook_pattern", "attn_implementation='eager'"),
        ("blocks.1.ln2.hook_normalized", "folded away; use mlp_in"),
        ("blocks.1.ln1.hook_scale", "compute it from resid_pre"),
        ("blocks.1.ln2.hook_scale", "compute it from resid_mid"),
        ("ln_final.hook_scale", "compute it from the last resid_post"),
        ({"layer": 3, "component": "mlp_output"}, r"layer 3 is outside this model's layers 0\.\.2"),
        ({"layer": -4, "component": "mlp_output"}, "layer -4 is outside"),
        ({"layer": "x", "component": "mlp_output"}, "the layer must be a number"),
        ({"component": "mlp_output"}, "has 'layer' and 'component'"),
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
