from typing import Any

import numpy as np
import pytest
import torch

import patchclamp as pc
from tests import tiny
from tests.interventions import by_hand
from tests.lenses.families import opened, parametrised
from tests.traces import no_trace
from tests.tracing import by_path

SOURCE, INTO = tiny.ids(2, 6)
READ = pc.LogitDifference(5, 9)
EXACT = 1e-10


def effects(model: pc.Model, **options: Any) -> Any:
    return model.path_patch([SOURCE], [INTO], read=READ, **options).relative().isel(prompt=0, site=0).values


@pytest.mark.parametrize("frozen", [("attn_out", "mlp_out"), ("attn_out",), ()])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_equals_the_procedure_written_out_by_hand(family: str, frozen: tuple[str, ...]) -> None:
    """Grouped key-value heads in one family, fused projections in the other; several receivers at once, in two layers."""
    module = tiny.shared(family)
    model = pc.wrap(module)
    names = ["q.2.h1", "k.2.h0", "v.1.h1", "mlp_in.1"]
    receivers = [
        (c, layer, by_path.columns(family, c, head, 8, 32))
        for c, layer, head in (("q", 2, 1), ("k", 2, 0), ("v", 1, 1), ("mlp_in", 1, None))
    ]
    with no_trace(module):
        grid = model.path_patch(
            [SOURCE], [INTO], sender="z.0-1.h*", receivers=names, freeze=frozen, read=READ, verify=4
        )
    clean = by_path.difference(by_hand.run(module, INTO, []))
    assert float(grid.baseline.squeeze()) == pytest.approx(clean, abs=EXACT)
    moved = 0.0
    for layer in (0, 1):
        for head in range(4):
            sender = ("z", layer, slice(8 * head, 8 * head + 8))
            # a head of layer 1 lies above v.1, which then stays as it is
            reached = [place for place in receivers if layer < place[1] or place[0] == "mlp_in"]
            wanted = by_path.difference(by_path.path_patch(module, family, SOURCE, INTO, sender, reached, frozen))
            found = float(grid.data.sel(layer=layer, head=head).squeeze())
            assert found == pytest.approx(wanted, abs=EXACT)
            moved = max(moved, abs(wanted - clean))
    assert moved > 1e-3


@pytest.mark.parametrize("family", parametrised(["llama", "gpt2", "gpt_neox", "gemma2"], ("llama", "gpt2")))
def test_direct_effects_on_the_final_residual_add_up(family: str) -> None:
    """Before the final norm the stream is a sum, so what all components send directly is the whole difference."""
    model = opened(family)
    end = "resid_post.2"
    total = 0.0
    for sender in ("embed", "attn_out", "mlp_out"):
        grid = model.path_patch([SOURCE], [INTO], sender=sender, receivers=end, read=pc.Activation(end, "all"))
        total = total + grid.relative().squeeze().values.reshape(-1, 6, 32).sum(0)
    runs = [model.record([ids], end)[end][0].numpy() for ids in (SOURCE, INTO)]
    assert np.allclose(total, runs[0] - runs[1], atol=1e-9)
    assert abs(total).max() > 0.1


def test_attention_splits_into_its_heads() -> None:
    model = opened("llama")
    read = pc.Activation("resid_post.2", "all")
    whole, split = (
        model.path_patch([SOURCE], [INTO], sender=sender, receivers="resid_post.2", read=read).relative()
        for sender in ("attn_out", "z.*.h*")
    )
    assert np.allclose(split.sum("head").values, whole.values, atol=1e-9)


def test_the_direct_effect_is_what_the_sender_adds(llama: pc.Model) -> None:
    """All frozen: the final residual moves by the sender's own difference and by nothing else."""
    head, states = (
        llama.weight("attn_out.0.h2"),
        [llama.record([ids], ["z.0.h2", "resid_post.2"]) for ids in (SOURCE, INTO)],
    )
    moved = (states[0]["z.0.h2"] - states[1]["z.0.h2"])[0] @ head
    patched = pc.Patch(states[1]["resid_post.2"][0, -1] + moved[-1].detach(), site="resid_post.2", at=-1)
    wanted = llama.run([INTO], patched).logits[0, -1]
    found = llama.path_patch([SOURCE], [INTO], sender="z.0.h2", read=READ).data
    assert float(found.squeeze()) == pytest.approx(float(wanted[5] - wanted[9]), abs=EXACT)


@pytest.mark.parametrize("sender", parametrised(["z.*.h*", "mlp_out", "embed"], ("mlp_out", "embed")))
def test_with_nothing_frozen_and_everything_received_it_is_a_plain_patch(llama: pc.Model, sender: str) -> None:
    plain = llama.patch([SOURCE], [INTO], sites=sender, at="each", read=READ)
    open_ = llama.path_patch([SOURCE], [INTO], sender=sender, at="each", freeze=(), read=READ)
    assert np.allclose(open_.data, plain.data, atol=EXACT)
    assert open_.reference.equals(plain.reference)
    direct = llama.path_patch([SOURCE], [INTO], sender=sender, at="each", read=READ)
    assert abs(direct.data - plain.data).max() > 1e-2, "control: indirect effects exist"


