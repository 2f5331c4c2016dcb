"""Networks, points and inputs of the polytope verbs, on ten made-up pictures; and what those verbs ask of the library."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.cli import networks, polytope
from patchclamp.cli.app import main
from patchclamp.cli.options import Opening
from patchclamp.studies import digits
from tests.cli.test_asked import Asked, Asking

TRAIN = torch.arange(12.0).reshape(6, 2)
TEST = 100 + torch.arange(8.0).reshape(4, 2)
NAMES = ("zero", "one", "two")


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which data sets were read."""
    seen: list[str] = []

    def images(name: str) -> digits.Images:
        seen.append(name)
        return digits.Images(TRAIN, torch.tensor([0, 1, 2, 0, 1, 2]), TEST, torch.tensor([2, 1, 0, 1]), NAMES)

    monkeypatch.setattr(digits, "images", images)
    return seen


def test_points(tmp_path: Path, read: list[str]) -> None:
    assert torch.equal(networks.point("[1, 0.5]", "mnist-mlp"), torch.tensor([1, 0.5], dtype=torch.float64))
    assert torch.equal(networks.point("test:3", "fashion-mnist-cnn:4"), TEST[3])
    assert torch.equal(networks.point("train:5", "mine.py:make"), TRAIN[5])
    assert torch.equal(networks.point("mean:1", "mnist-mlp"), (TRAIN[1] + TRAIN[4]) / 2)
    assert read == ["fashion-mnist", "mnist", "mnist"]
    np.save(tmp_path / "p.npy", np.array([3.0, 4.0]))
    assert networks.point(str(tmp_path / "p.npy"), "m").tolist() == [3, 4]
    for wrong, last in (("test:4", "test:3"), ("train:6", "train:5"), ("mean:3", "mean:2")):
        with pytest.raises(pc.InputError, match=f"'{wrong}': the last one is {last}"):
            networks.point(wrong, "mnist-mlp")
    with pytest.raises(pc.InputError, match="'stories15m' is no network of these"):
        networks.point("test:0", "stories15m")


def test_inputs(tmp_path: Path) -> None:
    rows, labels = networks.inputs(["test:1-2", "train:0", "test:3"], "mnist-mlp")
    assert torch.equal(rows, torch.stack([TEST[1], TEST[2], TRAIN[0], TEST[3]]))
    assert labels == ["one", "zero", "zero", "one"]
    np.save(tmp_path / "p.npy", np.eye(2))
    rows, labels = networks.inputs([str(tmp_path / "p.npy")], "m")
    assert (rows.tolist(), labels) == ([[1, 0], [0, 1]], None)
    (tmp_path / "t.txt").write_text("one\n\ntwo\n")
    assert networks.inputs([str(tmp_path / "t.txt"), "three"], "m") == (["one", "two", "three"], None)
    for wrong in ("test:0-4", "test:2-1"):
        with pytest.raises(pc.InputError, match=rf"'{wrong}': the pictures are test:0-3, the smaller number first"):
            networks.inputs([wrong], "mnist-mlp")
    with pytest.raises(pc.InputError, match="'elsewhere' is no range of pictures"):
        networks.inputs(["test:0", "elsewhere"], "mnist-mlp")
    with pytest.raises(pc.InputError, match=r"one .npy file of rows is read, not a.npy, b.npy"):
        networks.inputs(["a.npy", "b.npy"], "m")


def test_networks_of_the_studies_are_named_by_data_kind_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def trained(*arguments: Any, **options: Any) -> torch.nn.Module:
        asked.append((arguments, options))
        return torch.nn.Linear(2, 2).eval()

    monkeypatch.setattr(digits, "trained", trained)
    networks.open_network("fashion-mnist-cnn:7", Opening())
    networks.open_network("mnist-residual", Opening())
    assert asked == [
        (("cnn", "fashion-mnist"), {"seed": 7, "progress": True}), (("residual", "mnist"), {"seed": 0, "progress": True}),
    ]  # fmt: skip
    monkeypatch.setattr(pc, "load", lambda name, **options: (name, options["dtype"]))
    assert networks.open_network("stories15m", Opening(dtype="float64")) == ("stories15m", "float64")
    assert networks.open_network("some/one", Opening()) == ("some/one", "float32")


