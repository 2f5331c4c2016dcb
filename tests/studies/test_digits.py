"""Networks of the studies on images: what they compute, and training that ends with the same bytes however often it was killed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import patchclamp as pc
from patchclamp.core.progress import Progress
from patchclamp.studies import digits
from patchclamp.studies.digits import Images, evaluate, network, train


def test_the_residual_network_is_the_seeds() -> None:
    net, x = network("residual", width=12, seed=3), torch.rand(5, 784)
    hidden = (x @ net[0].weight.T + net[0].bias).relu()  # type: ignore[operator]
    block: Any = net[2].linear
    after = (hidden @ block.weight.T + block.bias + hidden).relu()
    assert torch.allclose(net(x), net[3](after), atol=1e-6)
    assert not torch.allclose(net[3]((hidden @ block.weight.T + block.bias).relu()), net(x), atol=1e-3), (
        "the skip matters"
    )


def test_the_fully_connected_network_has_the_posts_layers() -> None:
    net = network("mlp")
    assert [type(layer).__name__ for layer in net] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [tuple(layer.weight.shape) for layer in net if isinstance(layer, torch.nn.Linear)] == [
        (512, 784), (512, 512), (10, 512),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["residual", "mlp", "cnn"])
@pytest.mark.parametrize("depth", [1, 2])
def test_every_network_takes_rows_of_pixels(kind: digits.Kind, depth: int) -> None:
    before = torch.random.get_rng_state()
    net = network(kind, width=8, depth=depth, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert net(torch.rand(3, 784)).shape == (3, 10)
    assert len(net) == len(network(kind, width=8, depth=1)) + (depth - 1) * (1 if kind == "residual" else 2)
    same, other = network(kind, width=8, depth=depth, seed=1), network(kind, width=8, depth=depth, seed=2)
    x = torch.rand(2, 784)
    assert torch.equal(net(x), same(x))
    assert not torch.equal(net(x), other(x))


def test_bad_requests_name_the_choices() -> None:
    with pytest.raises(pc.InputError, match="did you mean 'residual'"):
        network("residul")  # type: ignore[arg-type]
    with pytest.raises(pc.InputError, match="at least 1, not 8 and 0"):
        network("mlp", width=8, depth=0)
    with pytest.raises(pc.InputError, match="did you mean 'mnist'"):
        digits.images("mnits")  # type: ignore[arg-type]


@pytest.mark.sensitive
def test_training_learns_and_kept_training_is_read(shapes: Images, tmp_path: Path) -> None:
    net = network("residual", width=16)
    before = evaluate(net, shapes.test, shapes.test_labels)
    found = train(net, shapes, epochs=4, batch=50, rate=3e-3, folder=tmp_path / "net")
    assert found.loss[-1] < 0.2 < 1 < before[0]
    assert found.accuracy[-1] > 0.9
    assert (found.loss[-1], found.accuracy[-1]) == evaluate(net, shapes.test, shapes.test_labels)
    assert len(found.seconds) == 4
    assert not net.training
    again = network("residual", width=16)
    assert train(again, shapes, epochs=4, batch=50, rate=3e-3, folder=tmp_path / "net") == found, (
        "seconds too: it was read"
    )
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    other = train(network("residual", width=16), shapes, epochs=4, batch=50, rate=1e-3, folder=tmp_path / "net")
    assert other.loss != found.loss, "another rate is another training"


def test_killed_training_ends_with_the_same_bytes(shapes: Images, tmp_path: Path) -> None:
    def run(folder: Path, stop: int | None) -> None:
        def kill(event: Progress) -> None:
            if event.done == stop and not event.finished:
                raise KeyboardInterrupt

        train(network("mlp", width=8), shapes, epochs=3, batch=50, seed=5, folder=folder, progress=kill)

    run(tmp_path / "whole", None)
    for stop in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", stop)
        assert not (tmp_path / "killed").exists()
    run(tmp_path / "killed", None)
    whole, killed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == killed
    untrained = network("mlp", width=8).state_dict()
    assert not torch.equal(load_file(tmp_path / "killed/model.safetensors")["0.weight"], untrained["0.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"], "no checkpoint is left"


def test_a_trained_network_comes_from_the_cache(
    shapes: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def images(name: str) -> Images:
        asked.append(name)
        return shapes

    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path))
    monkeypatch.setattr(digits, "images", images)
    first = digits.trained("mlp", "fashion-mnist", epochs=1, width=8, seed=4)
    second, history = (
        call("mlp", "fashion-mnist", epochs=1, width=8, seed=4) for call in (digits.trained, digits.training)
    )
    assert asked == ["fashion-mnist"], "trained once, and the images are read once"
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert history.loss[-1] == evaluate(second, shapes.test, shapes.test_labels)[0]
    digits.trained("mlp", "fashion-mnist", epochs=1, width=8, seed=5)
    assert len(asked) == 2


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "first"), [("mnist", "7"), pytest.param("fashion-mnist", "ankle boot", marks=pytest.mark.slow)]
)
def test_pixels_lie_between_0_and_1(name: digits.Data, first: str) -> None:
    found = digits.images(name)
    assert found.train.shape == (60000, 784)
    assert (float(found.test.min()), float(found.test.max())) == (0.0, 1.0)
    assert found.names[int(found.test_labels[0])] == first
