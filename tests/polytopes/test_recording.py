"""Codes of models: the bits are the signs of what a hooked forward shows; soft codes times it are the neurons."""

import pytest
import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.polytopes import Network, soft_codes, spline_codes
from tests import tiny
from tests.polytopes.nets import Conv


def test_a_language_models_codes_are_signs_of_its_gates(llama: pc.Model) -> None:
    prompts = [*tiny.ids(5, 7), *tiny.ids(6, 4, seed=3)]
    codes = spline_codes(llama, prompts, at=[1, -1], labels=list(range(11)))
    acts = llama.record(prompts, ["mlp_pre"], at=[1, -1])["mlp_pre"]
    assert [layer.name for layer in codes.layers] == ["mlp_pre.0", "mlp_pre.1", "mlp_pre.2"]
    for number, layer in enumerate(codes.layers):
        assert torch.equal(codes.dense(layer.name), acts[number].flatten(0, 1) > 0)
    assert codes.labels("prompt").tolist() == [i for i in range(11) for _ in range(2)]
    assert codes.labels("label").tolist() == codes.labels("prompt").tolist(), "labels of prompts reach their rows"
    assert codes.labels("position").tolist() == [1, 6] * 5 + [1, 3] * 6


def test_prompts_of_different_lengths_give_no_rows_of_padding(llama: pc.Model) -> None:
    prompts = [*tiny.ids(1, 7), *tiny.ids(1, 3, seed=3)]
    codes = spline_codes(llama, prompts, "mlp_pre.1")
    assert len(codes) == 10
    alone = [spline_codes(llama, [prompt], "mlp_pre.1") for prompt in prompts]
    assert torch.equal(codes.dense(), torch.cat([one.dense() for one in alone]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_soft_codes_give_the_neurons_exactly(family: str) -> None:
    model = pc.wrap(tiny.shared(family))
    prompts = tiny.ids(3, 5)
    soft = soft_codes(model, prompts)
    acts = model.record(prompts, ["mlp_pre", "mlp_act"])
    for layer in range(3):
        z, neurons = (acts[name][layer].flatten(0, 1) for name in ("mlp_pre", "mlp_act"))
        code = torch.from_numpy(soft[f"mlp_pre.{layer}"].values).double()
        if family == "llama":  # gated: times the up-projection, read off the model's own module
            reads = model.record(prompts, [f"mlp_in.{layer}"])[f"mlp_in.{layer}"].flatten(0, 1)
            neurons, up = neurons, model.module.get_submodule(f"model.layers.{layer}.mlp.up_proj")(reads)
            torch.testing.assert_close(code * z * up, neurons, rtol=1e-5, atol=1e-7)
        else:
            torch.testing.assert_close(code * z, neurons, rtol=1e-5, atol=1e-7)
    hard = soft_codes(model, prompts, beta=1.0)
    dense = spline_codes(model, prompts).dense()
    assert torch.equal(torch.cat([torch.from_numpy(hard[name].values) for name in hard], 1).bool(), dense)


def test_soft_codes_of_any_network_by_hand() -> None:
    """A smooth gate's own code, another's by name, one of beta, and bits where a gate is piecewise linear."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU6(), nn.Linear(4, 2)
    )
    x = torch.randn(6, 3)
    with torch.no_grad():
        first, second = net[0](x), net[:3](x)
    found = soft_codes(net, x, labels={"own": list("abcdef")})
    assert list(found) == ["1", "3", "5"]
    torch.testing.assert_close(torch.from_numpy(found["1"].values), torch.special.ndtr(first))
    torch.testing.assert_close(torch.from_numpy(found["3"].values), torch.sigmoid(2 * second))
    assert found["5"].shape == (6, 4, 2)
    assert set(found["5"].values.flatten().tolist()) <= {0.0, 1.0}
    assert found["own"].values.tolist() == list("abcdef")
    named = soft_codes(net, x, name="silu")
    torch.testing.assert_close(torch.from_numpy(named["1"].values), torch.sigmoid(first))
    plain = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        z = plain[0](x)
    sharp = soft_codes(plain, x, beta=0.75, name="silu")
    torch.testing.assert_close(torch.from_numpy(sharp["1"].values), torch.sigmoid(3 * z))
    open_ = soft_codes(pc.wrap(plain), x, "1:in", name="silu")
    torch.testing.assert_close(torch.from_numpy(open_["1:in"].values), torch.sigmoid(z))


def test_rows_of_a_language_model_are_labelled_by_what_they_are(llama: pc.Model) -> None:
    prompts = [*tiny.ids(1, 3), *tiny.ids(1, 2, seed=3)]
    own = {"kind": ["a", "b"], "each": [1, 2, 3, 4, 5]}
    for found in (spline_codes(llama, prompts, labels=own), soft_codes(llama, prompts, labels=own)):
        columns = found.dataset if hasattr(found, "dataset") else found
        assert columns["kind"].values.tolist() == list("aaabb"), "labels of prompts reach their rows"
        assert columns["each"].values.tolist() == [1, 2, 3, 4, 5]
        assert columns["prompt"].values.tolist() == [0, 0, 0, 1, 1]
        assert columns["position"].values.tolist() == [0, 1, 2, 0, 1]
        tokens = [token for prompt in llama.prompts(prompts) for token in prompt.tokens]
        assert columns["token"].values.tolist() == tokens
    soft = soft_codes(llama, prompts, at="last")
    assert soft.sizes["row"] == 2
    seen: list[object] = []
    torch.manual_seed(0)
    spline_codes(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.randn(600, 3), progress=seen.append)
    assert [event.done for event in seen if event.task == "spline codes"][-1] == 600


def test_any_network_by_its_gates() -> None:
    torch.manual_seed(0)
    net = Conv().eval()
    x = torch.randn(9, 1, 8, 8)
    network = Network.of(net)
    labels = list("abcabcabc")
    for given in (net, network, pc.wrap(net)):
        codes = spline_codes(given, x, labels=labels)
        with torch.no_grad():
            seen = network.preactivations(x)
        assert [layer.name for layer in codes.layers] == [gate.name for gate in network.gates]
        for gate in network.gates:
            assert torch.equal(codes.dense(gate.name), gate.bits(seen[gate.name]))
        assert list(codes.labels()) == labels


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, llama: pc.Model) -> None:
    from patchclamp.polytopes import recording

    torch.manual_seed(0)
    net, x, prompts = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 2)), torch.randn(11, 3), tiny.ids(5, 4)
    whole = spline_codes(net, x), spline_codes(llama, prompts)
    monkeypatch.setattr(recording, "ROWS", 4)
    monkeypatch.setattr(recording, "PROMPTS", 2)
    assert torch.equal(spline_codes(net, x).dense(), whole[0].dense())
    assert spline_codes(llama, prompts) == whole[1]


class Branching(nn.Module):
    """What torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        return y if float(y.sum()) > 0 else -y


def test_a_network_that_cannot_be_traced_shows_the_inputs_of_its_activations() -> None:
    net, x = Branching().eval(), torch.randn(5, 4)
    codes = spline_codes(pc.wrap(net), x)
    assert [layer.name for layer in codes.layers] == ["act:in"]
    assert torch.equal(codes.dense(), net.first(x) > 0)
    with pytest.raises(pc.ModelError, match="torch.fx cannot follow Branching"):
        spline_codes(net, x)


def test_bad_input_is_refused(llama: pc.Model) -> None:
    net = nn.Sequential(nn.Linear(3, 7), nn.ReLU())
    with pytest.raises(pc.InputError, match="have no positions"):
        spline_codes(net, torch.randn(2, 3), at="last")
    with pytest.raises(pc.InputError, match="rows of inputs are wanted"):
        spline_codes(net, [[1.0, 2.0, 3.0]])
    with pytest.raises(pc.InputError, match="hold NaN"):
        spline_codes(net, torch.full((2, 3), torch.nan))
    with pytest.raises(pc.InputError, match="pc.wrap"):
        spline_codes(net, torch.randn(2, 3), sites="0:out")
    with pytest.raises(pc.ModelError, match="has no gate"):
        spline_codes(nn.Linear(3, 2), torch.randn(2, 3))
    with pytest.raises(pc.InputError, match="one label for each of 12 rows"):
        spline_codes(llama, tiny.ids(3, 4), labels=[1, 2])
    with pytest.raises(pc.InputError, match="only gates that change at 0"):
        soft_codes(nn.Sequential(nn.Linear(3, 7), nn.ReLU6()), torch.randn(2, 3), beta=0.5)
    one_break = type("Clamped", (nn.Module,), {"forward": lambda self, x: x.clamp(min=-1.0)})()
    with pytest.raises(pc.InputError, match="is a clamp: only gates that change at 0"):
        soft_codes(one_break, torch.randn(2, 3), beta=0.5)
    with pytest.raises(pc.InputError, match="which activation reads '1:in' is not known"):
        soft_codes(pc.wrap(nn.Sequential(nn.Linear(3, 7), nn.SiLU()).eval()), torch.randn(2, 3), "1:in")
    with pytest.raises(pc.InputError, match="'softplus' has no soft code"):
        soft_codes(llama, tiny.ids(1, 4), name="softplus")


def test_nothing_is_left_on_the_module() -> None:
    net = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    spline_codes(net, torch.randn(4, 3))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
