from pathlib import Path

import pytest
import torch

import patchclamp as pc
from patchclamp.lenses.frozen import Frozen
from tests import tiny
from tests.lenses.families import SUMS, opened, parametrised

NORM_AFTER_ATTENTION = ("gemma2", "gemma3", "olmo2", "glm4")


@pytest.mark.parametrize("name", parametrised(SUMS))
def test_contributions_sum_to_the_logit(name: str) -> None:
    model, ids = opened(name), tiny.ids(1, 8)
    found = model.contributions(ids, [5, 9], at="all")
    assert found.data.dims == ("position", "component", "answer")
    assert float(abs(found.data.sum("component") - found.logit).max()) < 1e-10
    own = torch.from_numpy(found.logit.values) - model.run(ids).logits[0][:, [5, 9]]
    assert (float(own.abs().max()) < 1e-10) is not found.record["capped"]
    assert found.record["capped"] == (name == "gemma2")


@pytest.mark.parametrize("name", parametrised(SUMS))
def test_heads_sum_to_their_layer(name: str) -> None:
    model, ids = opened(name), tiny.ids(1, 6)
    if name in NORM_AFTER_ATTENTION:
        with pytest.raises(pc.ModelError, match="do not sum to attn_out"):
            model.contributions(ids, 5, heads=True)
        return
    whole, split = model.contributions(ids, 5), model.contributions(ids, 5, heads=True)
    for layer in range(3):
        mine = [str(c) for c in split.data["component"].values if str(c).startswith(f"attn_out.{layer}.")]
        assert len(mine) in (4, 5)
        total = float(split.data.sel(component=mine).sum())
        assert total == pytest.approx(float(whole.data.sel(component=f"attn_out.{layer}").sum()), abs=1e-10)


def test_a_contribution_is_what_removing_it_takes_away(llama: pc.Model) -> None:
    """With the scale frozen by hand: remove one component from the last state, keep the scale, and read the logit."""
    ids = tiny.ids(1, 6)
    acts = llama.record(ids, ["mlp_out.1", "resid_post.2"], at="last")
    norm, head = llama.module.model.norm, llama.module.lm_head.weight
    state, part = acts["resid_post.2"][0], acts["mlp_out.1"][0]
    scale = (state.pow(2).mean() + norm.variance_epsilon).sqrt()
    with torch.no_grad():
        by_hand = float((norm.weight * part / scale) @ head[7])
        moving = float((norm(state) - norm(state - part)) @ head[7])
    found = float(llama.contributions(ids, 7).data.sel(component="mlp_out.1").squeeze())
    assert found == pytest.approx(by_hand, rel=1e-5)
    assert found != pytest.approx(moving, rel=1e-2), "the frozen scale matters"


def test_the_labels_are_those_of_the_prompt_and_of_the_components(llama: pc.Model) -> None:
    (ids,) = tiny.ids(1, 6)
    found = llama.contributions([ids], [5, 9], at=[4, 1], heads=True)
    assert found.data["position"].values.tolist() == [4, 1]
    assert found.data["token"].values.tolist() == [str(ids[4]), str(ids[1])]
    layers = dict(zip(found.data["component"].values, found.data["layer"].values.tolist(), strict=True))
    assert layers["embed"] == layers["bias"] == -1
    assert all(layers[f"attn_out.{layer}.h3"] == layers[f"mlp_out.{layer}"] == layer for layer in range(3))
    last = llama.contributions([ids], [5, 9], heads=True)
    assert last.data["position"].values.tolist() == [5], "the last position unless another one is asked for"
    turned = llama.contributions([ids], [9, 5], at=4, heads=True).data.isel(position=0)
    assert turned.sel(answer="9").values == pytest.approx(found.data.isel(position=0).sel(answer="9").values, rel=1e-9)


