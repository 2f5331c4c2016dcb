"""The study of polytopes on digits: areas against their definition, pairs, and the whole on small pictures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import patchclamp as pc
from patchclamp.studies import digits
from patchclamp.studies.polytopes_mnist import FRAMES, PolytopesMnist, Sizes, area, areas, draw_pairs, study, values
from tests.pictures import draw_nothing

SMALL = Sizes(rows=60, pairs=25, scaled=20, attacked=80, rays=4, near=5, lines=1)


@pytest.fixture(scope="module")
def blots() -> digits.Images:
    """Ten classes of noisy pictures."""
    draw = torch.Generator().manual_seed(0)
    strokes = (torch.rand(10, 784, generator=draw) < 0.2).float()
    labels = torch.randint(10, (800,), generator=draw)
    pixels = (strokes[labels] * 0.7 + 0.4 * torch.randn(800, 784, generator=draw)).clamp(0, 1)
    return digits.Images(pixels[:500], labels[:500], pixels[500:], labels[500:], tuple("0123456789"))


@pytest.fixture(scope="module")
def net(blots: digits.Images) -> nn.Sequential:
    made = digits.network("mlp", width=24)
    digits.train(made, blots, epochs=6, batch=20)
    return made


@pytest.fixture(scope="module")
def found(
    blots: digits.Images, net: nn.Sequential, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PolytopesMnist, Path]:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "trained", lambda *_, **__: net)
        draw_nothing(patch)
        return study(folder, kinds=("mlp",), seeds=(0, 1), width=24, sizes=SMALL, given=blots), folder


@settings(max_examples=50, deadline=None)
@given(
    same=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    different=st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_an_area_is_the_share_of_couples_in_order(same: list[int], different: list[int]) -> None:
    truth = np.array([0] * len(same) + [1] * len(different))
    wins = [1.0 if d > s else 0.5 if d == s else 0.0 for s in same for d in different]
    assert area(truth, np.array(same + different, dtype=float)) == pytest.approx(np.mean(wins))


def test_pairs_are_what_they_say_and_no_image_comes_twice() -> None:
    labels = torch.randint(10, (300,), generator=torch.Generator().manual_seed(0))
    pairs = draw_pairs(labels, 90, seed=3)
    for kind, equal in (("same", True), ("different", False)):
        assert len(pairs[kind]) == 90
        assert all(bool(labels[i] == labels[j]) == equal for i, j in pairs[kind])
        flat = [i for pair in pairs[kind] for i in pair]
        assert len(set(flat)) == len(flat)
    assert draw_pairs(labels, 90, seed=3) == pairs != draw_pairs(labels, 90, seed=4)
    with pytest.raises(pc.InputError, match="200 pairs were asked for"):
        draw_pairs(labels, 200, seed=3)


def test_measures_are_those_of_the_pairs(net: nn.Sequential, blots: digits.Images) -> None:
    model, pairs = pc.wrap(net), draw_pairs(blots.test_labels, 10, seed=0)
    table = areas(model, blots.test, pairs, "1", ["1", "3"], seed=0).set_index("measure")
    a, b = zip(*pairs["same"], strict=True)
    begin, end = values(model, blots.test[list(a)], "1"), values(model, blots.test[list(b)], "1")
    assert table.loc["crossings", "same"] == pytest.approx(model.crossings(begin, end, start="1")["crossings"].mean())
    assert table.loc["distance", "same"] == pytest.approx(float((begin - end).norm(dim=1).mean()), rel=1e-5)
    assert (table["low"] <= table["auc"]).all()
    assert (table["auc"] <= table["high"]).all()


def test_what_it_finds_on_pictures_that_are_learnt(found: tuple[PolytopesMnist, Path]) -> None:
    done, folder = found
    rows = done.pairs[(done.pairs["start"] == "input") & (done.pairs["measure"] == "crossings")]
    assert (rows[rows["weights"] == "trained"]["auc"] > 0.6).all()
    one = done.scaling[done.scaling["factor"] == 1]
    assert (one["agreement"] == 1).all()
    assert set(done.rays["start"]) == set(done.pairs["start"]) > {"input"}
    assert (one["flipped"].fillna(0) == 0).all()
    paths = done.paths[done.paths["box"]].groupby("path")["outside"].max()
    assert (paths == 0).all()
    assert set(done.paths["seed"]) == {0, 1}
    assert done.distances["median"].gt(0).all()
    assert {"hard code", "pre-activation", "activation", "unit norm", "pixels", "untrained hard code"} <= set(
        done.clusters["form"]
    )
    assert "Rays from the origin" in done.text()
    assert json.loads((folder / "summary.json").read_text())["pairs"]
    for name in FRAMES:
        assert len(pd.read_csv(folder / f"{name}.csv")) == len(getattr(done, name))
    assert (folder / "areas.svg").is_file()
    assert pc.open(folder / "paths") == done.results["paths"]
    assert "adversarial" in (folder / "report.html").read_text()


def test_nothing_to_do_is_refused(blots: digits.Images) -> None:
    with pytest.raises(pc.InputError, match="one network and one seed at least"):
        study(kinds=(), given=blots)
    with pytest.raises(pc.InputError, match="one network and one seed at least"):
        study(seeds=(), given=blots)
