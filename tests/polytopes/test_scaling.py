"""Scaling: what must not change does not, what is measured is what the module says of scaled activations."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import patchclamp as pc
from tests import tiny
from tests.polytopes.nets import Conv, mlp
from tests.polytopes.test_boundaries import points

FACTORS = [0.1, 0.5, 1.0, 3.0, 20.0]


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return mlp(5, (14, 11), 4).double().eval()


def test_scaling_is_what_the_rest_of_the_network_makes_of_scaled_activations(net: nn.Sequential) -> None:
    x, labels = points((5,), 40), torch.arange(40) % 4
    found = pc.wrap(net).scaling(x, ["1:out"], FACTORS, labels=labels).data.sel(edit="scale", site="1:out")
    with torch.no_grad():
        clean = net(x)
        for factor in FACTORS:
            before = net[:3](x)
            z = net[2](factor * net[:2](x))
            out = net[3:](z)
            one = found.sel(factor=factor)
            assert float(one["accuracy"]) == pytest.approx(float((out.argmax(1) == labels).double().mean()))
            assert float(one["agreement"]) == pytest.approx(float((out.argmax(1) == clean.argmax(1)).double().mean()))
            assert float(one["loss"]) == pytest.approx(float(nn.functional.cross_entropy(out, labels)))
            kl = nn.functional.kl_div(out.log_softmax(1), clean.log_softmax(1), log_target=True, reduction="batchmean")
            assert float(one["kl"]) == pytest.approx(float(kl), abs=1e-12)
            assert float(one["flipped"].sel(gate="3:in")) == pytest.approx(
                float(((z > 0) != (before > 0)).double().mean())
            )
    assert np.isnan(found["flipped"].sel(gate="1:in")).all(), "a gate before the site is not reached"


def test_flips_of_all_gates_together_and_what_was_before(net: nn.Sequential) -> None:
    x, labels = points((5,), 40), torch.arange(40) % 4
    found = pc.wrap(net).scaling(x, ["0:out"], [0.5, 3.0], labels=labels)
    data = found.data.sel(site="0:out")
    assert data["bits"].values.tolist() == [14, 11]
    by_gate = data["flipped"].sel(edit="noise", factor=3.0).values
    assert by_gate[0] != by_gate[1]
    own = float(found.flipped.sel(edit="noise", site="0:out", factor=3.0))
    assert own == pytest.approx((14 * by_gate[0] + 11 * by_gate[1]) / 25), "gates weigh as much as they have neurons"
    with torch.no_grad():
        clean = net(x)
    assert float(data["accuracy_before"]) == pytest.approx(float((clean.argmax(1) == labels).double().mean()))
    assert float(data["loss_before"]) == pytest.approx(float(nn.functional.cross_entropy(clean, labels)))
    lines = repr(found).splitlines()
    assert lines[0] == f"accuracy, 40 rows, {float(data['accuracy_before']):.3f} unscaled"
    assert lines[1].split() == ["factor", "0.5", "3"]
    assert lines[2].split() == [
        "0:out",
        "scale",
        *[f"{value:.3f}" for value in data["accuracy"].sel(edit="scale").values],
    ]


def test_controls_hang_on_the_seed_and_on_how_far_they_move_alone(net: nn.Sequential) -> None:
    model, x = pc.wrap(net), points((5,), 20)
    for control in ("noise", "rotation"):
        first, again, other = (
            model.scaling(x, ["0:out"], [0.5, 1.5], controls=[control], seed=seed).data.sel(edit=control)
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first["kl"], again["kl"])
        assert (first["kl"] != other["kl"]).all()
        np.testing.assert_allclose(first["kl"].sel(factor=0.5), first["kl"].sel(factor=1.5))


def test_factors_are_sorted_and_counted_once(net: nn.Sequential) -> None:
    model, x = pc.wrap(net), points((5,), 3)
    assert model.scaling(x, ["1:out"], [2.0, 0.5, 2], controls=[]).data["factor"].values.tolist() == [0.5, 2]
    whole = model.scaling(x, "1:out", controls=[]).data["factor"].values
    assert whole.tolist() == [2.0**power for power in range(-6, 7)]


@pytest.mark.sensitive
def test_padding_is_no_position(llama: pc.Model) -> None:
    """Texts of different lengths run together: each counts as it does alone, by its own tokens."""
    texts = [*tiny.ids(1, 9), *tiny.ids(1, 3, seed=4)]
    how = {"sites": ["mlp_in.0"], "factors": [0.25], "controls": []}
    both, long, short = (llama.scaling(some, **how).data.squeeze() for some in (texts, texts[:1], texts[1:]))
    assert both["bits"].values.tolist() == long["bits"].values.tolist() == [48, 48, 48]
    flips = (9 * long["flipped"] + 3 * short["flipped"]) / 12
    assert (flips[1:] > 0).all()
    np.testing.assert_allclose(both["flipped"], flips, rtol=1e-12)
    for name in ("loss", "kl", "agreement", "accuracy", "loss_before"):
        assert float(both[name]) == pytest.approx((8 * float(long[name]) + 2 * float(short[name])) / 10, rel=1e-9), name
    assert int(both["rows"]) == 10


def test_scaling_acts_at_the_positions_asked_for(llama: pc.Model) -> None:
    texts = tiny.ids(2, 6)
    found = llama.scaling(texts, ["mlp_in.0"], [0.25], controls=[], at=[2]).data.squeeze()
    edited = llama.run(texts, pc.Scale(0.25, site="mlp_in.0", at=[2])).logits
    targets = torch.tensor(texts)[:, 1:]
    loss = nn.functional.cross_entropy(torch.as_tensor(edited)[:, :-1].flatten(0, 1).double(), targets.flatten())
    assert float(found["loss"]) == pytest.approx(float(loss), rel=1e-9)
    everywhere = llama.scaling(texts, ["mlp_in.0"], [0.25], controls=[]).data.squeeze()
    assert float(found["loss"]) != pytest.approx(float(everywhere["loss"]))


def test_gates_in_place_flip_as_others_do() -> None:
    """Also one that makes negative numbers positive."""

    def flipped(in_place: bool) -> xr.DataArray:
        torch.manual_seed(0)
        net = mlp(5, (14, 11), 4, lambda: nn.LeakyReLU(-0.5, inplace=in_place))  # type: ignore[arg-type]
        return pc.wrap(net.double().eval()).scaling(points((5,), 9), ["0:out"], [3.0]).data["flipped"]

    np.testing.assert_array_equal(flipped(True), flipped(False))
    assert (flipped(True).sel(edit="noise") > 0).all()


def test_a_factor_of_one_changes_nothing(net: nn.Sequential) -> None:
    found = pc.wrap(net).scaling(points((5,), 20), ["1:out", "3:out", "1:in"], [1.0, 2.0], labels=[0] * 20).data
    one = found.sel(factor=1.0)
    assert (one["kl"] == 0).all()
    assert (one["agreement"] == 1).all()
    assert (one["accuracy"] == found["accuracy_before"]).all()
    assert (one["flipped"].fillna(0) == 0).all()
    assert (found.sel(factor=2.0, edit="scale")["kl"] > 0).all()


def test_a_homogeneous_network_keeps_its_verdicts_and_bits_and_biases_break_it(net: nn.Sequential) -> None:
    """relu(s z) = s relu(z): without biases no factor flips a bit or changes the largest output; moves elsewhere do."""
    factors = [2.0**-20, 0.5, 2.0**10]
    with torch.no_grad():
        for layer in net[::2]:
            layer.bias.normal_(generator=torch.Generator().manual_seed(0))
        biased = pc.wrap(net).scaling(points((5,), 50), ["1:out"], factors)
        for layer in net[::2]:
            layer.bias.zero_()
    found = pc.wrap(net).scaling(points((5,), 50), ["1:out"], factors)
    assert (found.flipped.sel(edit="scale") == 0).all()
    assert (found.data["agreement"].sel(edit="scale") == 1).all()
    assert (found.flipped.sel(edit="noise") > 0).all()
    assert (biased.flipped.sel(edit="scale") > 0).all()
    assert float(biased.data["agreement"].sel(edit="scale").min()) < 0.9


def test_controls_move_vectors_as_far_as_scaling_does(net: nn.Sequential) -> None:
    """Read off a network whose output is the activation itself."""
    identity = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Identity()).double().eval()
    with torch.no_grad():
        identity[0].weight.copy_(torch.eye(5))
    x, seen = points((5,), 30), {}

    class Spy(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            seen["rows"] = rows.clone()
            return rows

    model = pc.wrap(nn.Sequential(identity, Spy()).eval())
    for control in ("noise", "rotation"):
        for factor in (0.25, 0.5, 2.5):
            model.scaling(x, ["0:out"], [factor], controls=[control])
            moved = (seen["rows"] - x).norm(dim=1)
            assert torch.allclose(moved, abs(factor - 1) * x.norm(dim=1)), (control, factor)
            if control == "rotation":
                assert torch.allclose(seen["rows"].norm(dim=1), x.norm(dim=1))
    beyond = model.scaling(x, ["0:out"], [2.5, 3.5], controls=["rotation"]).data["kl"].sel(edit="rotation")
    assert np.isfinite(beyond.values).tolist() == [[True, False]]


def test_what_a_norm_reads_may_have_any_size_what_it_writes_may_not(llama: pc.Model) -> None:
    """RMSNorm(s x) = RMSNorm(x) but for its epsilon: the same factor before and after the norm."""
    texts = tiny.ids(3, 7)
    norm = "model.layers.1.post_attention_layernorm"
    found = llama.scaling(texts, [f"{norm}:in", f"{norm}:out", "mlp_in.1"], [1.0, 4.0, 64.0], controls=[]).data.sel(
        edit="scale"
    )
    assert float(found["kl"].sel(site=f"{norm}:in").max()) < 1e-6
    assert float(found["kl"].sel(site=f"{norm}:out", factor=64.0)) > 1e-4
    both = found["kl"].sel(site=[f"{norm}:out", "mlp_in.1"]).values
    assert np.allclose(both[0], both[1]), "two names of one place"


def test_sites_are_scaled_together_and_texts_are_their_own_labels(llama: pc.Model) -> None:
    texts = tiny.ids(2, 6) + tiny.ids(1, 3, seed=4)
    found = llama.scaling(texts, [("mlp_in.0", "mlp_in.2"), "mlp_in"], [0.5, 1.0], controls=[])
    assert list(found.data["site"].values) == ["mlp_in.0 + mlp_in.2", "mlp_in"]
    assert int(found.data["rows"]) == 5 + 5 + 2
    damage = pc.metrics.damage(llama, {"half": pc.Scale(0.5, site=("mlp_in.0", "mlp_in.2"))}, texts)
    tokens = damage.data["tokens"]
    for metric, edit in (("loss", "half"), ("kl", "half")):
        expected = float(damage.data[metric].sel(edit=edit).weighted(tokens).mean())
        mine = found.data[metric].sel(edit="scale", site="mlp_in.0 + mlp_in.2", factor=0.5)
        assert float(mine) == pytest.approx(expected, rel=1e-9)
    loss = float(damage.data["loss"].sel(edit="unedited").weighted(tokens).mean())
    assert float(found.data["loss_before"]) == pytest.approx(loss, rel=1e-9)


def test_batches_do_not_matter(net: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchclamp.polytopes import scaling as module

    model, x = pc.wrap(net), points((5,), 25)
    whole = model.scaling(x, ["1:out"], FACTORS, labels=[1] * 25, controls=[])
    monkeypatch.setattr(module, "_ROWS", 7)
    monkeypatch.setattr(module, "_BLOCK", 3)
    parts = model.scaling(x, ["1:out"], FACTORS, labels=[1] * 25, controls=[])
    for name in ("accuracy", "loss", "agreement", "kl", "flipped"):
        assert np.allclose(whole.data[name], parts.data[name], atol=1e-12, equal_nan=True)


def test_convolutions_keep_their_shape() -> None:
    model = pc.wrap(Conv().double().eval())
    found = model.scaling(points((1, 8, 8), 6), ["conv:out"], [0.5, 1.0])
    assert (found.data["agreement"].sel(factor=1.0) == 1).all()
    assert found.data.sizes["gate"] == 0, "its gates are functions, which no hook sees"


def test_the_model_is_left_as_it_was(net: nn.Sequential) -> None:
    model, x = pc.wrap(net), points((5,), 4)
    state = torch.random.get_rng_state()
    before = model.weights_digest()
    model.scaling(x, ["1:out"], [0.5])
    assert model.weights_digest() == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_what_is_refused(net: nn.Sequential, llama: pc.Model) -> None:
    model, x = pc.wrap(net), points((5,), 4)
    for factors in ([], [0.0], [-2.0, 1.0], [float("inf")]):
        with pytest.raises(pc.InputError, match="factors are positive numbers|a finite number"):
            model.scaling(x, ["1:out"], factors)
    with pytest.raises(pc.InputError, match="no site was given"):
        model.scaling(x, [])
    with pytest.raises(pc.InputError, match="unknown control 'nois'; did you mean 'noise'"):
        model.scaling(x, ["1:out"], controls=["nois"])
    with pytest.raises(pc.InputError, match="4 inputs need as many whole numbers"):
        model.scaling(x, ["1:out"], labels=[1, 2])
    with pytest.raises(pc.InputError, match=r"label 9 is outside the classes 0\.\.3"):
        model.scaling(x, ["1:out"], labels=[0, 1, 9, 2])
    with pytest.raises(pc.InputError, match="a language model is measured on its texts' next tokens"):
        llama.scaling(tiny.ids(2, 4), ["mlp_in.0"], labels=[0, 1])
    with pytest.raises(pc.InputError, match="no next token"):
        llama.scaling([[5]], ["mlp_in.0"])
    with pytest.raises(pc.SiteError):
        model.scaling(x, ["9:out"])
    with pytest.raises(pc.ModelError, match="row of outputs for each input"):
        pc.wrap(nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU()).double().eval()).scaling(points((1, 8, 8)), ["0:out"])
