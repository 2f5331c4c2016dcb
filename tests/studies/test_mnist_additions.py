"""Additions: the fast path is the hooked run, and what algebra says of stages, diagonals and heads holds."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.studies import digits, mnist_measures
from patchclamp.studies.digits import Images, network, train
from patchclamp.studies.mnist_additions import Additions, study
from patchclamp.studies.mnist_pictures import bars, figure
from patchclamp.studies.mnist_tables import OVER, Response, respond
from patchclamp.studies.mnist_vectors import (
    GATES,
    activations,
    class_means,
    differences,
    gates,
    head_aligned,
    of_image,
    stages,
    vectors,
)

KINDS: tuple[digits.Kind, ...] = ("residual", "mlp", "cnn")


@pytest.fixture(scope="module")
def nets(shapes: Images) -> dict[str, nn.Sequential]:
    """One trained network of each kind, in float64 so that equalities are sharp."""
    made = {}
    for kind in KINDS:
        net = network(kind, width=48)
        train(net, shapes, epochs=6, batch=20, rate=2e-3)
        made[kind] = net.double()
    return made


@pytest.fixture(scope="module")
def wide(shapes: Images) -> Images:
    return Images(shapes.train.double(), shapes.train_labels, shapes.test.double(), shapes.test_labels, shapes.names)


def added(net: nn.Sequential, stage: int, data: Images, vector: Tensor, gate: object = None) -> Tensor:
    """Logits under the addition, by the public way."""
    edit = pc.Add(vector, site=f"{stage}:out", where=gate)  # type: ignore[arg-type]
    return pc.wrap(net).run(data.test, edit).logits


@pytest.mark.parametrize(
    ("kind", "gate"),
    [
        # convolutions take long, and what follows them is as in the others
        pytest.param(kind, gate, marks=[pytest.mark.slow] if kind == "cnn" and gate != "none" else [])
        for kind in KINDS
        for gate in GATES
    ],
)
def test_the_fast_path_is_the_hooked_run(
    kind: digits.Kind, gate: str, nets: dict[str, nn.Sequential], wide: Images
) -> None:
    net, data = nets[kind], wide.head(600, 100)
    labels = data.test_labels
    for stage in stages(net, data.test)[: None if gate != "verdict" else -1]:
        vector = vectors("mean", net, stage, data)
        tests = gates(gate, net, stage, data)  # type: ignore[arg-type]
        found = respond(net, stage, data.test, labels, vector, tests)
        moved = 0
        for a, b in ((3, 1), (1, 8), (7, 7)):
            logits = added(net, stage, data, vector[a, b], tests[b])
            for given in range(10):
                part = logits[labels == given]
                torch.testing.assert_close(
                    found.loss[a, b, given],
                    nn.functional.cross_entropy(part, labels[labels == given]),
                    rtol=1e-9,
                    atol=1e-9,
                )
                torch.testing.assert_close(
                    found.probability[a, b, given], part.softmax(-1).mean(0), rtol=1e-9, atol=1e-9
                )
                assert torch.bincount(part.argmax(-1), minlength=10).tolist() == found.counts[a, b, given].tolist()
            moved += int(not torch.allclose(found.loss[a, b], found.clean_loss, atol=1e-3))
        assert moved == 2, "the two additions change the loss, and nothing does not"


@pytest.mark.parametrize("kind", KINDS)
def test_the_diagonal_is_the_baseline_exactly(
    kind: digits.Kind, nets: dict[str, nn.Sequential], shapes: Images
) -> None:
    net = nets[kind].float()
    own = torch.arange(10)
    try:
        for stage in stages(net, shapes.test):
            found = respond(net, stage, shapes.test, shapes.test_labels, vectors("image 0", net, stage, shapes))
            for values, clean in (
                (found.loss, found.clean_loss), (found.counts, found.clean_counts), (found.probability, found.clean_probability),
            ):  # fmt: skip
                assert torch.equal(values[own, own], clean.expand(10, *clean.shape))
            for over in OVER:
                assert torch.equal(found.table(over).diagonal(), found.clean_table(over).diagonal())
    finally:
        net.double()


def test_stages_around_a_linear_layer_are_equal(nets: dict[str, nn.Sequential], wide: Images) -> None:
    """``W (h + a - b) = W h + (W a - W b)``: stages 1 and 2, and 3 and 4, of the posts' table; 0 and 1 are not."""
    net = nets["mlp"]

    def logits(stage: int) -> Tensor:
        return added(net, stage, wide, vectors("image 0", net, stage, wide)[3, 1])

    torch.testing.assert_close(logits(1), logits(2), rtol=0, atol=1e-10)
    torch.testing.assert_close(logits(3), logits(4), rtol=0, atol=1e-10)
    assert not torch.allclose(logits(0), logits(1), atol=1e-2)
    assert not torch.allclose(logits(2), logits(3), atol=1e-2)