def test_a_sender_above_its_receivers_has_no_effect(llama: pc.Model) -> None:
    found = effects(llama, sender="z.*.h*", receivers=["q.1", "mlp_in.1"])
    assert (found[2] == 0).all()
    assert (abs(found[:2]) > 0).all(), "a head reaches its own layer's MLP"
    assert (effects(llama, sender="mlp_out", receivers=["q.1", "mlp_in.1"])[1:] == 0).all()


def test_a_source_equal_to_the_target_has_no_effect(llama: pc.Model) -> None:
    same = llama.path_patch([INTO], [INTO], sender="z.*.h*", receivers=["q.2", "mlp_in.1"], read=READ)
    assert abs(same.relative()).max() < 1e-12


def test_all_of_a_receiver_s_inputs_are_its_attention(llama: pc.Model) -> None:
    """What goes in through q, k and v goes in through attn_in."""
    parts, whole = (
        effects(llama, sender="mlp_out.0", receivers=receivers) for receivers in (["q.1", "k.1", "v.1"], "attn_in.1")
    )
    assert np.allclose(parts, whole, atol=EXACT)
    assert abs(effects(llama, sender="mlp_out.0", receivers="q.1") - whole).max() > 1e-4


def test_positions_of_senders_and_receivers(llama: pc.Model) -> None:
    each = effects(llama, sender="mlp_out.0", receivers="final_norm", at="each")
    assert abs(each[:, :-1]).max() < 1e-12, "only the last position's own stream reaches the last logits directly"
    assert abs(each[0, -1]) > 1e-3
    early = effects(llama, sender="mlp_out.0", receivers="k.1", receive_at=[0, 1])
    late = effects(llama, sender="mlp_out.0", receivers="k.1", receive_at=slice(2, None))
    assert abs(early).max() > 0
    assert not np.allclose(early, late)
    said = llama.path_patch(
        [SOURCE], [INTO], sender="mlp_out.0", receivers="k.1", receive_at=slice(2, None), freeze="attn_out", read=READ
    ).record["parameters"]
    assert (said["receivers"], said["receive_at"], said["freeze"]) == (["k.1"], [2, 3, 4, 5], ["attn_out"])


def test_the_target_s_own_edits_are_part_of_it(llama: pc.Model) -> None:
    edit = pc.Scale(0.5, site="mlp_out.1", at="all")
    grid = llama.path_patch([SOURCE], [INTO], sender="embed", freeze=(), base=[edit], read=READ)
    plain = llama.patch([SOURCE], [INTO], sites="embed", at="all", base=[edit], read=READ)
    assert np.allclose(grid.data, plain.data, atol=EXACT)
    same = llama.path_patch([INTO], [INTO], sender="embed", base=[edit], source_edits=[edit], read=READ)
    assert abs(same.relative()).max() < 1e-12


def test_what_does_not_fit_is_refused(llama: pc.Model) -> None:
    def refused(match: str, error: type[Exception] = pc.InputError, **options: Any) -> None:
        with pytest.raises(error, match=match):
            llama.path_patch([SOURCE], [INTO], **{"read": READ, **options})

    refused(
        r"no sender lies below a receiver: the first sender is z\.2\.h1, the last receiver q\.1",
        sender="z.2.h1",
        receivers="q.1",
    )
    refused(r"resid_post\.0 cannot send.*embed, z, attn_out, mlp_out", sender="resid_post.0")
    refused(r"mlp_act\.0\.n3 cannot send", sender="mlp_act.0.n3")
    refused(r"z\.2\.h1 cannot receive", receivers="z.2.h1")
    refused(r"logits cannot receive.*final_norm is what the logits are made of", receivers="logits")
    refused("head 7 is outside", error=pc.SiteError, sender="z.0.h7")
    refused("head 2 is outside", error=pc.SiteError, receivers="k.1.h2")
    refused("did you mean 'attn_out'", freeze="attn_ou")
    refused("outside the prompt", error=pc.PositionError, receive_at=9)
    refused("something to read", read=None)
    with pytest.raises(pc.InputError, match="the source has 6 tokens and the target 4"):
        llama.path_patch([SOURCE], tiny.ids(1, 4), read=READ)
    with pytest.raises(pc.SiteError, match="one recurrent mixer"):
        opened("mamba").path_patch([SOURCE], [INTO], read=READ)


def test_it_reads_in_half_the_precision_too() -> None:
    model = pc.wrap(tiny.build("llama", torch.float32))
    exact = effects(opened("llama"), sender="z.*.h*", receivers="q.2")
    assert np.allclose(effects(model, sender="z.*.h*", receivers="q.2"), exact, atol=1e-4)
