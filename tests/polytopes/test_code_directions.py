"""Directions of spline codes: scores, pathways and pushes against what they are by hand."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.polytopes import CodeDirection, code_direction


def codes(seed: int, rows: int = 40, share: float = 0.5) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"1": torch.rand(rows, 6, generator=draw) < share, "3": torch.rand(rows, 4, generator=draw) < share}


@pytest.fixture
def direction() -> CodeDirection:
    return code_direction(codes(0, share=0.3), codes(1, rows=25, share=0.7))


def test_it_is_the_difference_of_the_shares_of_open_gates(direction: CodeDirection) -> None:
    for name, vector in direction.vectors.items():
        a, b = codes(0, share=0.3)[name], codes(1, rows=25, share=0.7)[name]
        wanted = [b[:, k].sum() / 25 - a[:, k].sum() / 40 for k in range(len(vector))]
        torch.testing.assert_close(vector, torch.stack(wanted).double(), rtol=1e-6, atol=1e-7)
        assert vector.abs().max() <= 1


def test_mean_codes_lie_half_a_step_from_the_middle(direction: CodeDirection) -> None:
    assert direction.score(codes(0, share=0.3)).mean() == pytest.approx(-0.5)
    assert direction.score(codes(1, rows=25, share=0.7)).mean() == pytest.approx(0.5)
    fresh = [direction.score(codes(seed, rows=400, share=share)).mean() for seed, share in ((2, 0.3), (3, 0.7))]
    assert fresh[0] < -0.1 < 0.1 < fresh[1], "other rows too"
    turned = code_direction(codes(1, rows=25, share=0.7), codes(0, share=0.3))
    torch.testing.assert_close(turned.score(codes(4)), -direction.score(codes(4)))


def test_soft_codes_and_packed_ones_are_codes_too(direction: CodeDirection) -> None:
    @dataclass
    class Layer:
        name: str

    class Packed:
        """What ``SplineCodes`` offers."""

        def __init__(self, bits: dict[str, Tensor]) -> None:
            self.layers = tuple(Layer(name) for name in bits)
            self.bits = bits

        def dense(self, name: str | None = None) -> Tensor:
            return self.bits[str(name)]

    packed = code_direction(Packed(codes(0, share=0.3)), Packed(codes(1, rows=25, share=0.7)))
    assert torch.equal(packed.vectors["3"], direction.vectors["3"])
    hard = {name: bits.float() for name, bits in codes(5).items()}
    torch.testing.assert_close(direction.score(hard), direction.score(Packed(codes(5))))
    soft = {name: value * 0.5 for name, value in hard.items()}
    assert not torch.allclose(direction.score(soft), direction.score(hard))


def test_pathways_are_the_layers_from_one_on(direction: CodeDirection) -> None:
    assert list(direction.since("1").vectors) == ["1", "3"]
    assert list(direction.since("3").vectors) == list(direction.layer("3").vectors) == ["3"]
    assert list(direction.layer("1").vectors) == ["1"]
    parts = [direction.layer(name) for name in ("1", "3")]
    sizes = [sum(float(v.square().sum()) for v in part.vectors.values()) for part in parts]
    own = sum(part.score(codes(6)) * size for part, size in zip(parts, sizes, strict=True)) / sum(sizes)
    torch.testing.assert_close(own, direction.score(codes(6)))


def test_a_push_moves_preactivations_by_the_length_asked_for() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    model, x = pc.wrap(network), torch.randn(30, 5)
    direction = code_direction(codes(0, share=0.3), codes(1, share=0.7))
    lengths = {"1": 2.0, "3": -0.5}
    pushed = model.run(x, direction.edits(lengths)).logits
    step = {name: (v * (lengths[name] / v.norm())).float() for name, v in direction.vectors.items()}
    hidden = (network[0](x) + step["1"]).relu()
    by_hand = network[4]((network[2](hidden) + step["3"]).relu())
    torch.testing.assert_close(pushed, by_hand)
    assert step["1"].norm() == pytest.approx(2.0)
    assert torch.equal(model.run(x).logits, network(x)), "the module is as it was"


def test_a_long_push_makes_the_code_that_it_points_to() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    direction = code_direction({"1": codes(0, share=0.3)["1"]}, {"1": codes(1, share=0.7)["1"]})
    model, x = pc.wrap(network), torch.randn(30, 5)
    pushed = model.run(x, direction.edits(1e4), record=["1:out"]).activations["1:out"]
    assert torch.equal(pushed.reshape(30, 6) > 0, (direction.vectors["1"] > 0).expand(30, 6))


def test_layers_of_a_language_model_are_sites() -> None:
    direction = code_direction({"mlp_pre.3": codes(0)["1"]}, {"mlp_pre.3": codes(1)["1"]})
    chosen = lambda x: x[..., 0] > 0  # noqa: E731
    (edit,) = direction.edits(3.0, at="rest", where=chosen)
    assert str(edit.site) == "mlp_pre.3"
    assert (edit.at, edit.where) == ("rest", chosen)
    assert float(edit.operation.vector.norm()) == pytest.approx(3)
    (named,) = code_direction({"layers.0.act:in": codes(0)["1"]}, {"layers.0.act:in": codes(1)["1"]}).edits(1.0)
    assert str(named.site) == "layers.0.act:in"


def test_codes_that_are_none_are_refused(direction: CodeDirection) -> None:
    a, b = codes(0), codes(1)
    with pytest.raises(pc.InputError, match="same layers"):
        code_direction(a, {"1": b["1"]})
    with pytest.raises(pc.InputError, match="same layers"):
        code_direction({}, {})
    with pytest.raises(pc.InputError, match="take z > 0"):
        code_direction({"1": torch.randn(3, 6)}, {"1": torch.randn(3, 6)})
    for beyond in (1.5, -0.5):
        with pytest.raises(pc.InputError, match="between 0 and 1"):
            code_direction({"1": torch.full((3, 6), beyond)}, {"1": torch.zeros(3, 6)})
    with pytest.raises(pc.InputError, match="between 0 and 1"):
        code_direction({"1": torch.full((3, 6), torch.nan)}, {"1": torch.zeros(3, 6)})
    with pytest.raises(pc.InputError, match="a row at least"):
        code_direction({"1": torch.zeros(0, 6)}, {"1": torch.zeros(3, 6)})
    with pytest.raises(pc.InputError, match="unknown layer of the direction in the codes given '3'"):
        direction.score({"1": a["1"]})
    with pytest.raises(pc.InputError, match=r"shape \[4\] at '3'"):
        direction.score({"1": a["1"], "3": a["1"]})
    with pytest.raises(pc.InputError, match="unknown layer '2'"):
        direction.since("2")
    with pytest.raises(pc.InputError, match="finite length; got None"):
        direction.edits({"1": 1.0})
    with pytest.raises(pc.InputError, match="finite length; got nan"):
        direction.edits(float("nan"))
    same = code_direction({"1": a["1"]}, {"1": a["1"]})
    with pytest.raises(pc.InputError, match="do not differ"):
        same.edits(1.0)
    image = {"1": torch.zeros(3, 2, 4, 4), "3": torch.zeros(3, 2)}
    with pytest.raises(pc.InputError, match="adds a vector"):
        code_direction(image, {**image, "1": torch.ones(3, 2, 4, 4)}).edits(1.0)