def test_after_the_last_block_an_addition_is_one_shift_of_the_logits(
    nets: dict[str, nn.Sequential], wide: Images
) -> None:
    net, clean = nets["residual"], nets["residual"](wide.test)
    points = of_image(0, net, 2, wide)
    shift = (points[3] - points[1]) @ net[3].weight.T  # type: ignore[operator]
    change = added(net, 2, wide, points[3] - points[1]) - clean
    torch.testing.assert_close(change, shift.expand_as(change), rtol=0, atol=1e-10)
    before = of_image(0, net, 1, wide)
    earlier = added(net, 1, wide, before[3] - before[1]) - clean
    assert float(earlier.detach().std(0).max()) > 0.1, "before the block it is not the same for every image"


def test_a_head_aligned_vector_moves_two_logits(nets: dict[str, nn.Sequential], wide: Images) -> None:
    net = nets["residual"]
    vector = head_aligned(net, 8.0, 20.0)
    change = added(net, 2, wide, vector[3, 1]) - net(wide.test)
    expected = torch.zeros(10, dtype=torch.float64)
    expected[3], expected[1] = 8, -20
    torch.testing.assert_close(change, expected.expand_as(change), rtol=0, atol=1e-9)
    assert float(vector[4, 4].norm()) == 0
    other = vector[3, 1] + 0.1 * torch.linalg.svd(net[3].weight).Vh[-1]  # type: ignore[arg-type]
    assert torch.allclose(other @ net[3].weight.T, expected, atol=1e-9)  # type: ignore[operator]
    assert other.norm() > vector[3, 1].norm(), "it is the shortest that does so"
    with pytest.raises(pc.InputError, match="needs a linear head, not ReLU"):
        head_aligned(net[:2], 1, 1)


def test_a_shut_gate_is_the_baseline_and_an_open_one_no_gate(nets: dict[str, nn.Sequential], wide: Images) -> None:
    net, vector = nets["residual"], vectors("mean", nets["residual"], 1, wide)

    def with_gate(value: bool) -> Response:
        test = [lambda x: torch.full(x.shape[:-1], value)] * 10
        return respond(net, 1, wide.test, wide.test_labels, vector, test)

    free = respond(net, 1, wide.test, wide.test_labels, vector)
    assert torch.allclose(with_gate(value=True).loss, free.loss, atol=1e-10)
    shut = with_gate(value=False)
    assert torch.equal(shut.loss, shut.clean_loss.expand(10, 10, 10))
    assert float(shut.transfer.nanmean()) < 0.05 < 0.5 < float(free.transfer.nanmean())


@pytest.mark.sensitive
def test_a_gate_keeps_what_an_addition_destroys_and_a_scrambled_one_does_not(
    nets: dict[str, nn.Sequential], wide: Images
) -> None:
    net, stage = nets["residual"], 2
    vector = vectors("mean", net, stage, wide)
    free, code, activation = (
        respond(net, stage, wide.test, wide.test_labels, vector, gates(kind, net, stage, wide))
        for kind in ("none", "code", "activation")
    )
    assert float(free.transfer.nanmean()) > 0.9
    assert float(free.retention.nanmean()) < 0.7
    for gated in (code, activation):
        assert float(gated.transfer.nanmean()) > 0.85
        assert float(gated.retention.nanmean()) > float(gated.clean_retention.nanmean()) - 0.02
    codes = class_means((activations(net, stage, wide.train) > 0).double(), wide.train_labels)
    shuffled = codes[:, torch.randperm(codes.shape[1], generator=torch.Generator().manual_seed(0))]
    tests = [pc.NearestCode(shuffled, label) for label in range(10)]
    scrambled = respond(net, stage, wide.test, wide.test_labels, vector, tests)
    assert float(scrambled.transfer.nanmean()) < 0.6
    assert float(scrambled.retention.nanmean()) < float(code.retention.nanmean())


