"""The study of classes and maps on made-up pictures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.polytopes import NearestLinear
from patchclamp.studies import classes_and_maps, digits
from patchclamp.studies.classes_and_maps import NetworkSetting, measure_faces, vote
from patchclamp.studies.gated import Decoupled, bits, freeze, straight_through_gate


def pictures(train: int = 400, test: int = 100, noise: float = 0.25) -> digits.Images:
    """Ten random patterns under noise."""
    draw = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, 784, generator=draw)

    def some(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 10
        return patterns[labels] + noise * torch.randn(count, 784, generator=draw), labels

    return digits.Images(*some(train), *some(test), names=tuple("abcdefghij"))


def mlp(seed: int = 0, width: int = 12) -> nn.Sequential:
    return digits.network("mlp", width=width, seed=seed)


def test_gates_and_maps_of_one_network_are_that_network() -> None:
    x = pictures().test
    network = mlp()
    assert torch.equal(Decoupled(network, network)(x), network(x))
    assert not torch.allclose(Decoupled(mlp(1), network)(x), network(x), atol=1e-3)


def test_a_network_taken_apart_is_linear_for_fixed_gates() -> None:
    x = pictures().test
    gates, maps = mlp(1).double(), mlp(2).double()
    for layer in maps[:-1:2]:
        assert isinstance(layer, nn.Linear)
        layer.bias.data.zero_()
    network, last = Decoupled(gates, maps), maps[-1]
    assert isinstance(last, nn.Linear)
    before = network(x.double()) - last.bias
    maps[0].weight.data *= -3  # type: ignore[operator]
    torch.testing.assert_close(network(x.double()) - last.bias, -3 * before)


def test_a_gate_is_a_step_with_the_gradient_of_a_sigmoid() -> None:
    z = torch.linspace(-3, 3, 13, dtype=torch.float64)
    assert straight_through_gate(z).tolist() == [0.0] * 7 + [1.0] * 6
    z.requires_grad_(True)
    out = straight_through_gate(z)
    assert torch.equal(out.detach().round(), (z > 0).double())
    (gradient,) = torch.autograd.grad(out.sum(), [z])
    share = torch.sigmoid(z.detach())
    torch.testing.assert_close(gradient, share * (1 - share))


def test_bits_say_which_neurons_pass() -> None:
    x, network = pictures().test, mlp()
    first = network[1](network[0](x))
    second = network[3](network[2](first))
    assert torch.equal(bits(network, x), torch.cat([first, second], 1).gt(0).float())


def test_training_leaves_alone_what_is_frozen() -> None:
    data = pictures(100, 20)
    for fixed in ("gates", "maps"):
        parts = {"gates": mlp(1), "maps": mlp(2)}
        freeze(parts[fixed])
        before = {name: [p.clone() for p in part.parameters()][:2] for name, part in parts.items()}
        digits.train(Decoupled(**parts), data, epochs=2, progress=False)
        for name, part in parts.items():
            same = all(torch.equal(a, b) for a, b in zip(before[name], part.parameters(), strict=False))
            assert same is (name == fixed)


def test_the_vote_of_regions_is_that_of_their_training_images() -> None:
    data = pictures()
    network = NearestLinear(784, 10, 20).place(data.train)
    own = network.region(data.train)
    said = {k: int(data.train_labels[own == k].bincount(minlength=10).argmax()) for k in range(20) if (own == k).any()}
    right = [
        said.get(int(k), 0) == int(label) for k, label in zip(network.region(data.test), data.test_labels, strict=True)
    ]
    assert vote(network, data) == pytest.approx(np.mean(right))
    assert vote(network, data) > 0.5


def relative(a: Tensor, b: Tensor) -> float:
    return float(2 * (a - b).norm() / (a.norm() + b.norm()))


def jacobian(network: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = torch.autograd.functional.jacobian(lambda row: network(row[None])[0], x)  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize(
    ("kind", "seed"), [pytest.param("relu", 0, marks=pytest.mark.slow), ("relu", 3), ("nearest", 0)], ids=str
)
def test_faces_are_those_of_dense_sampling(kind: str, seed: int) -> None:
    """With seed 3 one of the lines crosses no face."""
    data = pictures(noise=1.0)
    data = digits.Images(*(part.double() if part.is_floating_point() else part for part in (
        data.train, data.train_labels, data.test, data.test_labels)), data.names)  # fmt: skip
    torch.manual_seed(seed)
    if kind == "relu":
        network: nn.Module = nn.Sequential(nn.Linear(784, 6), nn.ReLU(), nn.Linear(6, 10)).double()
    else:
        network = NearestLinear(784, 10, 6).double().place(data.train)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim == 3:
                    parameter.normal_()
        network.eval()
    found = measure_faces(network, data, most=8)
    counts, whole, at_face = [], [], []
    for start, label in zip(data.test[:8], data.test_labels[:8], strict=True):
        others = data.test[data.test_labels != label]
        end = others[(others - start).square().sum(1).argmin()]
        line = start + torch.linspace(0, 1, 3001, dtype=torch.float64)[:, None] * (end - start)
        if isinstance(network, nn.Sequential):
            flips = (network[0](line) > 0).diff(dim=0).any(1)
        else:
            flips = network.region(line).diff() != 0  # type: ignore[operator]
        counts.append(int(flips.sum()))
        whole.append(relative(jacobian(network, start), jacobian(network, end)))
        if flips.any():
            places = flips.nonzero().ravel()
            middle = places[(places + 0.5 - 1500).abs().argmin()]
            at_face.append(relative(jacobian(network, line[middle]), jacobian(network, line[middle + 1])))
    assert found["faces"] == pytest.approx(np.mean(counts))
    assert found["end to end"] == pytest.approx(np.median(whole))
    assert found["at a face"] == pytest.approx(np.median(at_face))
    assert (found["jump"] == 0) is (kind == "relu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> NetworkSetting:
    shown = {name.replace(" 64,", " 16,"): said for name, said in classes_and_maps.SHOWN.items()}
    monkeypatch.setattr(classes_and_maps, "REGIONS", (16,))
    monkeypatch.setattr(classes_and_maps, "SHOWN", shown)
    monkeypatch.setattr(classes_and_maps, "DRAWN", classes_and_maps.DRAWN.replace("64", "16"))
    monkeypatch.setattr(digits, "images", lambda _: pictures(noise=0.1))
    return NetworkSetting(seeds=1, train=300, epochs=16, width=32)


def test_the_whole_study_and_a_second_call_that_trains_nothing(
    small: NetworkSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = classes_and_maps.study(tmp_path, small, progress=False)
    assert len(found.points) == 1 + (2 + 1) + (3 + 1), "random images have low rank alone"
    assert len(found.gates) == 1 + len(classes_and_maps.CONDITIONS) + 3
    assert len(found.faces) == len(classes_and_maps.SHOWN)
    table = found.averages()["gates"].set_index("what")["accuracy"]
    assert table["ReLU network"] > 0.9, "the patterns are easy"
    assert table["maps alone"] > 0.9
    assert table["gates of one, maps of another"] < 0.3, "nothing is learnt where nothing is trained together"
    relu = found.points[found.points["network"] == "ReLU network"]
    nearest = found.points[(found.points["network"] == "nearest points") & (found.points["points"] == "k-means")]
    assert relu["parameters"].tolist() == nearest["parameters"].tolist()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"report.html", "figure.png", "points.svg", "gates.csv", "points-by-seed.csv", "seeds"} <= names
    assert "off the scale" not in found.text()
    assert len(found.centres) == len(found.says) == 16
    assert found.summary()["faces"][0]["faces"] >= 0
    monkeypatch.setattr(digits, "train", lambda *_, **__: pytest.fail("what is measured is kept"))
    again = classes_and_maps.study(tmp_path, small, progress=False)
    pd.testing.assert_frame_equal(again.points, found.points)
    with pytest.raises(pytest.fail.Exception):
        classes_and_maps.study(tmp_path, NetworkSetting(seeds=1, train=301, epochs=16, width=32), progress=False)


def test_intervals_are_those_of_student() -> None:
    table = pd.DataFrame({"network": ["a"] * 3, "faces": [1.0, 2.0, 3.0]})
    row = classes_and_maps._average(table, ["network"], ["faces"]).iloc[0]
    assert row["faces"] == 2
    assert row["high"] - row["faces"] == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    alone = classes_and_maps._average(table[:1], ["network"], ["faces"]).iloc[0]
    assert np.isnan(alone["low"]), "one seed has no interval"


@pytest.mark.parametrize("name", ["seeds", "train", "epochs", "width"])
def test_sizes_without_sense_are_refused(small: NetworkSetting, tmp_path: Path, name: str) -> None:
    with pytest.raises(pc.InputError, match=f"{name} is at least 1; got 0"):
        classes_and_maps.study(tmp_path, NetworkSetting(**{name: 0}))
    with pytest.raises(pc.InputError, match="has 400 images"):
        classes_and_maps.study(tmp_path, NetworkSetting(train=500))
    assert not list(tmp_path.iterdir())