def test_a_network_of_a_file_is_in_evaluation_mode_and_may_import_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("WIDTH = 3\n")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nfrom neighbour_of_mine import WIDTH\n"
        "made = nn.Sequential(nn.Linear(2, WIDTH), nn.Dropout())\ndef make():\n    return nn.Linear(2, WIDTH + 1)\n"
    )
    before = list(sys.path)
    monkeypatch.setattr(networks, "is_typed", lambda _: True)
    opened = networks.open_network(f"{tmp_path / 'mine.py'}:made", Opening())
    assert not any(module.training for module in opened.module.modules())
    assert opened.module[0].out_features == 3  # type: ignore[index]
    assert networks.open_network(f"{tmp_path / 'mine.py'}:make", Opening()).module.out_features == 4
    assert sys.path == before
    with pytest.raises(pc.InputError, match=r"unknown name in .*'mak'; did you mean 'make'"):
        networks.open_network(f"{tmp_path / 'mine.py'}:mak", Opening())


def test_labels_are_those_of_the_file_or_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a\n b \n\n")
    assert polytope._read_rows(["test:0"], "mnist-mlp", None)[1] == ["two"]
    assert polytope._read_rows(["test:0"], "mnist-mlp", tmp_path / "l.txt")[1] == ["a", "b"]
    assert polytope._class_numbers(["10", "2"], "m") == [10, 2]
    assert polytope._class_numbers(["two", "zero"], "fashion-mnist-mlp:3") == [2, 0]
    with pytest.raises(pc.InputError, match="from 0; label 2 is 'x'"):
        polytope._class_numbers(["1", "x"], "m")


def asked(line: str, monkeypatch: pytest.MonkeyPatch, layers: tuple[str, ...] = ()) -> tuple[Any, ...]:
    model = Asking()
    model.sites.layers = layers
    monkeypatch.setattr(polytope, "open_network", lambda *_: model)
    monkeypatch.setattr(polytope, "point", lambda spec, _: spec)
    with pytest.raises(Asked) as caught:
        main(["polytope", *line.split()])
    return caught.value.args


SEGMENT = {"start": None, "method": "exact", "samples": 1000, "limit": 1_000_000, "dtype": "float32"}
PLANE = {"box": None, "start": None, "names": None, "progress": True}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("segment N a b", ("segment", ("a", "b"), SEGMENT)),
        ("segment N a b --start 1 --method sampled --samples 5 --limit 6 --dtype float64",
         ("segment", ("a", "b"), {"start": "1", "method": "sampled", "samples": 5, "limit": 6, "dtype": "float64"})),
        ("segment N a b --dtype bfloat16", ("segment", ("a", "b"), {**SEGMENT, "dtype": None})),
        ("plane N", ("plane", (None,), {**PLANE, "max_regions": 50_000, "force": False})),
        ("plane N a b c --box 2 --start 1 --max-regions 7 --force",
         ("plane", (["a", "b", "c"],), {"box": 2.0, "start": "1", "names": ["a", "b", "c"], "progress": True, "max_regions": 7, "force": True})),
        ("plane N --box 1 2 3 4 --lines 5", ("raster", (None,), {**PLANE, "box": ((1.0, 2.0), (3.0, 4.0)), "lines": 5})),
    ],
)  # fmt: skip
def test_what_is_said_of_points_is_what_is_asked(line: str, wanted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(line, monkeypatch) == wanted


def test_what_is_said_of_rows_is_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    name, (rows, site), options = asked("codes mnist-mlp test:0-1 --site 1 --site 3", monkeypatch)
    assert (name, rows.tolist(), site, options) == (
        "spline_codes",
        TEST[:2].tolist(),
        ["1", "3"],
        {"labels": ["two", "one"]},
    )
    _, (texts, site), options = asked("codes M text --at 1:3", monkeypatch, layers=("0",))
    assert (texts, site, options) == (["text"], None, {"labels": None, "at": slice(1, 3)})
    line = "cluster mnist-mlp test:0 --layer 1 --k 4 --algorithm ward --pca 5 --seed 6"
    _, (_, layer), options = asked(line, monkeypatch)
    assert layer == "1"
    assert options == {"labels": ["two"], "progress": True, "k": 4, "pca": 5, "seed": 6, "algorithms": ["ward"]}
    _, _, options = asked("cluster M text --layer 1", monkeypatch, layers=("0",))
    assert options == {"labels": None, "progress": True, "k": None, "pca": 50, "seed": 0, "at": "rest"}
    name, (_, site), options = asked("scale mnist-mlp test:0 --site 1:out --factor 0.5 2 --seed 3 --at 1", monkeypatch)
    assert (name, site) == ("scaling", ["1:out"])
    assert options == {"labels": [2], "at": 1, "seed": 3, "progress": True, "factors": [0.5, 2.0]}
    _, _, options = asked("scale M text --site resid_post.1", monkeypatch, layers=("0",))
    assert options == {"labels": None, "at": "all", "seed": 0, "progress": True}