def test_gates_are_made_of_training_images_alone(nets: dict[str, nn.Sequential], wide: Images) -> None:
    other = Images(wide.train, wide.train_labels, torch.zeros_like(wide.test), wide.test_labels.flip(0), wide.names)
    for kind in ("code", "activation"):
        assert gates(kind, nets["mlp"], 3, wide) == gates(kind, nets["mlp"], 3, other)  # type: ignore[arg-type]
    assert torch.equal(vectors("mean", nets["mlp"], 3, wide), vectors("mean", nets["mlp"], 3, other))


def test_bad_names_are_refused(nets: dict[str, nn.Sequential], wide: Images) -> None:
    with pytest.raises(pc.InputError, match="did you mean 'mean'"):
        vectors("means", nets["mlp"], 0, wide)
    with pytest.raises(pc.InputError, match="did you mean 'code'"):
        gates("codes", nets["mlp"], 0, wide)  # type: ignore[arg-type]
    for options in ({"seeds": []}, {"pairs": [(3, 3)]}, {"pairs": [(3, 10)]}):
        with pytest.raises(pc.InputError, match="give seeds, kinds, and pairs of two classes"):
            study(**options)  # type: ignore[arg-type]


def _by_hand() -> Response:
    """Class 0 has 2 images, the others 1. Under 1-0 both are called 1, and images of 5 are called 7."""
    sizes = torch.ones(10).double()
    sizes[0] = 2
    clean = torch.diag(sizes)
    counts = clean.expand(10, 10, 10, 10).clone()
    counts[1, 0, 0] = torch.tensor([0, 2] + [0] * 8)
    counts[1, 0, 5] = torch.tensor([0] * 7 + [1, 0, 0])
    loss = torch.full((10, 10, 10), 0.5).double()
    loss[1, 0, 0], loss[1, 0, 5] = 4.0, 6.0
    share = counts / sizes[:, None]
    return Response(sizes, loss, counts, share, torch.full((10,), 0.5).double(), clean, clean / sizes[:, None])


def test_averages_are_over_the_images_that_they_name() -> None:
    made = _by_hand()
    assert made.transfer[1, 0] == 1
    assert made.transfer[0, 1] == 0
    assert made.retention[1, 0] == pytest.approx(7 / 8), "eight other classes, one of them lost"
    assert made.retention[0, 1] == 1
    assert bool(made.transfer.diagonal().isnan().all())
    assert made.table("all")[1, 0] == pytest.approx((2 * 4 + 6 + 8 * 0.5) / 11)
    assert made.table("b")[1, 0] == pytest.approx(4)
    assert made.table("others")[1, 0] == pytest.approx((6 + 8 * 0.5) / 9)
    assert torch.allclose(made.clean_table("others"), torch.full((10, 10), 0.5).double())
    assert made.summary()["transfer"] == pytest.approx(1 / 90)


def test_a_third_class_is_neither_a_nor_the_images_own() -> None:
    rows = _by_hand().thirds(list("0123456789"))
    assert rows.to_dict("records") == [
        {"a": "1", "b": "0", "image of": "5", "called": "7", "share": 1.0, "share before": 0.0}
    ]
    frame = _by_hand().frame(list("0123456789"))
    assert len(frame) == 10_000
    row = frame[(frame["a"] == "1") & (frame["b"] == "0") & (frame["input"] == "5") & (frame["output"] == "7")].iloc[0]
    assert (row["count"], row["count before"]) == (1, 0)