def test_what_has_no_site_is_noticed() -> None:
    """Something adds to the stream between the layers, or acts on the logits after the head."""
    model = pc.wrap(tiny.build("llama"))
    model.module.model.layers[1].register_forward_hook(lambda _, __, output: output + 0.5)
    with pytest.raises(pc.ModelError, match=r"the contributions miss the logit by .* adds something to the stream"):
        model.contributions(tiny.ids(1, 6), 5)
    bent = tiny.build("gemma2")
    bent.config.final_logit_softcapping = None
    straight = pc.wrap(bent).contributions(tiny.ids(1, 6), 5)
    assert not straight.record["capped"]
    bent.model.norm.register_forward_hook(lambda _, __, output: output.sin())
    with pytest.raises(pc.ModelError, match="has no frozen scale|does more than final norm"):
        pc.wrap(bent).contributions(tiny.ids(1, 6), 5)


@pytest.mark.parametrize("centred", [True, False])
def test_a_frozen_norm_is_its_formula(centred: bool) -> None:
    norm = (torch.nn.LayerNorm if centred else torch.nn.RMSNorm)(8, eps=1e-5).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(8, generator=generator, dtype=torch.float64))
    state, part = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    frozen = Frozen.of(norm, state)
    assert frozen.centred is centred
    moved = state - state.mean() if centred else state
    scale = (moved.pow(2).mean() + 1e-5).sqrt()
    wanted = norm.weight * (part - part.mean() if centred else part) / scale
    assert torch.allclose(frozen.linear(part), wanted, rtol=1e-12)
    with torch.no_grad():
        assert torch.allclose(frozen.linear(state) + frozen.bias, norm(state), rtol=1e-12)


def test_what_is_no_norm_has_no_frozen_scale() -> None:
    for module in (torch.nn.Softmax(-1), torch.nn.Tanh()):
        with pytest.raises(pc.ModelError, match="has no frozen scale"):
            Frozen.of(module, torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    with pytest.raises(pc.ModelError, match="an odd hidden size, 7, is not supported"):
        Frozen.of(torch.nn.LayerNorm(7), torch.arange(7.0))


def test_the_difference_of_two_tokens(llama: pc.Model) -> None:
    ids = tiny.ids(1, 6)
    found = llama.contributions(ids, [5, 9])
    logits = llama.run(ids).logits[0, -1]
    assert float(found.difference(5, 9).sum()) == pytest.approx(float(logits[5] - logits[9]))
    with pytest.raises(pc.InputError, match="'7' is not among the tokens asked for"):
        found.difference(5, 7)


def test_bad_requests_are_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="contributions are those of one prompt; 2 were given"):
        llama.contributions(tiny.ids(2, 4), 5)
    with pytest.raises(pc.InputError, match="at least one token"):
        llama.contributions(tiny.ids(1, 4), [])
    with pytest.raises(pc.PositionError, match="outside the prompt"):
        llama.contributions(tiny.ids(1, 4), 5, at=4)
    with pytest.raises(pc.SiteError, match="Mamba's layers are one recurrent mixer"):
        opened("mamba").contributions(tiny.ids(1, 4), 5)
    with pytest.raises(pc.ModelError, match="load it with dtype='float32'"):
        pc.wrap(tiny.build("llama", torch.bfloat16)).contributions(tiny.ids(1, 4), 5)


def test_saved_and_opened_it_is_the_same(llama: pc.Model, tmp_path: Path) -> None:
    for heads in (False, True):
        found = llama.contributions(tiny.ids(1, 4), [5, 9], heads=heads)
        found.save(tmp_path / str(heads))
        assert pc.open(tmp_path / str(heads)) == found
        assert pc.repeat(tmp_path / str(heads), llama).frame().equals(found.frame())


@pytest.mark.assets
@pytest.mark.slow
def test_the_head_that_moves_the_country_writes_the_capital(smollm2: pc.Model) -> None:
    found = smollm2.contributions("The capital of Spain is", [" Madrid", " Rome"], heads=True)
    assert float(abs(found.data.sum("component") - found.logit).max()) < 1e-4
    gap = found.difference(" Madrid", " Rome").isel(position=0).to_series()
    assert gap.idxmax() == "attn_out.23.h4"
    heads = gap[[".h" in name for name in gap.index]]
    assert heads.max() > 2 * heads.drop("attn_out.23.h4").max(), "no other head comes near"
