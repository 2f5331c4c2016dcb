"""What additions need: the number that is read off a curve, the scores of sentences, and the whole study on small networks."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import patchclamp as pc
from patchclamp.studies import digits, photograph_additions, word_additions
from patchclamp.studies.digits import Images
from patchclamp.studies.mnist_tables import respond
from patchclamp.studies.mnist_vectors import vectors
from patchclamp.studies.what_additions_need import at_retention, curves, random_like, study
from patchclamp.studies.what_additions_need_figure import figure


def test_the_front_is_where_retention_first_falls() -> None:
    assert at_retention([0, 0.4, 0.8], [1, 0.95, 0.85]) == pytest.approx(0.6), "half-way between two coefficients"
    assert at_retention([0, 1.0], [1, 0.0]) == pytest.approx(0.1)
    assert at_retention([0, 0.3, 0.7], [1, 1, 0.9]) == 0.7, "it never falls below"
    assert at_retention([0, 0.2, 0.9, 0.9], [1, 0.8, 0.95, 0.95]) == pytest.approx(0.1), (
        "what comes back does not count"
    )


def test_a_random_vector_is_as_long_and_points_elsewhere() -> None:
    made = torch.randn(10, 10, 400, generator=torch.Generator().manual_seed(1))
    made[3, 3] = 0
    noise = random_like(made)
    torch.testing.assert_close(noise.norm(dim=-1), made.norm(dim=-1))
    assert float(noise[3, 3].norm()) == 0
    assert float(torch.cosine_similarity(noise[0], made[0], dim=-1).abs().max()) < 0.25
    assert not torch.equal(noise, random_like(made, 1))


def test_scores_by_hand() -> None:
    """Three classes of two prompts. Under 0 - 1 one prompt of 1 is called 0, and one of 2 is called 1."""
    asked = torch.tensor([0, 0, 1, 1, 2, 2])
    clean = 5 * torch.eye(3)[asked]
    after = clean.clone()
    after[2], after[5] = torch.tensor([9.0, 0, 0]), torch.tensor([0.0, 9, 0])
    found = word_additions.scores(after.unsqueeze(1), clean, asked, [(0, 1)])
    assert (found["transfer"], found["clean transfer"]) == (0.5, 0)
    assert (found["retention"], found["clean retention"]) == (0.5, 1), "of class 2 alone: 0 is a and 1 is b"
    kept, lost = (-row.double().log_softmax(-1)[2] for row in (after[4], after[5]))
    assert found["loss others"] == pytest.approx(float((kept + lost) / 2))


@pytest.fixture(scope="module")
def net(shapes: Images) -> Any:
    made = digits.network("residual", width=32)
    digits.train(made, shapes, epochs=6, batch=20, rate=2e-3)
    return made


def test_pixels_are_a_stage(net: Any, shapes: Images) -> None:
    """Stage -1 adds to the input: the same as images that are moved."""
    made = vectors("mean", net, -1, shapes)
    means = torch.stack([shapes.train[shapes.train_labels == k].mean(0) for k in range(10)])
    torch.testing.assert_close(made[3, 1], means[3] - means[1])
    found = respond(net, -1, shapes.test, shapes.test_labels, made)
    with torch.no_grad():
        called = net(shapes.test + made[3, 1]).argmax(-1)
    assert found.transfer[3, 1] == pytest.approx(float((called[shapes.test_labels == 1] == 3).double().mean()))


def test_curves_hold_controls_beside_additions(net: Any, shapes: Images) -> None:
    table = curves(net, shapes, rows=400, seed=0)
    assert list(table["stage"].unique()) == ["pixels", "first hidden", "before the head"]
    full: Any = table[(table["coefficient"] == 1) & (table["stage"] == "before the head")].set_index(["vector", "gate"])
    assert full.loc[("means", "none"), "transfer"] > 0.9
    assert full.loc[("random", "none"), "transfer"] < 0.2
    assert full.loc[("means", "none"), "retention"] < full.loc[("means", "code"), "retention"] - 0.1
    low = table[table["coefficient"] == table["coefficient"].min()]
    assert bool((low["clean transfer"] < 0.05).all())


def test_the_whole_study(shapes: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digits, "images", lambda _: shapes)
    found = study(tmp_path / "out", cases=["16 wide", "not residual"], seeds=(0,), rows=100)
    front = found.front().set_index(["case", "stage"])
    assert len(front) == 6
    chosen: Any = front.loc[("not residual", "before the head")]
    line = found.curves[(found.curves["case"] == "not residual") & (found.curves["stage"] == "before the head")]
    own = line[(line["vector"] == "means") & (line["gate"] == "none")]
    kept = [1.0, *(own["retention"] / own["clean retention"])]
    assert chosen["means"] == pytest.approx(at_retention([own["clean transfer"].iloc[0], *own["transfer"]], kept))
    assert chosen["least"] == chosen["most"] == chosen["means"], "of one seed"
    assert chosen["gated by code"] > chosen["means"] > chosen["random"]
    assert found.words_front().empty
    assert {"networks.csv", "curves.csv", "front.csv", "figure.png", "report.html"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert "NaN" not in json.dumps(found.summary())
    assert "Transfer at 90 %" in found.text()
    lines = figure(found).axes[0].get_lines()
    assert len(lines) == 2 * 3 + 1, "two networks: free, gated, random; and the line at .9"


def test_bad_input_is_refused_before_work() -> None:
    with pytest.raises(pc.InputError, match="did you mean '4 blocks'"):
        study(cases=["4 block"])
    wrong: tuple[dict[str, Any], ...] = ({"seeds": []}, {"cases": []}, {"rows": 0})
    for options in wrong:
        with pytest.raises(pc.InputError, match="give seeds, cases and at least 1 row"):
            study(**options)


def test_a_shallow_model_is_refused(storyteller: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="the model has 2 layers; the study adds after layer 28"):
        study(model=storyteller)
    with pytest.raises(pc.InputError, match="no capital is known of 'Atlantis'"):
        word_additions.word_additions(storyteller, [("last", 0)], countries=["Atlantis"])


def test_photographs_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(pc.MissingDependencyError, match=r"pip install 'patchclamp\[test\]'"):
        photograph_additions.photographs()


def test_a_photograph_is_prepared_as_the_network_was_trained() -> None:
    """One colour stays one colour, less the mean of each channel; the middle is what is kept."""
    picture = torch.zeros(300, 500, 3, dtype=torch.uint8)
    picture[:, 100:400] = torch.tensor([200, 100, 50], dtype=torch.uint8)
    made = photograph_additions.prepare(picture.numpy())
    assert made.shape == (3, 224, 224)
    expected = torch.tensor([200.0, 100, 50]) - torch.tensor(photograph_additions.MEAN)
    torch.testing.assert_close(made, expected[:, None, None].expand_as(made))


@pytest.mark.assets
@pytest.mark.slow
def test_smollm2_is_as_the_digits() -> None:
    """The claim of the page: the addition moves the answers and breaks the other countries; a gate, and chance, do not."""
    model = pc.load("smollm2-135m", dtype="float32")
    found: Any = word_additions.word_additions(model, [("last", 28)], coefficients=(1.0,)).set_index(["vector", "gate"])
    assert found.loc[("means", "none"), "transfer"] > 0.9
    assert found.loc[("means", "none"), "retention"] < 0.8
    assert found.loc[("means", "activation"), "retention"] > 0.95
    assert found.loc[("means", "activation"), "transfer"] > 0.9
    assert found.loc[("random", "none"), "transfer"] < 0.1