def test_the_whole_study(shapes: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digits, "images", lambda _: shapes.head(600, 150))
    monkeypatch.setattr(mnist_measures, "COEFFICIENTS", (0.5, 1.0))
    found = study(tmp_path / "out", seeds=(1,), epochs=3, width=12, rows=100, pairs=[(3, 1)])
    assert set(found.responses) == {
        f"{k}, seed {s}, {v}" for k in ("residual", "mlp") for s in (1,) for v in ("image 0", "mean")
    }
    staged = found.stages[(found.stages["network"] == "mlp") & (found.stages["seed"] == 1)]
    assert sorted(staged["stage"].unique()) == [0, 1, 2, 3, 4]
    columns = ["loss others", "transfer", "retention"]
    one, two = (staged[staged["stage"] == stage][columns].to_numpy() for stage in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-4)
    posts = found.stages.merge(found.deciding[found.deciding["epochs"] == 3], on=["network", "seed", "stage", "vector"])
    np.testing.assert_allclose(posts["loss all_x"], posts["loss all_y"], err_msg="two tables, one experiment", rtol=0.2)
    beside = found.beside_posts()
    assert list(beside["network"]).count("mlp") == 7
    sharp = beside[(beside["network"] == "residual") | beside["loss"].str.startswith("3-1")]
    assert bool((sharp["least"] <= sharp["image 0"] + 1e-9).all() and (sharp["image 0"] <= sharp["most"] + 1e-9).all())
    known = found.training.set_index("network")["loss"]
    assert beside.set_index(["network", "loss"]).loc[("mlp", "unpatched"), "image 0"] == known["mlp"], (
        "of all test images"
    )
    _files(found, tmp_path / "out")


def _files(found: Additions, out: Path) -> None:
    folder = out / "tables" / "mlp-seed-1-image-0"
    read = pd.read_csv(folder / "patched-others.csv", index_col="a")
    np.testing.assert_allclose(read.to_numpy(), found.responses["mlp, seed 1, image 0"].table("others").numpy())
    assert len(pd.read_csv(folder / "array.csv")) == 10_000
    assert {"stages.csv", "doses.csv", "deciding.csv", "pair.csv", "thirds.csv", "training.csv", "figure.png"} <= {
        path.name for path in out.iterdir()
    }
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 1 + 2, "the front, and a pair for each kind"
    assert "Beside the posts" in page
    assert json.dumps(found.summary())
    assert "A third class wins" in found.text()
    drawn = [text.get_text() for text in figure(found).axes[0].texts]
    table = found.responses["residual, seed 1, image 0"].table("all")
    assert drawn[1] in (f"{float(table[0, 1]):.1f}", f"{float(table[0, 1]):.0f}")
    response = found.responses["mlp, seed 1, image 0"]
    heights = [bar.get_height() for bar in bars(response, 3, 1, found.names, "").axes[4].patches]
    np.testing.assert_allclose(heights, [*response.clean_probability[4], *response.probability[3, 1, 4]])


@pytest.mark.assets
@pytest.mark.slow
def test_on_mnist_a_gate_passes_and_no_coefficient_does() -> None:
    """The claim of the page, on all test images: transfer at least .9 at a retention of at least .97."""
    data = digits.images()
    for kind in ("residual", "mlp"):
        net = digits.trained(kind, seed=0)  # type: ignore[arg-type]
        stage = len(net) - 2
        hidden = activations(net, stage, data.train)
        assert 0.07 < digits.evaluate(net, data.test, data.test_labels)[0] < 0.11
        for gate in ("code", "activation"):
            tests = gates(gate, net, stage, data, hidden)  # type: ignore[arg-type]
            vector = differences(class_means(hidden, data.train_labels))
            found = respond(net, stage, data.test, data.test_labels, vector, tests).summary()
            assert found["transfer"] >= 0.9
            assert found["retention"] >= 0.97
        for coefficient in mnist_measures.COEFFICIENTS:
            found = respond(net, stage, data.test, data.test_labels, coefficient * vector).summary()
            assert found["transfer"] < 0.9 or found["retention"] < 0.97
